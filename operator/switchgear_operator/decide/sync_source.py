"""Sync sources: the database is checked before anything is made, and let go of at the end or for another. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
    ORPHAN,
    PENDING,
    PROVISIONING,
    VALIDATING,
    SyncSource,
)
from switchgear_operator.actions import Action, Decision, Emit, Merge, StartCleanup, StartProbe
from switchgear_operator.decide import service
from switchgear_operator.decide.children import DatabaseUrls
from switchgear_operator.decide.outcome import RECHECK_REFERENCE, Mood, Outcome
from switchgear_operator.kube.refs import ref_of
from switchgear_operator.preflight.errors import TIMED_OUT, Fault
from switchgear_operator.preflight.results import CleanupResult, ProbeResult
from switchgear_operator.preflight.url import address, same_database, with_credentials
from switchgear_operator.snapshot import JobView, ServiceSnapshot, UserSecret
from switchgear_operator.specs import secrets

CHECKS: Final = (
    c.DATABASE_REACHABLE,
    c.REPLICATION_PRIVILEGE,
    c.WAL_LEVEL_LOGICAL,
    c.REPLICATION_SLOT_FREE,
    c.PUBLICATION_PRIVILEGE,
)
#: A transient failure is a human's business after this many attempts.
PATIENCE: Final = 3
_PAUSE_MAX: Final = 30.0
#: While a check fails, the user's Secret is read this often: it may have been corrected.
_REREAD: Final = 5.0
_LOOK_AGAIN: Final = 1.0


def decide(snapshot: ServiceSnapshot, now: datetime) -> Decision:
    """What to do about a SyncSource."""
    return service.decide(snapshot, now, _prepare, _release)


def _source(snapshot: ServiceSnapshot) -> SyncSource:
    assert isinstance(snapshot.obj, SyncSource)
    return snapshot.obj


def probe_url(snapshot: ServiceSnapshot) -> str | None:
    """The URL a probe is about: the one in the user's Secret, else the one in our copy."""
    if snapshot.url is not None and snapshot.url.value is not None:
        return snapshot.url.value
    return secrets.read(snapshot.children.database, labels.DATABASE_URL_KEY)


def _prepare(snapshot: ServiceSnapshot, now: datetime) -> service.Prepared:
    copied = secrets.read(snapshot.children.database, labels.DATABASE_URL_KEY)
    missing = next((s for s in (snapshot.url, snapshot.pooled_url) if s is not None and s.value is None), None)
    if missing is not None:
        outcome = _secret_missing(missing)
        if copied is None:
            return service.Prepared(blocked=outcome, again=RECHECK_REFERENCE)
        pooled = secrets.read(snapshot.children.database, labels.DATABASE_POOLED_URL_KEY)
        lost = c.false(c.DATABASE_SECRET_FOUND, Reason.REFERENCE_NOT_FOUND, outcome.message)
        checks = (*_kept_checks(snapshot), lost)
        return service.Prepared(urls=DatabaseUrls(copied, pooled), checks=checks, again=RECHECK_REFERENCE)
    url = snapshot.url.value if snapshot.url is not None else None
    assert url is not None, "a SyncSource's snapshot has its url"
    pooled = snapshot.pooled_url.value if snapshot.pooled_url is not None else None
    return _probed(snapshot, now, DatabaseUrls(url, pooled), copied)


def _secret_missing(secret: UserSecret) -> Outcome:
    if secret.found:
        message = f"Secret {secret.name} has no key {secret.key!r}: add it, or correct the reference."
    else:
        message = f"Waiting for Secret {secret.name}: it does not exist in this namespace yet."
    return Outcome(PENDING, False, Reason.REFERENCE_NOT_FOUND, message, Mood.RECONCILING)


