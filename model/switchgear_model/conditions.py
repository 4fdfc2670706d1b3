"""Conditions and their reasons, in the form that kstatus (kubectl wait, Helm, Argo CD, Flux) understands.

``Ready`` is always present. ``Reconciling`` is there, and True, only while the operator is getting on by
itself; ``Stalled`` is there, and True, only when a human must act. Messages never carry secrets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

READY: Final = "Ready"
RECONCILING: Final = "Reconciling"
STALLED: Final = "Stalled"
POD_READY: Final = "PodReady"
DATABASE_SECRET_FOUND: Final = "DatabaseSecretFound"  # noqa: S105
DATABASE_REACHABLE: Final = "DatabaseReachable"
REPLICATION_PRIVILEGE: Final = "ReplicationPrivilege"
PUBLICATION_PRIVILEGE: Final = "PublicationPrivilege"
WAL_LEVEL_LOGICAL: Final = "WalLevelLogical"
REPLICATION_SLOT_FREE: Final = "ReplicationSlotFree"

MESSAGE_MAX: Final = 1024


class Reason(StrEnum):
    """Why a condition is what it is. The text of a reason is API: scripts match on it."""

    ACTIVE = "Active"
    PROVISIONING = "Provisioning"
    VALIDATING = "Validating"
    DELETING = "Deleting"
    PASSED = "Passed"
    UNKNOWN = "Unknown"
    # References and claims.
    REFERENCE_NOT_FOUND = "ReferenceNotFound"
    REFERENCE_NOT_READY = "ReferenceNotReady"
    NAMESPACE_TAKEN = "NamespaceTaken"
    NAMESPACE_TERMINATING = "NamespaceTerminating"
    NAME_TAKEN = "NameTaken"
    SERVICE_ID_TAKEN = "ServiceIdTaken"
    UNKNOWN_REGION = "UnknownRegion"
    RESOURCE_CONFLICT = "ResourceConflict"
    SECRET_INVALID = "SecretInvalid"  # noqa: S105
    CHILD_REJECTED = "ChildRejected"
    RIGHTS_MISSING = "RightsMissing"
    # Running.
    EDGE_UNAVAILABLE = "EdgeUnavailable"
    EDGE_NOT_CURRENT = "EdgeNotCurrent"
    POD_NOT_READY = "PodNotReady"
    POD_READY = "PodReady"
    # The database.
    DATABASE_URL_INVALID = "DatabaseUrlInvalid"
    DATABASE_UNREACHABLE = "DatabaseUnreachable"
    DATABASE_AUTHENTICATION_FAILED = "DatabaseAuthenticationFailed"
    DATABASE_NOT_FOUND = "DatabaseNotFound"
    DATABASE_TLS_FAILED = "DatabaseTlsFailed"
    DATABASE_NOT_ADMITTED = "DatabaseNotAdmitted"
    DATABASE_BUSY = "DatabaseBusy"
    DATABASE_ERROR = "DatabaseError"
    REPLICATION_NOT_PERMITTED = "ReplicationNotPermitted"
    PUBLICATION_NOT_PERMITTED = "PublicationNotPermitted"
    WAL_LEVEL_NOT_LOGICAL = "WalLevelNotLogical"
    NO_FREE_REPLICATION_SLOT = "NoFreeReplicationSlot"
    DATABASE_CHANGED = "DatabaseChanged"
    # Deletion.
    WAITING_FOR_CHILDREN = "WaitingForChildren"
    WAITING_FOR_POD = "WaitingForPod"
    WAITING_FOR_DATABASE = "WaitingForDatabase"
    ABANDONED = "Abandoned"
    ORPHANED = "Orphaned"


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition. ``status`` is "True", "False" or "Unknown"; times are RFC 3339 in UTC."""

    type: str
    status: str
    reason: str
    message: str = ""
    last_transition_time: str = ""
    observed_generation: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The condition as it stands in ``status.conditions``."""
        return {
            "type": self.type,
            "status": self.status,
            "reason": self.reason,
            "message": self.message[:MESSAGE_MAX],
            "lastTransitionTime": self.last_transition_time,
            "observedGeneration": self.observed_generation,
        }


def parse_condition(raw: Mapping[str, Any]) -> Condition:
    """A condition from ``status.conditions``; missing parts become empty."""
    return Condition(
        type=str(raw.get("type", "")),
        status=str(raw.get("status", "Unknown")),
        reason=str(raw.get("reason", "")),
        message=str(raw.get("message", "")),
        last_transition_time=str(raw.get("lastTransitionTime", "")),
        observed_generation=int(raw.get("observedGeneration", 0) or 0),
    )


def true(type_: str, reason: Reason, message: str = "") -> Condition:
    """A condition that holds."""
    return Condition(type_, "True", reason, message)


def false(type_: str, reason: Reason, message: str = "") -> Condition:
    """A condition that does not hold."""
    return Condition(type_, "False", reason, message)


def unknown(type_: str, reason: Reason = Reason.UNKNOWN, message: str = "") -> Condition:
    """A condition nobody knows about yet."""
    return Condition(type_, "Unknown", reason, message)


def find(conditions: Iterable[Condition], type_: str) -> Condition | None:
    """The condition of one type, or None."""
    return next((c for c in conditions if c.type == type_), None)


def is_true(conditions: Iterable[Condition], type_: str) -> bool:
    """Whether the condition of one type is there and True."""
    found = find(conditions, type_)
    return found is not None and found.status == "True"


def stamp(
    wanted: Iterable[Condition], existing: Iterable[Condition], generation: int, now: datetime
) -> tuple[Condition, ...]:
    """The wanted conditions with their times: a time moves only when the status flips."""
    before = {c.type: c for c in existing}
    stamped = []
    for condition in wanted:
        old = before.get(condition.type)
        keeps = old is not None and old.status == condition.status and old.last_transition_time != ""
        when = old.last_transition_time if old is not None and keeps else timestamp(now)
        stamped.append(
            replace(
                condition,
                message=condition.message[:MESSAGE_MAX],
                last_transition_time=when,
                observed_generation=generation,
            )
        )
    return tuple(stamped)


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, as Kubernetes writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> datetime | None:
    """The moment of an RFC 3339 text, or None when it is not one."""
    try:
        parsed = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
