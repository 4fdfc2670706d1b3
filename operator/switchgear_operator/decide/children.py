"""A service's children: which must be made or changed, and what their pod is doing. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from switchgear_model import ids, labels
from switchgear_model.credentials import sha256_hex
from switchgear_model.kinds import SecretHash
from switchgear_operator.actions import Action, Apply, Create, CreateServiceSecret, Delete, Merge
from switchgear_operator.kube.refs import Ref
from switchgear_operator.preflight.url import ports
from switchgear_operator.snapshot import Children, ServiceSnapshot
from switchgear_operator.specs import network, secrets, storage, workload
from switchgear_operator.specs.common import Json, drifted, owned_by

_UNITS: Final = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "": 1}


@dataclass(frozen=True, slots=True)
class DatabaseUrls:
    """What the operator's own copy must hold."""

    url: str
    pooled_url: str | None


def own(children: Children, uid: str) -> Children:
    """The children without those that belong to somebody else."""

    def mine(child: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        return child if child is not None and owned_by(child, uid) else None

    return Children(
        secret=mine(children.secret),
        key=mine(children.key),
        database=mine(children.database),
        pvc=mine(children.pvc),
        statefulset=mine(children.statefulset),
        service=mine(children.service),
        network_policy=mine(children.network_policy),
        pod=mine(children.pod),
    )


def foreign(children: Children, uid: str) -> list[Mapping[str, Any]]:
    """Children under our names that belong to somebody else."""
    return [child for child in children.present() if not owned_by(child, uid)]


def secret_hashes(children: Children) -> tuple[SecretHash, ...]:
    """Hashes of the valid service secrets; none before the Secret exists."""
    value = secrets.read(children.secret, labels.SERVICE_SECRET_KEY)
    return (SecretHash(sha256_hex(value)),) if value else ()


def repairs(snapshot: ServiceSnapshot, urls: DatabaseUrls | None) -> list[Action]:
    """What must be made or changed so that the children are as they should be, in the order of dependence.

    `urls` None: the service has no database. Nothing new is made in a namespace that is being deleted.
    """
    actions = _secret_repairs(snapshot, urls) + _object_repairs(snapshot, urls)
    if snapshot.namespace_terminating:
        return [a for a in actions if isinstance(a, Merge) or (isinstance(a, Apply) and a.uid is not None)]
    return actions


def _secret_repairs(snapshot: ServiceSnapshot, urls: DatabaseUrls | None) -> list[Action]:
    obj, service_id, children = snapshot.obj, snapshot.service_id, snapshot.children
    namespace = obj.meta.namespace
    actions: list[Action] = []
    if children.secret is None:
        ref = Ref("Secret", namespace, ids.child_name(service_id))
        actions.append(CreateServiceSecret(ref, secrets.service_secret(obj, service_id), service_id))
    key_ref = Ref("Secret", namespace, ids.key_secret_name(service_id))
    if children.key is None:
        actions.append(Create(key_ref, secrets.pod_key(obj, service_id, snapshot.pod_key)))
    elif secrets.read(children.key, labels.POD_KEY_KEY) != snapshot.pod_key:
        # The region has another key now: the Secret is made anew in the next round.
        actions.append(Delete(key_ref, children.key["metadata"]["uid"]))
    if urls is not None:
        actions += _database_repairs(snapshot, urls)
    return actions


def _database_repairs(snapshot: ServiceSnapshot, urls: DatabaseUrls) -> list[Action]:
    copy = snapshot.children.database
    ref = Ref("Secret", snapshot.obj.meta.namespace, ids.database_secret_name(snapshot.service_id))
    body = secrets.database(snapshot.obj, snapshot.service_id, urls.url, urls.pooled_url)
    if copy is None:
        return [Create(ref, body)]
    metadata = copy["metadata"]
    patch: Json = {}
    if (copy.get("data") or {}) != body["data"]:
        gone = dict.fromkeys(set(copy.get("data") or {}) - set(body["data"]))
        patch["data"] = body["data"] | gone
    finalizers = metadata.get("finalizers") or []
    if labels.SLOT_FINALIZER not in finalizers and metadata.get("deletionTimestamp") is None:
        patch["metadata"] = {"finalizers": [*finalizers, labels.SLOT_FINALIZER]}
    return [Merge(ref, patch, metadata["uid"], metadata["resourceVersion"])] if patch else []


def _object_repairs(snapshot: ServiceSnapshot, urls: DatabaseUrls | None) -> list[Action]:
    obj, service_id, children = snapshot.obj, snapshot.service_id, snapshot.children
    database_ports = sorted({*ports(urls.url), *ports(urls.pooled_url)}) if urls else []
    values = {"key": snapshot.pod_key}
    if urls is not None:
        values |= {"url": urls.url} | ({"pooledUrl": urls.pooled_url} if urls.pooled_url is not None else {})
    checksum = secrets.checksum(snapshot.pod_key, values)
    wanted: list[tuple[Json, Mapping[str, Any] | None]] = [
        (_grown(storage.claim(obj, service_id), children.pvc), children.pvc),
        (network.headless_service(obj, service_id), children.service),
        (network.policy(obj, service_id, snapshot.config, database_ports), children.network_policy),
        (workload.statefulset(obj, service_id, snapshot.config, checksum), children.statefulset),
    ]
    actions: list[Action] = []
    for body, live in wanted:
        ref = Ref(body["kind"], obj.meta.namespace, body["metadata"]["name"])
        if live is None:
            actions.append(Apply(ref, body, None))
        elif drifted(body, live) and live["metadata"].get("deletionTimestamp") is None:
            actions.append(Apply(ref, body, live["metadata"]["uid"]))
    return actions


def _grown(claim: Json, live: Mapping[str, Any] | None) -> Json:
    """The claim, with the live size where that is larger or the same in other words: volumes never shrink."""
    if live is None:
        return claim
    wanted = claim["spec"]["resources"]["requests"]["storage"]
    present = (live.get("spec", {}).get("resources", {}).get("requests") or {}).get("storage")
    if present is None or quantity(present) < quantity(wanted):
        return claim
    spec = claim["spec"] | {"resources": {"requests": {"storage": present}}}
    return claim | {"spec": spec}


def quantity(text: str) -> float:
    """Bytes of a storage quantity with a binary unit or none; 0 for what we do not write ourselves."""
    number, unit = text.rstrip("KMGTPi"), text[len(text.rstrip("KMGTPi")) :]
    try:
        return float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        return 0.0


@dataclass(frozen=True, slots=True)
class PodState:
    """`ready`: the pod serves, in the revision that is wanted. `stale`: unready and of an old revision.

    `message` says what is going on, without anything the container wrote itself.
    """

    ready: bool
    stale: bool
    message: str


def pod_state(children: Children) -> PodState:
    """What the service's pod is doing."""
    pod, statefulset = children.pod, children.statefulset
    if pod is None:
        return PodState(False, False, "The pod has not been created yet.")
    if pod["metadata"].get("deletionTimestamp") is not None:
        return PodState(False, False, "The pod is being replaced.")
    current = _is_current(pod, statefulset)
    status = pod.get("status") or {}
    ready = any(k.get("type") == "Ready" and k.get("status") == "True" for k in status.get("conditions") or [])
    if ready and current:
        return PodState(True, False, "")
    if ready:
        return PodState(False, False, "The pod is about to be replaced by one of the new revision.")
    return PodState(False, not current, _pod_message(pod, status, children.pvc))


def _is_current(pod: Mapping[str, Any], statefulset: Mapping[str, Any] | None) -> bool:
    """Whether the pod is of the newest revision; True while the controller has not said which one that is."""
    if statefulset is None:
        return True
    status = statefulset.get("status") or {}
    if status.get("observedGeneration", 0) < statefulset["metadata"].get("generation", 0):
        return True
    wanted = status.get("updateRevision")
    return not wanted or (pod["metadata"].get("labels") or {}).get("controller-revision-hash") == wanted


def _pod_message(pod: Mapping[str, Any], status: Mapping[str, Any], claim: Mapping[str, Any] | None) -> str:
    if not (pod.get("spec") or {}).get("nodeName"):
        if claim is not None and (claim.get("status") or {}).get("phase") == "Pending":
            name = str(claim["metadata"]["name"])
            return f"The volume claim {name} is Pending, and the pod waits for it: see kubectl describe pvc {name}."
        return "The pod waits for a node: see kubectl describe pod " + str(pod["metadata"]["name"]) + "."
    for container in status.get("containerStatuses") or []:
        state = container.get("state") or {}
        restarts = container.get("restartCount") or 0
        again = f", restarted {restarts} times" if restarts else ""
        logs = f" See kubectl logs {pod['metadata']['name']}."
        if waiting := state.get("waiting"):
            return (
                f"The container waits: {str(waiting.get('reason', 'unknown'))[:80]}{again}.{logs if restarts else ''}"
            )
        if terminated := state.get("terminated"):
            return f"The container ended with status {terminated.get('exitCode')}{again}.{logs}"
        if state.get("running") is not None:
            return f"The container runs and is not ready yet{again}.{logs if restarts else ''}"
    return "The pod is starting."
