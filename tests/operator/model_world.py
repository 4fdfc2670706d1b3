"""A model of what carrying out actions does to a service's world: enough to ask what deciding converges to.

It is no Kubernetes: test_lifecycle.py asks the real one. It lets thousands of starting states be tried.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from switchgear_model import credentials, labels
from switchgear_model.conditions import Reason
from switchgear_model.kinds import Service, Status
from switchgear_operator import actions as a
from switchgear_operator.actions import Decision
from switchgear_operator.decide import decide
from switchgear_operator.preflight.results import CleanupResult, ProbeResult
from switchgear_operator.preflight.url import Target, target
from switchgear_operator.snapshot import Children, EdgeAnswer, JobView, ServiceSnapshot
from switchgear_operator.specs import secrets
from switchgear_operator.specs.common import owned_by

SLOTS = {
    "Secret": ("secret", "key", "database"),
    "PersistentVolumeClaim": ("pvc",),
    "StatefulSet": ("statefulset",),
    "Service": ("service",),
    "NetworkPolicy": ("network_policy",),
    "Pod": ("pod",),
}
START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def merged(target: Any, patch: Any) -> Any:
    """JSON merge patch."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def overlaid(target: Any, body: Any) -> Any:
    """Apply, as far as our comparison can tell: what we want is so, what others added stays."""
    if isinstance(body, Mapping):
        result = dict(target) if isinstance(target, Mapping) else {}
        return result | {key: overlaid(result.get(key), value) for key, value in body.items()}
    return copy.deepcopy(body)


