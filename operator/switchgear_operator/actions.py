"""What a decision can ask for. Pure values; `act` carries them out, in order, and stops at the first that fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from switchgear_model.kinds import Status
from switchgear_operator.kube.refs import Ref
from switchgear_operator.snapshot import Need


@dataclass(frozen=True, slots=True)
class AddFinalizer:
    """Our finalizer on the reconciled object itself."""


@dataclass(frozen=True, slots=True)
class RemoveFinalizer:
    """Lets the reconciled object go. Always the last action."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply. `uid` None only when the object does not exist yet; else exactly that one is changed."""

    ref: Ref
    body: Mapping[str, Any] = field(repr=False)
    uid: str | None


@dataclass(frozen=True, slots=True)
class Create:
    """Creates a Secret; one that exists by now stays as it is."""

    ref: Ref
    body: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class CreateServiceSecret:
    """Creates the Secret with a new service secret, made at that moment; one that exists by now stays as it is."""

    ref: Ref
    body: Mapping[str, Any]
    service_id: str


@dataclass(frozen=True, slots=True)
class Merge:
    """A merge patch on exactly the object that was observed (by UID and, where given, resourceVersion)."""

    ref: Ref
    patch: Mapping[str, Any] = field(repr=False)
    uid: str
    resource_version: str | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Deletes exactly the object that was observed."""

    ref: Ref
    uid: str


@dataclass(frozen=True, slots=True)
class StartProbe:
    """Checks the database in the background; the result is in the next snapshot."""

    uid: str
    service_id: str
    url: str = field(repr=False)
    publishes: bool


@dataclass(frozen=True, slots=True)
class StartCleanup:
    """Drops slot and publication in the background. `fallback_url`: same database, other credentials."""

    uid: str
    service_id: str
    url: str = field(repr=False)
    fallback_url: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ForgetCleanup:
    """Ends a cleanup that runs and forgets how one ended: a pod may make the slot again from now on."""

    uid: str


@dataclass(frozen=True, slots=True)
class Emit:
    """An Event about the reconciled object. `type` is Normal or Warning."""

    type: str
    reason: str
    note: str


Action = (
    AddFinalizer
    | RemoveFinalizer
    | Apply
    | Create
    | CreateServiceSecret
    | Merge
    | Delete
    | StartProbe
    | StartCleanup
    | ForgetCleanup
    | Emit
)

#: After these the world is as it was: no reason to look at it again at once.
QUIET = (StartProbe, StartCleanup, ForgetCleanup, Emit)


@dataclass(frozen=True, slots=True)
class Decision:
    """`status` None: leave it. `again`: seconds until the next look. `needs`: decide again once these are observed."""

    actions: tuple[Action, ...] = ()
    status: Status | None = None
    again: float | None = None
    needs: frozenset[Need] = frozenset()
