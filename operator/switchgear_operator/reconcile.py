"""One key: observe, decide, act, write the status when it changed, and say when to look again."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from switchgear_model import conditions as c
from switchgear_model.conditions import Reason
from switchgear_model.kinds import ACTIVE, DEGRADED, DELETING, KINDS, Resource, Status
from switchgear_operator.act import Actor, Rejected
from switchgear_operator.actions import QUIET, Decision, Emit
from switchgear_operator.decide import Snapshot, decide
from switchgear_operator.decide.outcome import Mood, Outcome, status_of
from switchgear_operator.jobs import Jobs
from switchgear_operator.kube.client import ApiError
from switchgear_operator.observe import Observer
from switchgear_operator.queue import RetryLater
from switchgear_operator.snapshot import NamespaceSnapshot
from switchgear_operator.store import Key, Store

_log = logging.getLogger(__name__)

_ROUNDS: Final = 3
_REJECTED_AGAIN: Final = 30.0


class Reconciler:
    """`again(key, seconds)` brings a key back; 0 means at once."""

    def __init__(
        self, observer: Observer, actor: Actor, jobs: Jobs, store: Store, again: Callable[[Key, float], None]
    ) -> None:
        self._observer = observer
        self._actor = actor
        self._jobs = jobs
        self._store = store
        self._again = again
        self.results: Counter[tuple[str, str]] = Counter()

    async def __call__(self, key: Key) -> None:
        """Raises `RetryLater` for what time heals; anything else is a fault."""
        try:
            result = await self._reconcile(key)
        except ApiError as error:
            self.results[key[0], "retried"] += 1
            if error.conflict:
                raise RetryLater("changed meanwhile", 0.05) from None
            if error.status in (0, 403, 404, 429) or error.status >= 500:
                raise RetryLater(f"Kubernetes API: {error}", error.retry_after) from None
            raise
        self.results[key[0], result] += 1

    async def _reconcile(self, key: Key) -> str:
        snapshot = await self._observer.observe(key)
        if snapshot is None:
            known = self._store.get(key)
            if known is not None:
                self._jobs.forget(known.meta.uid)
            return "gone"
        decision = await self._decide(snapshot)
        obj = None if isinstance(snapshot, NamespaceSnapshot) else snapshot.obj
        try:
            if obj is not None:
                obj = await self._actor.run(obj, decision.actions)
            else:
                await self._actor.run_without(decision.actions)
        except Rejected as error:
            await self._rejected(key, obj, decision, error)
            return "rejected"
        # After the actions: a status that says more than was done would be a lie, and one that a rejection
        # takes back at once would flip for ever.
        if obj is not None and decision.status is not None and decision.status != obj.status:
            await self._actor.status(obj, decision.status)
            await self._announce(obj, decision.status)
        if any(not isinstance(action, QUIET) for action in decision.actions):
            # Secrets are not watched, so the effect is looked at without waiting for an event.
            self._again(key, 0)
            return "changed"
        if decision.again is not None:
            self._again(key, decision.again)
        return "unchanged"

    async def _decide(self, snapshot: Snapshot) -> Decision:
        now = datetime.now(UTC)
        decision = decide(snapshot, now)
        for _ in range(_ROUNDS):
            if not decision.needs:
                return decision
            snapshot = await self._observer.complete(snapshot, decision.needs)
            decision = decide(snapshot, now)
        raise AssertionError("a decision keeps asking for what it was given")

    async def _announce(self, obj: Resource, status: Status) -> None:
        event = event_for(obj.status, status)
        if event is not None:
            await self._actor.emit(obj, event.type, event.reason, event.note)

    async def _rejected(self, key: Key, obj: Resource | None, decision: Decision, error: Rejected) -> None:
        """The API server's own words in the status, and another try in a while."""
        _log.warning("%s: rejected: %s", key, error)
        self._again(key, _REJECTED_AGAIN)
        if obj is None:
            return
        now = datetime.now(UTC)
        base = decision.status or obj.status
        state = DEGRADED if base.state == ACTIVE and KINDS[obj.kind].is_service else base.state
        outcome = Outcome(state, False, Reason.CHILD_REJECTED, f"The API server refused {error}", Mood.STALLED)
        conditions = status_of(obj, outcome, now).conditions
        kept = tuple(k for k in base.conditions if k.type not in (c.READY, c.RECONCILING, c.STALLED))
        status = replace(base, state=state, conditions=(*conditions, *kept), observed_generation=obj.meta.generation)
        if status != obj.status:
            await self._actor.status(obj, status)
            await self._announce(obj, status)


def event_for(before: Status, after: Status) -> Emit | None:
    """The Event of a transition: becoming active, degraded, or stuck for another reason. Pure."""
    if after.state == DELETING:
        return None
    old, new = c.find(before.conditions, c.READY), c.find(after.conditions, c.READY)
    if new is None or (old is not None and (old.status, old.reason) == (new.status, new.reason)):
        return None
    if new.status == "True":
        return Emit("Normal", new.reason, "Ready.")
    was_ready = old is not None and old.status == "True"
    if was_ready or c.is_true(after.conditions, c.STALLED):
        return Emit("Warning", new.reason, new.message)
    return None
