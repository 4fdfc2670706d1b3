"""What Workspaces, Projects and Environments share: finalizer, waiting, names, deleting what is below. Pure."""

from __future__ import annotations

from datetime import datetime

from switchgear_model import labels
from switchgear_model.conditions import Reason
from switchgear_model.kinds import ACTIVE, DELETING, ERROR, Meta, short_name
from switchgear_operator.actions import Action, AddFinalizer, Decision, Delete, RemoveFinalizer
from switchgear_operator.decide.outcome import RECHECK_REFERENCE, Mood, Outcome, listing, status_of, waiting_for
from switchgear_operator.kube.refs import Ref
from switchgear_operator.snapshot import ParentSnapshot


def has_finalizer(meta: Meta) -> bool:
    """Whether our finalizer is on the object."""
    return labels.FINALIZER in meta.finalizers


def name_taken(state: str, name: str, parent: str, holder: Meta) -> Outcome:
    """Two siblings of one short name: the younger one stalls."""
    message = (
        f"The name {name!r} in {parent} is taken by {holder.name}, which is older. "
        "Give this object another displayName, or delete one of the two."
    )
    return Outcome(state, False, Reason.NAME_TAKEN, message, Mood.STALLED)


def alive(snapshot: ParentSnapshot, now: datetime) -> Decision:
    """A Project or Environment that is not being deleted."""
    obj, parent = snapshot.obj, snapshot.parent
    actions: tuple[Action, ...] = () if has_finalizer(obj.meta) else (AddFinalizer(),)
    waiting = waiting_for(parent, ERROR) if parent is not None else None
    if waiting is not None:
        return Decision(actions, status_of(obj, waiting, now), again=RECHECK_REFERENCE)
    if snapshot.holder is not None and parent is not None:
        where = f"{parent.kind} {parent.name}"
        return Decision(
            actions, status_of(obj, name_taken(ERROR, short_name(obj), where, snapshot.holder), now), again=None
        )
    return Decision(actions, status_of(obj, active(), now))


def active() -> Outcome:
    """A parent that is in order."""
    return Outcome(ACTIVE, True, Reason.ACTIVE, "", Mood.RESTING)


def deletion(snapshot: ParentSnapshot, now: datetime) -> Decision:
    """Deletes what refers to it, waits until that is gone, then lets go."""
    obj = snapshot.obj
    if not has_finalizer(obj.meta):
        return Decision()
    if not snapshot.below:
        return Decision((RemoveFinalizer(),))
    actions = tuple(
        Delete(Ref(child.kind, child.meta.namespace, child.meta.name), child.meta.uid)
        for child in snapshot.below
        if child.meta.deleting is None
    )
    names = listing(f"{child.kind} {child.meta.name}" for child in snapshot.below)
    message = f"Waiting for what is below to be deleted: {names}."
    outcome = Outcome(DELETING, False, Reason.WAITING_FOR_CHILDREN, message, Mood.RECONCILING)
    return Decision(actions, status_of(obj, outcome, now), again=RECHECK_REFERENCE)