def _probed(snapshot: ServiceSnapshot, now: datetime, urls: DatabaseUrls, copied: str | None) -> service.Prepared:
    """Probes a URL that is new, and one whose checks are unknown or failed last time."""
    obj, view = _source(snapshot), snapshot.probe
    result = view.result if view is not None else None
    assert result is None or isinstance(result, ProbeResult)
    actions: tuple[Action, ...] = ()
    publishes = not obj.spec.manual_table_publishing
    start = (StartProbe(obj.meta.uid, snapshot.service_id, urls.url, publishes=publishes),)
    is_new = copied != urls.url
    again: float | None = None
    failure = _failure(view)
    if view is None:
        kept = _kept_checks(snapshot)
        if is_new or not kept or any(check.status != "True" for check in kept):
            actions = start
    elif failure is not None and not view.running:
        due = _due(view, now)
        actions, again = (start, None) if due <= 0 else ((), min(due, _REREAD))
    checks = tuple(check.condition() for check in result.checks) if result is not None else _kept_checks(snapshot)
    if not is_new:
        return service.Prepared(urls=urls, checks=checks, actions=actions, again=again)
    if result is not None and result.failure is None:
        passed = service.Prepared(urls=urls, checks=checks, actions=actions)
        return passed if copied is None or same_database(copied, urls.url) else _moved(snapshot, now, passed, copied)
    running_on = None
    if copied is not None:
        pooled = secrets.read(snapshot.children.database, labels.DATABASE_POOLED_URL_KEY)
        running_on = DatabaseUrls(copied, pooled)
    if failure is None:
        validating = Outcome(
            VALIDATING, False, Reason.VALIDATING, "The database is being checked.", Mood.RECONCILING, checks
        )
        blocked = validating if running_on is None else None
        return service.Prepared(blocked=blocked, urls=running_on, checks=checks, actions=actions, again=again)
    failed = _failed(obj, view, failure, checks)
    if running_on is None:
        return service.Prepared(blocked=failed, checks=checks, actions=actions, again=again)
    return service.Prepared(problem=failed, urls=running_on, checks=checks, actions=actions, again=again)


def _moved(snapshot: ServiceSnapshot, now: datetime, go_on: service.Prepared, copied: str) -> service.Prepared:
    """The URL leads to another database: slot and publication leave the old one before the copy forgets where it was.

    Nothing else remembers: while the copy has the old URL, an operator that starts anew begins this anew, too.
    """
    obj = _source(snapshot)
    state = DEGRADED if obj.status.state in (ACTIVE, DEGRADED) else PROVISIONING
    old, belongings = address(copied), _belongings(snapshot)
    left = f"left in the former database {old}: {belongings}. Drop both there: a slot holds back WAL without limit."
    if obj.spec.deletion_policy == ORPHAN:
        return replace(go_on, actions=(Emit("Normal", Reason.ORPHANED, f"deletionPolicy Orphan: {left}"),))

    def wait(reason: Reason, message: str, actions: tuple[Action, ...], again: float) -> service.Prepared:
        outcome = Outcome(state, False, reason, message, Mood.RECONCILING, go_on.checks)
        return service.Prepared(blocked=outcome, actions=actions, again=again)

    changed = "The URL leads to another database."
    stopping = service.stop(snapshot)
    if stopping is not None:
        message = f"{changed} Waiting for the pod to stop, to drop {belongings} in the former one, {old}."
        return wait(Reason.DATABASE_CHANGED, message, stopping, _LOOK_AGAIN)
    view = snapshot.cleanup
    fault = _cleanup_fault(view)
    if view is not None and view.attempts > 0 and fault is None:
        return go_on
    start = _start_cleanup(snapshot)
    assert start is not None, "the copy can be read"
    if fault is None or view is None:
        message = f"{changed} Dropping {belongings} in the former one, {old}."
        return wait(Reason.DATABASE_CHANGED, message, () if view is not None else (start,), _REREAD)
    if view.attempts >= PATIENCE or obj.meta.annotations.get(labels.ABANDON) == "true":
        note = f"Given up ({fault.message.removesuffix(' It is tried again.')}), {left}"
        problem = Outcome(state, False, Reason.ABANDONED, note, Mood.RECONCILING, go_on.checks)
        return replace(go_on, problem=problem, actions=(Emit("Warning", Reason.ABANDONED, note),))
    message = (
        f"{changed} The former one, {old}: {fault.message} It is needed to drop {belongings}; after {PATIENCE} "
        f"attempts ({view.attempts} made), or with the annotation {labels.ABANDON}=true, both are left there."
    )
    due = _due(view, now)
    actions = (start,) if due <= 0 and not view.running else ()
    return wait(Reason.WAITING_FOR_DATABASE, message, actions, min(max(due, 0.5), _REREAD))


def _belongings(snapshot: ServiceSnapshot) -> str:
    slot, publication = ids.slot_name(snapshot.service_id), ids.publication_name(snapshot.service_id)
    return f"replication slot {slot} and publication {publication}"


def _failure(view: JobView | None) -> Fault | None:
    """Why the last probe failed; None when it passed or there was none yet."""
    if view is None or view.attempts == 0:
        return None
    if view.result is None:
        return TIMED_OUT
    check = view.result.failure
    return Fault(check.reason, check.message, check.transient) if check is not None else None


