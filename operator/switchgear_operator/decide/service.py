"""What the two service kinds have in common: claims, children, activation, deletion. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from switchgear_model import conditions as c
from switchgear_model import ids, labels
from switchgear_model.conditions import Condition, Reason
from switchgear_model.kinds import (
    ACTIVE,
    DEGRADED,
    DELETING,
    ERROR,
    PENDING,
    PROVISIONING,
    STREAMS_SERVICE,
    SecretKeyRef,
    short_name,
)
from switchgear_operator.actions import (
    QUIET,
    Action,
    AddFinalizer,
    Decision,
    Delete,
    ForgetCleanup,
    Merge,
    RemoveFinalizer,
)
from switchgear_operator.decide import children as ch
from switchgear_operator.decide.outcome import (
    RECHECK_REFERENCE,
    Mood,
    Outcome,
    ServiceFields,
    status_of,
    waiting_for,
)
from switchgear_operator.decide.parents import has_finalizer, name_taken
from switchgear_operator.kube.refs import Ref, ref_of
from switchgear_operator.snapshot import EdgeAnswer, Need, ServiceSnapshot

#: How long a pod may be away before the service counts as degraded: a restart is no incident.
DEGRADED_AFTER: Final = 20.0
#: A claim on a given id is settled once every claimant of the same second must have been seen.
CLAIM_SETTLES: Final = 2.0
_ASK_EDGES_AGAIN: Final = 0.3
_LOOK_AGAIN: Final = 1.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """What stands before the children: `blocked` while nothing may be made.

    `urls` is what the database copy must hold (None: no database); `problem` shows on a service that runs.
    """

    blocked: Outcome | None = None
    problem: Outcome | None = None
    urls: ch.DatabaseUrls | None = None
    checks: tuple[Condition, ...] = ()
    actions: tuple[Action, ...] = ()
    again: float | None = None


Prepare = Callable[[ServiceSnapshot, datetime], Prepared]
Release = Callable[[ServiceSnapshot, datetime], "Released"]


@dataclass(frozen=True, slots=True)
class Released:
    """Where letting go of the database stands: `outcome` None once nothing is left to drop."""

    outcome: Outcome | None = None
    actions: tuple[Action, ...] = ()
    again: float | None = None


def decide(snapshot: ServiceSnapshot, now: datetime, prepare: Prepare, release: Release) -> Decision:
    """The whole life of a service; `prepare` and `release` are what its kind adds."""
    if snapshot.obj.meta.deleting is not None:
        return _deletion(snapshot, now, release)
    if not has_finalizer(snapshot.obj.meta):
        outcome = Outcome(PENDING, False, Reason.PROVISIONING, "Being set up.", Mood.RECONCILING)
        return Decision((AddFinalizer(),), status_of(snapshot.obj, outcome, now))
    claimed = _claims(snapshot, now)
    if claimed is not None:
        return claimed
    if not snapshot.readable:
        return _no_rights(snapshot, now)
    prepared = prepare(snapshot, now)
    if prepared.blocked is not None:
        status = status_of(snapshot.obj, prepared.blocked, now, _fields(snapshot))
        return Decision(prepared.actions, status, again=prepared.again)
    return _run(snapshot, now, prepared)


def _no_rights(snapshot: ServiceSnapshot, now: datetime) -> Decision:
    """The Workspace puts the binding back; until then nothing can be said of Secrets. What runs stays as it is."""
    if provisioned(snapshot):
        return Decision(again=RECHECK_REFERENCE)
    message = f"Waiting for RoleBinding {labels.OPERATOR_SECRETS_ROLE}, which the operator makes for the Workspace."
    outcome = Outcome(PENDING, False, Reason.RIGHTS_MISSING, message, Mood.RECONCILING)
    return Decision(status=status_of(snapshot.obj, outcome, now), again=RECHECK_REFERENCE)


def provisioned(snapshot: ServiceSnapshot) -> bool:
    """Whether it runs, or ran, already: then a missing reference is no reason to stop."""
    return snapshot.children.statefulset is not None


def _claims(snapshot: ServiceSnapshot, now: datetime) -> Decision | None:
    """Everything that may keep a service from being made: id, region, foreign children, parent, name."""
    obj = snapshot.obj
    if snapshot.id_holder is not None:
        where = f"{snapshot.id_holder.namespace}/{snapshot.id_holder.name}"
        message = (
            f"serviceId {snapshot.service_id} is held by {where}, which is older. Delete one of the two; serviceId is "
            "immutable, so create this one anew without it or with another."
        )
        outcome = Outcome(ERROR, False, Reason.SERVICE_ID_TAKEN, message, Mood.STALLED)
        # Without the published fields: the edge must not see two services of one id.
        return Decision(status=status_of(obj, outcome, now))
    if obj.spec.region is not None and obj.spec.region != snapshot.config.region:
        message = f"There is no region {obj.spec.region!r} here. Known: {snapshot.config.region}. Region is immutable: "
        message += "create the object anew with a known region, or without one."
        return _stalled(snapshot, now, Reason.UNKNOWN_REGION, message)
    others = ch.foreign(snapshot.children, obj.meta.uid)
    if others:
        return _conflict(snapshot, now, ref_of(others[0]), bool(_owner_label(others[0])))
    if provisioned(snapshot):
        return None
    if obj.spec.service_id is not None:
        created = c.parse_timestamp(obj.meta.created)
        age = (now - created).total_seconds() if created else CLAIM_SETTLES
        if age < CLAIM_SETTLES:
            outcome = Outcome(PENDING, False, Reason.PROVISIONING, "The claim on serviceId settles.", Mood.RECONCILING)
            return Decision(status=status_of(obj, outcome, now), again=max(CLAIM_SETTLES - age, 0.1))
    waiting = waiting_for(snapshot.parent, PENDING)
    if waiting is not None:
        return Decision(status=status_of(obj, waiting, now), again=RECHECK_REFERENCE)
    if snapshot.name_holder is not None:
        where = f"{snapshot.parent.kind} {snapshot.parent.name}"
        taken = name_taken(ERROR, short_name(obj), where, snapshot.name_holder)
        return Decision(status=status_of(obj, taken, now))
    if snapshot.namespace_terminating:
        outcome = Outcome(
            PENDING, False, Reason.NAMESPACE_TERMINATING, "The namespace is being deleted.", Mood.RECONCILING
        )
        return Decision(status=status_of(obj, outcome, now), again=RECHECK_REFERENCE)
    return None


def _owner_label(child: Mapping[str, Any]) -> str | None:
    value = (child["metadata"].get("labels") or {}).get(labels.OWNER_UID)
    return str(value) if value else None


def _stalled(snapshot: ServiceSnapshot, now: datetime, reason: Reason, message: str) -> Decision:
    outcome = Outcome(ERROR, False, reason, message, Mood.STALLED)
    return Decision(status=status_of(snapshot.obj, outcome, now))


def _conflict(snapshot: ServiceSnapshot, now: datetime, ref: Ref, has_owner: bool) -> Decision:
    if has_owner:
        message = f"Waiting for {ref} of the service that had this id before to be removed."
        outcome = Outcome(PENDING, False, Reason.RESOURCE_CONFLICT, message, Mood.RECONCILING)
    else:
        message = f"{ref} exists and is not ours. Delete it, or rename it, so that this service can have it."
        outcome = Outcome(ERROR, False, Reason.RESOURCE_CONFLICT, message, Mood.STALLED)
    return Decision(status=status_of(snapshot.obj, outcome, now), again=RECHECK_REFERENCE)


def _fields(snapshot: ServiceSnapshot) -> ServiceFields:
    """What is published about the service: nothing before its secret exists."""
    hashes = ch.secret_hashes(snapshot.children)
    if not hashes:
        return ServiceFields(service_id=snapshot.service_id)
    path = f"/v1/stream/{snapshot.service_id}" if snapshot.obj.kind == STREAMS_SERVICE else "/v1/shape"
    return ServiceFields(
        service_id=snapshot.service_id,
        url=snapshot.config.public_url + path,
        secret_ref=SecretKeyRef(ids.child_name(snapshot.service_id), labels.SERVICE_SECRET_KEY),
        secret_hashes=hashes,
    )


def _run(snapshot: ServiceSnapshot, now: datetime, prepared: Prepared) -> Decision:
    """Children in order, then activation."""
    obj, children = snapshot.obj, snapshot.children
    fields = _fields(snapshot)
    was_up = obj.status.state in (ACTIVE, DEGRADED)
    if children.secret is not None and not fields.secret_hashes:
        ref = f"Secret {ids.child_name(snapshot.service_id)}"
        message = f"{ref} has no key {labels.SERVICE_SECRET_KEY!r} any more. Delete the Secret to get a new secret."
        return _stalled(snapshot, now, Reason.SECRET_INVALID, message)
    actions = [*_forget_cleanup(snapshot), *prepared.actions, *ch.repairs(snapshot, prepared.urls)]
    pod = ch.pod_state(children)
    if pod.stale and children.pod is not None:
        metadata = children.pod["metadata"]
        actions.append(Delete(Ref("Pod", obj.meta.namespace, metadata["name"]), metadata["uid"]))
    checks = (
        *prepared.checks,
        c.true(c.POD_READY, Reason.POD_READY) if pod.ready else c.false(c.POD_READY, Reason.POD_NOT_READY, pod.message),
    )
    if not pod.ready:
        outcome, again = _not_ready(snapshot, now, pod.message, was_up)
    elif obj.status.state == ACTIVE and c.is_true(obj.status.conditions, c.READY):
        outcome, again = _active(), None
    elif any(not isinstance(action, QUIET) for action in actions) or not _published(snapshot, fields):
        # The edges can know only what is written already.
        outcome, again = _provisioning(DEGRADED if was_up else PROVISIONING, "Being set up."), _ASK_EDGES_AGAIN
    elif snapshot.edges is None:
        return Decision(needs=frozenset({Need.EDGES}))
    else:
        outcome, again = _edges_say(snapshot.edges, obj.meta.uid, fields, DEGRADED if was_up else PROVISIONING)
    outcome, again = _overruled(snapshot, prepared, outcome), _sooner(again, prepared.again)
    status = status_of(obj, replace(outcome, checks=checks), now, fields)
    return Decision(tuple(actions), status, again=again)


def _overruled(snapshot: ServiceSnapshot, prepared: Prepared, outcome: Outcome) -> Outcome:
    """Problems that show although the service runs on."""
    if snapshot.name_holder is not None:
        where = f"{snapshot.parent.kind} {snapshot.parent.name}"
        return name_taken(ERROR, short_name(snapshot.obj), where, snapshot.name_holder)
    if prepared.problem is not None:
        return prepared.problem
    return outcome


def _active() -> Outcome:
    return Outcome(ACTIVE, True, Reason.ACTIVE, "", Mood.RESTING)


def _provisioning(state: str, message: str) -> Outcome:
    return Outcome(state, False, Reason.PROVISIONING, message, Mood.RECONCILING)


def _published(snapshot: ServiceSnapshot, fields: ServiceFields) -> bool:
    status = snapshot.obj.status
    return (status.service_id, status.url, status.secret_hashes) == (
        fields.service_id,
        fields.url,
        fields.secret_hashes,
    )


def _not_ready(snapshot: ServiceSnapshot, now: datetime, message: str, was_up: bool) -> tuple[Outcome, float | None]:
    """Before the first activation: provisioning. Later: active for a while, then degraded."""
    obj = snapshot.obj
    if not was_up:
        return _provisioning(PROVISIONING, message), None
    degraded = Outcome(DEGRADED, False, Reason.POD_NOT_READY, message, Mood.RECONCILING)
    if obj.status.state == DEGRADED:
        return degraded, None
    before = c.find(obj.status.conditions, c.POD_READY)
    since = c.parse_timestamp(before.last_transition_time) if before and before.status == "False" else None
    away = (now - since).total_seconds() if since else 0.0
    if away >= DEGRADED_AFTER:
        return degraded, None
    return _active(), DEGRADED_AFTER - away + 0.5


def _edges_say(
    edges: tuple[EdgeAnswer, ...], uid: str, fields: ServiceFields, state: str
) -> tuple[Outcome, float | None]:
    """Active once every ready edge would serve it with the current secret."""
    if not edges:
        message = "No edge is ready. In a cluster: see the edge's pods; else the operator's --edge-url."
        return Outcome(state, False, Reason.EDGE_UNAVAILABLE, message, Mood.RECONCILING), _LOOK_AGAIN
    hashes = {h.sha256 for h in fields.secret_hashes}
    behind = [e for e in edges if not (e.known and e.pod_ready and e.uid == uid and hashes <= e.secret_hashes)]
    if behind:
        why = f" ({behind[0].problem})" if behind[0].problem else ""
        message = f"{len(behind)} of {len(edges)} edges do not route to it yet{why}."
        return Outcome(state, False, Reason.EDGE_NOT_CURRENT, message, Mood.RECONCILING), _ASK_EDGES_AGAIN
    return _active(), None


def _sooner(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return first if second is None else second
    return min(first, second)


def _deletion(snapshot: ServiceSnapshot, now: datetime, release: Release) -> Decision:
    """Stop the pod, let go of the database, remove the children, let go of the object: in this order."""
    obj = snapshot.obj
    if not has_finalizer(obj.meta):
        return Decision()
    mine = replace(snapshot, children=ch.own(snapshot.children, obj.meta.uid))
    if not mine.children.present():
        return Decision((RemoveFinalizer(),))
    if not snapshot.readable and obj.meta.annotations.get(labels.ABANDON) != "true":
        # A copy of the database URL may be there, unseen: nothing is concluded from not seeing it.
        message = (
            f"RoleBinding {labels.OPERATOR_SECRETS_ROLE} is missing, so the operator cannot read the Secrets it must "
            f"clean up. Restore it, or give up with the annotation {labels.ABANDON}=true."
        )
        outcome = Outcome(DELETING, False, Reason.RIGHTS_MISSING, message, Mood.STALLED)
        return Decision(status=status_of(obj, outcome, now), again=RECHECK_REFERENCE)
    stopping = stop(mine)
    if stopping is not None:
        message = "Waiting for the pod to stop."
        outcome = Outcome(DELETING, False, Reason.WAITING_FOR_POD, message, Mood.RECONCILING)
        return Decision(stopping, status_of(obj, outcome, now, _fields(mine)), again=_LOOK_AGAIN)
    released = release(mine, now)
    if released.outcome is not None:
        status = status_of(obj, released.outcome, now, _fields(mine))
        return Decision(released.actions, status, again=released.again)
    deletes = tuple(
        Delete(ref_of(child), child["metadata"]["uid"])
        for child in mine.children.present()
        if child["metadata"].get("deletionTimestamp") is None
    )
    outcome = Outcome(DELETING, False, Reason.DELETING, "Removing what belongs to the service.", Mood.RECONCILING)
    # The published fields stay while there is something to see of the service; the edge goes by the deletion.
    return Decision(deletes, status_of(obj, outcome, now, _fields(mine)), again=_LOOK_AGAIN)


def _forget_cleanup(snapshot: ServiceSnapshot) -> tuple[Action, ...]:
    """Where a pod may run, a cleanup must not, and what an earlier one did says nothing any more."""
    return (ForgetCleanup(snapshot.obj.meta.uid),) if snapshot.cleanup is not None else ()


def stop(snapshot: ServiceSnapshot) -> tuple[Action, ...] | None:
    """Actions while the pod is not surely gone; None once it is.

    Scaling down, instead of deleting the StatefulSet, lets its controller say that it has seen the new size:
    after that it makes no pod any more that could make the slot again.
    """
    statefulset, pod = snapshot.children.statefulset, snapshot.children.pod
    actions: list[Action] = []
    settled = True
    if statefulset is not None and statefulset["metadata"].get("deletionTimestamp") is None:
        metadata, status = statefulset["metadata"], statefulset.get("status") or {}
        if (statefulset.get("spec") or {}).get("replicas") != 0:
            actions.append(Merge(ref_of(statefulset), {"spec": {"replicas": 0}}, metadata["uid"]))
        settled = (
            not actions
            and status.get("observedGeneration", 0) >= metadata.get("generation", 0)
            and not status.get("replicas")
        )
    elif pod is not None and pod["metadata"].get("deletionTimestamp") is None:
        actions.append(Delete(ref_of(pod), pod["metadata"]["uid"]))
    return None if settled and pod is None else (*_forget_cleanup(snapshot), *actions)