@dataclass
class World:
    """`probe` and `cleanup`: what the database will answer; `edge`: is there one; `pods`: do they start."""

    snapshot: ServiceSnapshot
    probe: ProbeResult
    cleanup: CleanupResult
    edge: bool = True
    pods: bool = True
    now: datetime = START
    gone: bool = False
    decisions: list[Decision] = field(default_factory=list)
    serial: int = 100
    #: Databases with a slot of ours, and those in which an Event said that it was left.
    slots: set[Target] = field(default_factory=set)
    left: set[Target] = field(default_factory=set)
    _cleaned: str | None = None

    def step(self) -> Decision:
        """One reconcile and everything Kubernetes does after it."""
        decision = decide(self.snapshot, self.now)
        while decision.needs:
            decision = decide(replace(self.snapshot, edges=self._edges()), self.now)
        self.decisions.append(decision)
        for action in decision.actions:
            self._do(action)
        if decision.status is not None:
            self._set(obj=replace(self.snapshot.obj, status=decision.status))
        self._controllers()
        self.now += timedelta(seconds=max(decision.again or 0, 1))
        return decision

    def run(self, rounds: int = 60) -> bool:
        """Steps until nothing changes any more, or for so many rounds; whether the last one changed nothing."""
        quiet = False
        for _ in range(rounds):
            before = self.snapshot
            decision = self.step()
            if self.gone:
                return True
            loud = any(not isinstance(action, a.QUIET) for action in decision.actions)
            quiet = not loud and self.snapshot.obj.status == before.obj.status
            if quiet and decision.again is None and self.snapshot == before:
                return True
        return quiet

    def child(self, name: str) -> dict[str, Any] | None:
        found = getattr(self.snapshot.children, name)
        return dict(found) if found is not None else None

    def copied(self) -> str | None:
        """The URL in the operator's copy."""
        return secrets.read(self.snapshot.children.database, labels.DATABASE_URL_KEY)

    def _set(self, **changes: Any) -> None:
        self.snapshot = replace(self.snapshot, **changes)

    def _put(self, name: str, value: Mapping[str, Any] | None) -> None:
        self._set(children=replace(self.snapshot.children, **{name: value}))

    def _slot(self, ref: a.Ref) -> str:
        names = SLOTS[ref.kind]
        if len(names) == 1:
            return names[0]
        return "database" if ref.name.endswith("-database") else "key" if ref.name.endswith("-key") else "secret"

    def _meta(self, **changes: Any) -> None:
        obj: Service = self.snapshot.obj
        self._set(obj=replace(obj, meta=replace(obj.meta, **changes)))

    def _do(self, action: a.Action) -> None:
        obj = self.snapshot.obj
        match action:
            case a.AddFinalizer():
                self._meta(finalizers=(*obj.meta.finalizers, labels.FINALIZER))
            case a.RemoveFinalizer():
                self._meta(finalizers=tuple(f for f in obj.meta.finalizers if f != labels.FINALIZER))
                self.gone = True
            case a.Apply(ref, body, uid):
                live = self.child(self._slot(ref))
                assert (uid is None) == (live is None), "an apply must know whether the object exists"
                assert live is None or live["metadata"]["uid"] == uid
                self._write(self._slot(ref), overlaid(live, body))
            case a.Create(ref, body):
                if self.child(self._slot(ref)) is None:
                    self._write(self._slot(ref), copy.deepcopy(dict(body)))
            case a.CreateServiceSecret(ref, body, service_id):
                if self.child(self._slot(ref)) is None:
                    secret = credentials.new_service_secret(service_id, self.now)
                    data = secrets.encode({labels.SERVICE_SECRET_KEY: secret})
                    self._write(self._slot(ref), {**copy.deepcopy(dict(body)), "data": data})
            case a.Merge(ref, patch, uid, _):
                live = self.child(self._slot(ref))
                assert live is not None and live["metadata"]["uid"] == uid
                self._write(self._slot(ref), merged(live, patch))
                self._collect(self._slot(ref))
            case a.Delete(ref, uid):
                name = self._slot(ref)
                live = self.child(name)
                assert live is not None and live["metadata"]["uid"] == uid
                live["metadata"] = live["metadata"] | {"deletionTimestamp": "2026-11-23T12:00:00Z"}
                self._put(name, live)
                self._collect(name)
            case a.StartProbe():
                self._set(probe=self._ran(self.snapshot.probe, self.probe))
            case a.StartCleanup():
                pod = self.child("pod")
                assert pod is None or not owned_by(pod, obj.meta.uid), "a slot is dropped once its pod has gone"
                self._cleaned = action.url
                self._set(cleanup=self._ran(self.snapshot.cleanup, self.cleanup))
                if self.cleanup.fault is None:
                    self.slots.discard(target(action.url))
            case a.ForgetCleanup():
                self._set(cleanup=None)
            case a.Emit(_, reason, _) if reason in (Reason.ABANDONED, Reason.ORPHANED):
                self.left.add(target(self.copied() or ""))

    def _ran(self, before: JobView | None, result: Any) -> JobView:
        return JobView(False, result, self.now, (before.attempts if before else 0) + 1)

    def _write(self, name: str, body: dict[str, Any]) -> None:
        self.serial += 1
        metadata = {"uid": f"child-{self.serial}", "generation": 0} | body["metadata"]
        metadata |= {"resourceVersion": str(self.serial), "generation": metadata["generation"] + 1}
        self._put(name, body | {"metadata": metadata})

    def _collect(self, name: str) -> None:
        live = self.child(name)
        if live and live["metadata"].get("deletionTimestamp") and not live["metadata"].get("finalizers"):
            self._put(name, None)

    def _controllers(self) -> None:
        """The StatefulSet controller and the kubelet, when there is something for them."""
        for names in SLOTS.values():
            for name in names:
                self._collect(name)
        url = self.copied()
        if url is not None and url != self._cleaned:
            # A cleanup is known by the database that it was of.
            self._set(cleanup=None)
        statefulset, pod = self.child("statefulset"), self.child("pod")
        if statefulset is None:
            return
        wanted = (statefulset.get("spec") or {}).get("replicas", 1)
        revision = str(hash(str((statefulset.get("spec") or {}).get("template"))))
        if wanted == 0:
            self._put("pod", None)
        elif pod is None:
            self._put("pod", self._pod(statefulset, revision))
            if url is not None:
                self.slots.add(target(url))
        elif pod["metadata"]["labels"].get("controller-revision-hash") != revision and _ready(pod):
            self._put("pod", None)
        elif not _ready(pod) and self.pods:
            self._put("pod", pod | {"status": _READY})
        status = {
            "observedGeneration": statefulset["metadata"]["generation"],
            "replicas": wanted if wanted == 0 else 1,
            "updateRevision": revision,
        }
        self._put("statefulset", statefulset | {"status": status})

    def _pod(self, statefulset: Mapping[str, Any], revision: str) -> dict[str, Any]:
        self.serial += 1
        found = statefulset["metadata"]["labels"] | {"controller-revision-hash": revision}
        name = statefulset["metadata"]["name"] + "-0"
        metadata = {"name": name, "namespace": "ns", "uid": f"pod-{self.serial}", "labels": found}
        return {"kind": "Pod", "metadata": metadata, "spec": {"nodeName": "n"}, "status": {}}

    def _edges(self) -> tuple[EdgeAnswer, ...]:
        """What an edge says that has seen the status as it is."""
        if not self.edge:
            return ()
        status: Status = self.snapshot.obj.status
        hashes = frozenset(h.sha256 for h in status.secret_hashes)
        pod = self.child("pod")
        known = status.service_id == self.snapshot.service_id
        return (EdgeAnswer("e", known, pod is not None and _ready(pod), self.snapshot.obj.meta.uid, hashes),)


_READY = {"conditions": [{"type": "Ready", "status": "True"}]}


def _ready(pod: Mapping[str, Any]) -> bool:
    return bool((pod.get("status") or {}).get("conditions"))


def empty(children: Children) -> bool:
    return not children.present()