def _failed(obj: SyncSource, view: JobView | None, fault: Fault, checks: tuple[Condition, ...]) -> Outcome:
    """How a failed check shows: transient ones are waited for, others and lasting ones need a human."""
    attempts = view.attempts if view is not None else 0
    was_up = obj.status.state in (ACTIVE, DEGRADED)
    if fault.transient and attempts < PATIENCE and obj.status.state != ERROR:
        state = DEGRADED if was_up else VALIDATING
        return Outcome(state, False, fault.reason, fault.message, Mood.RECONCILING, checks)
    return Outcome(DEGRADED if was_up else ERROR, False, fault.reason, fault.message, Mood.STALLED, checks)


def _due(view: JobView, now: datetime) -> float:
    """Seconds until the next attempt; 0 or less: now."""
    pause = min(_PAUSE_MAX, 2.0 ** min(view.attempts, 8))
    passed = (now - view.finished).total_seconds() if view.finished is not None else pause
    return pause - passed


def _kept_checks(snapshot: ServiceSnapshot) -> tuple[Condition, ...]:
    """The checks as the status has them: what is known before a new probe has ended."""
    return tuple(condition for condition in snapshot.obj.status.conditions if condition.type in CHECKS)


def _release(snapshot: ServiceSnapshot, now: datetime) -> service.Released:
    """Slot and publication, from the operator's own copy of the URL; the copy's finalizer is the memory of it."""
    obj, copy = _source(snapshot), snapshot.children.database
    if copy is None or labels.SLOT_FINALIZER not in (copy["metadata"].get("finalizers") or []):
        return service.Released()
    left = _belongings(snapshot)
    if obj.spec.deletion_policy == ORPHAN:
        note = f"deletionPolicy Orphan: left in the database: {left}."
        return _let_go(copy, Emit("Normal", Reason.ORPHANED, note))
    view = snapshot.cleanup
    fault = _cleanup_fault(view)
    if view is not None and view.attempts > 0 and fault is None:
        return _let_go(copy)
    if fault is not None and obj.meta.annotations.get(labels.ABANDON) == "true":
        note = f"Abandoned by annotation, left in the database: {left}. Drop both there: a slot holds back WAL."
        return _let_go(copy, Emit("Warning", Reason.ABANDONED, note))
    start = _start_cleanup(snapshot)
    if start is None:
        fault = Fault(Reason.DATABASE_URL_INVALID, "The operator's copy of the database URL is damaged.", False)
    if fault is None or view is None:
        message = f"Dropping {left}."
        outcome = Outcome(DELETING, False, Reason.DELETING, message, Mood.RECONCILING)
        running = view is not None and view.running
        return service.Released(outcome, () if running or start is None else (start,), again=_REREAD)
    message = (
        f"{fault.message} It is needed to drop {left}. To give up and leave both: "
        f"kubectl annotate -n {obj.meta.namespace} syncsource {obj.meta.name} {labels.ABANDON}=true"
    )
    lasting = not fault.transient or view.attempts >= PATIENCE
    mood = Mood.STALLED if lasting else Mood.RECONCILING
    outcome = Outcome(DELETING, False, Reason.WAITING_FOR_DATABASE, message, mood)
    due = _due(view, now)
    actions = (start,) if start is not None and due <= 0 and not view.running else ()
    return service.Released(outcome, actions, again=min(max(due, 0.5), _REREAD))


def _start_cleanup(snapshot: ServiceSnapshot) -> StartCleanup | None:
    url = secrets.read(snapshot.children.database, labels.DATABASE_URL_KEY)
    if url is None:
        return None
    theirs = snapshot.url.value if snapshot.url is not None else None
    # New credentials for the same server also open the old database there, when its own are refused by now.
    fallback = with_credentials(url, theirs) if theirs is not None and theirs != url else None
    return StartCleanup(snapshot.obj.meta.uid, snapshot.service_id, url, fallback if fallback != url else None)


def _cleanup_fault(view: JobView | None) -> Fault | None:
    if view is None or view.attempts == 0:
        return None
    if view.result is None:
        return TIMED_OUT
    assert isinstance(view.result, CleanupResult)
    return view.result.fault


def _let_go(copy: Mapping[str, Any], *events: Action) -> service.Released:
    metadata = copy["metadata"]
    rest = [name for name in metadata["finalizers"] if name != labels.SLOT_FINALIZER]
    patch = Merge(ref_of(copy), {"metadata": {"finalizers": rest}}, metadata["uid"], metadata["resourceVersion"])
    outcome = Outcome(DELETING, False, Reason.DELETING, "Removing what belongs to the service.", Mood.RECONCILING)
    return service.Released(outcome, (*events, patch), again=0.2)
