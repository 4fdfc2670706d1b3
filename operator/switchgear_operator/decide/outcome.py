"""How a decision is said: state and conditions, put together the same way for every kind. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from switchgear_model import conditions as c
from switchgear_model.conditions import Condition, Reason
from switchgear_model.kinds import Resource, SecretHash, SecretKeyRef, Status
from switchgear_operator.snapshot import ParentView

#: How often a missing reference, or a Secret in it, is looked for again.
RECHECK_REFERENCE = 2.0


class Mood(Enum):
    """In kstatus' words: getting on by itself, waiting for a human, or at rest."""

    RESTING = "resting"
    RECONCILING = "reconciling"
    STALLED = "stalled"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where the object stands. `message` must not hold secrets. `checks` are further conditions."""

    state: str
    ready: bool
    reason: Reason
    message: str
    mood: Mood
    checks: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceFields:
    """The published part of a service's status."""

    service_id: str | None = None
    url: str | None = None
    secret_ref: SecretKeyRef | None = None
    secret_hashes: tuple[SecretHash, ...] = ()


def status_of(obj: Resource, outcome: Outcome, now: datetime, fields: ServiceFields | None = None) -> Status:
    """The whole status; times of conditions move only when a status flips."""
    fields = fields or ServiceFields()
    wanted: list[Condition] = [
        (c.true if outcome.ready else c.false)(c.READY, outcome.reason, outcome.message),
        *outcome.checks,
    ]
    if outcome.mood is Mood.RECONCILING:
        wanted.append(c.true(c.RECONCILING, outcome.reason, outcome.message))
    elif outcome.mood is Mood.STALLED:
        wanted.append(c.true(c.STALLED, outcome.reason, outcome.message))
    return Status(
        observed_generation=obj.meta.generation,
        state=outcome.state,
        conditions=c.stamp(wanted, obj.status.conditions, obj.meta.generation, now),
        service_id=fields.service_id,
        url=fields.url,
        secret_ref=fields.secret_ref,
        secret_hashes=fields.secret_hashes,
    )


def waiting_for(parent: ParentView, state: str) -> Outcome | None:
    """The outcome while the referenced parent is missing, going or not ready; None when it is there and ready."""
    what = f"{parent.kind} {parent.name}" if parent.name else f"a {parent.kind} in this namespace"
    if not parent.found:
        reason, message = Reason.REFERENCE_NOT_FOUND, f"Waiting for {what}: it does not exist yet."
    elif parent.deleting:
        reason, message = Reason.REFERENCE_NOT_FOUND, f"Waiting for {what}: it is being deleted."
    elif not parent.ready:
        reason, message = Reason.REFERENCE_NOT_READY, f"Waiting for {what} to become ready."
    else:
        return None
    return Outcome(state, False, reason, message, Mood.RECONCILING)


def listing(things: Iterable[str], limit: int = 5) -> str:
    """A few of them, and how many more."""
    names = sorted(things)
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
