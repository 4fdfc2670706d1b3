"""Workspaces: one holds its namespace, the oldest; it brings the rights to the namespace's Secrets. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from switchgear_model.conditions import Reason
from switchgear_model.kinds import ACTIVE, ERROR
from switchgear_operator.actions import Action, AddFinalizer, Apply, Decision, RemoveFinalizer
from switchgear_operator.decide import parents
from switchgear_operator.decide.outcome import RECHECK_REFERENCE, Mood, Outcome, status_of
from switchgear_operator.kube.refs import Ref
from switchgear_operator.snapshot import ParentSnapshot
from switchgear_operator.specs import roles


def decide(snapshot: ParentSnapshot, now: datetime) -> Decision:
    """A Workspace that does not hold its namespace owns nothing and, deleted, deletes nothing."""
    obj = snapshot.obj
    if obj.meta.deleting is not None:
        if snapshot.holder is not None:
            return Decision((RemoveFinalizer(),)) if parents.has_finalizer(obj.meta) else Decision()
        decision = parents.deletion(snapshot, now)
        # What is below needs the rights to clean up after itself.
        restored = _bindings(snapshot) if snapshot.below and not snapshot.namespace_terminating else ()
        return replace(decision, actions=(*restored, *decision.actions))
    if snapshot.holder is not None:
        message = (
            f"The namespace belongs to Workspace {snapshot.holder.name}, which is older: one namespace holds one "
            "Workspace. Delete this one, or create it in another namespace."
        )
        outcome = Outcome(ERROR, False, Reason.NAMESPACE_TAKEN, message, Mood.STALLED)
        return Decision(status=status_of(obj, outcome, now))
    if not parents.has_finalizer(obj.meta):
        outcome = Outcome(ERROR, False, Reason.PROVISIONING, "Being set up.", Mood.RECONCILING)
        return Decision((AddFinalizer(),), status_of(obj, outcome, now))
    missing = _bindings(snapshot)
    if missing and snapshot.namespace_terminating:
        outcome = Outcome(
            ERROR, False, Reason.NAMESPACE_TERMINATING, "The namespace is being deleted.", Mood.RECONCILING
        )
        return Decision(status=status_of(obj, outcome, now), again=RECHECK_REFERENCE)
    if missing:
        outcome = Outcome(ERROR, False, Reason.PROVISIONING, "Rights in the namespace are set up.", Mood.RECONCILING)
        # Putting a binding back is no reason to show an active workspace as broken.
        return Decision(missing, None if obj.status.state == ACTIVE else status_of(obj, outcome, now))
    return Decision(status=status_of(obj, parents.active(), now))


def _bindings(snapshot: ParentSnapshot) -> tuple[Action, ...]:
    namespace = snapshot.obj.meta.namespace
    actions: list[Action] = []
    for role in roles.ACCOUNTS:
        body = roles.binding(role, namespace, snapshot.config.namespace)
        live = snapshot.bindings.get(role)
        if live is None:
            actions.append(Apply(Ref("RoleBinding", namespace, role), body, None))
        elif roles.differs(body, live):
            actions.append(Apply(Ref("RoleBinding", namespace, role), body, live["metadata"]["uid"]))
    return tuple(actions)
