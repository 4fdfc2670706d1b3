"""All subscriptions of one server at work: notices new data, wakes, delivers, keeps leases; all durable first.

What it must not do: HTTP routes (`api`), or decide what a transition does (`state`).
Invariants: nothing is told to anybody outside before the change behind it is durable; what is pending follows from the
streams and the durable acknowledgements alone, so that no crash can lose a wake; without subscriptions the append path
has nothing to do here.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from switchgear_streams import catalog
from switchgear_streams.reads import Reader
from switchgear_streams.request import Append
from switchgear_streams.rules import media
from switchgear_streams.store import Store
from switchgear_streams.stream import Stream
from switchgear_streams.subscriptions import keys, tokens, views
from switchgear_streams.subscriptions.config import WEBHOOK
from switchgear_streams.subscriptions.delivery import Courier, Undelivered
from switchgear_streams.subscriptions.errors import Refused, no_room
from switchgear_streams.subscriptions.journal import Journal, links_size
from switchgear_streams.subscriptions.state import FOREVER, LEASED, OFFERED, WAKING, Subscription
from switchgear_streams.subscriptions.watch import Watch
from switchgear_wire.response import Response

log = logging.getLogger("switchgear.streams.subscriptions")

MAX_SUBSCRIPTIONS = 10_000
_DELIVERIES = 64
_RETRIES = 16
"""Deliveries at once to receivers that failed the last time: those that hang must not hold up the others."""
_NO_ROOM_RETRY = 1.0

Appender = Callable[[bytes, Append, bytes], Response | Awaitable[Response]]


class Engine(Watch):
    """See the module. All methods run on the loop."""

    def __init__(
        self, store: Store, reader: Reader, append: Appender, allow_loopback: bool, public_base: str | None
    ) -> None:
        self._public_base = public_base
        super().__init__(store)
        self.reader = reader
        self._append = append
        self.journal = Journal(store, reader)
        self.ring: keys.Keyring | None = None
        self._ring_ready: asyncio.Future[Any] | None = None
        self.allow_loopback = allow_loopback
        self._courier = Courier(allow_loopback)
        self._slots = asyncio.Semaphore(_DELIVERIES)
        self._retry_slots = asyncio.Semaphore(_RETRIES)
        self._steps: dict[Subscription, asyncio.Task[None]] = {}
        self._again: set[Subscription] = set()
        self._timers: dict[Subscription, asyncio.TimerHandle] = {}
        self._deliveries: set[asyncio.Task[None]] = set()
        self.delivered = 0
        self.undelivered = 0

    def use_appender(self, append: Appender) -> None:
        """Write wake events with this, wherever their streams are."""
        self._append = append

    # -- life --

    def load(self) -> None:
        """Read what the disk knows of."""
        self.ring, found = self.journal.load()
        for subscription in found:
            self._enlist(subscription)

    def start(self) -> None:
        """Take it up. What the neighbours have must be known by now."""
        found = list(self.subscriptions.values())
        if not found:
            return
        now = self.store.clock()
        for key, one in self.store.streams.items():
            mine = self._find(key)
            if mine:
                stream = self._usable(one if isinstance(one, Stream) else catalog.unpack_body(one), now)
                for each in mine:
                    self._refresh(each, key, stream)
        for subscription in found:
            for key in [key for key in subscription.links if key not in self.store.streams]:
                self._refresh(subscription, key, self.neighbours.get(key))
            self.kick(subscription)
        for key, _ in self.neighbours.items():
            self.noticed(key)
        self._look()
        log.info("%d subscriptions, %d with work", len(found), sum(1 for each in found if each.pending))

    async def stop(self) -> None:
        """No new deliveries; those under way get a moment. What is cut off is delivered again after the next start."""
        self._stopped = True
        self.journal.stop()
        self._look()
        for timer in self._timers.values():
            timer.cancel()
        tasks = {*self._deliveries, *self._steps.values()}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=3.0)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=3.0)
        self._courier.close()

    def tick(self) -> None:
        """Once in a while."""
        if self.subscriptions:
            self.journal.tidy()

    # -- subscriptions come and go --

    def base_of(self, subscription: Subscription) -> str:
        """The root's public address; where none is set, that under which the subscription was made."""
        return self._public_base or subscription.base

    async def keyring(self) -> keys.Keyring:
        """The keys, made durable when they are needed for the first time."""
        if self.ring is None:
            if self._ring_ready is None:
                self._ring_ready = asyncio.ensure_future(self._make_keys())
                self._ring_ready.add_done_callback(self._keys_made)
            await asyncio.shield(self._ring_ready)
        assert self.ring is not None
        return self.ring

    async def _make_keys(self) -> None:
        ring = await asyncio.to_thread(keys.generate)
        if not self.journal.room(1024):
            raise no_room()
        await self.journal.write_keys(ring)
        self.ring = ring

    def _keys_made(self, done: asyncio.Future[Any]) -> None:
        self._ring_ready = None
        if not done.cancelled():
            done.exception()  # whoever waits for it has it

    async def add(self, subscription: Subscription) -> None:
        """Link the streams that there are, at their tails, and make it durable. Raises Refused."""
        explicit = [path.encode() for path in subscription.config.streams]
        changed = self._forming[subscription] = {}
        written: list[bytes] = []
        self._look()
        try:
            await self._link_all(subscription, changed, written)
            await self.neighbours.watch(subscription, explicit)
            done = self._add(subscription, explicit, changed, written)
        except BaseException:
            self.neighbours.forget(subscription)
            raise
        finally:
            del self._forming[subscription]
            self._look()
        await done

    def _add(
        self, subscription: Subscription, explicit: list[bytes], changed: dict[bytes, None], written: list[bytes]
    ) -> asyncio.Future[Any]:
        """Nothing waits here, so that no stream's first append can fall between links and `create`."""
        if subscription.id in self.subscriptions:  # meanwhile
            raise Refused(409, "SUBSCRIPTION_ALREADY_EXISTS", "It was made by another request just now; try again.")
        for key in changed:
            subscription.links.pop(key, None)
            self._link_found(subscription, key, self._found(key))
        for key, seen in self.neighbours.items():
            if key not in subscription.links and subscription.globs(key):
                self._link_found(subscription, key, seen)
                changed[key] = None
        by_name = {key: self._tail_link(key, True) for key in explicit}
        subscription.links = {**by_name, **subscription.links, **by_name}
        last = subscription.written({**changed, **by_name})
        whole = subscription.snapshot((subscription.written(explicit), *written, last))
        if not self.journal.room(len(whole)):
            raise no_room()
        done = self.journal.create(subscription, whole)
        self._enlist(subscription)
        self._forget_matches()
        for key in (*changed, *explicit):
            self._changes.look_again(key)
        return done

    def link(self, subscription: Subscription, paths: list[bytes]) -> asyncio.Future[Any]:
        """Explicit links, at the tails of streams that were not linked yet."""
        self.require_room(links_size(paths))
        for key in paths:
            link = subscription.links.get(key)
            if link is not None:
                link.explicit = True
            else:
                subscription.links[key] = self._tail_link(key, True)
            self._index.add_name(key, subscription)
            self._linked.pop(key, None)
            self._changes.look_again(key)
        return self.journal.save(subscription, paths)

    def unlink(self, subscription: Subscription, key: bytes) -> asyncio.Future[Any] | None:
        """Take an explicit link away; a pattern may still hold the stream."""
        link = subscription.links.get(key)
        if link is None or not link.explicit:
            return None
        self.require_room(links_size([key]))
        link.explicit = False
        if link.generation == 0 or not subscription.globs(key):
            del subscription.links[key]
            subscription.pending.pop(key, None)
        self._index.drop_name(key, subscription)
        self._linked.pop(key, None)
        self.neighbours.unlinked(subscription, key)
        done = self.journal.save(subscription, [key])
        self.kick(subscription)
        return done

    async def remove(self, subscription: Subscription) -> None:
        subscription.removed = True
        timer = self._timers.pop(subscription, None)
        if timer is not None:
            timer.cancel()
        await self.journal.delete(subscription)
        self._strike(subscription)
        self._forget_matches()
        self._look()
        self.neighbours.forget(subscription)

    async def settled(self) -> None:
        """Until everything that was accepted so far is durable."""
        wal = self.store.log
        await self.neighbours.settled()
        await wal.wait(wal.flush())

    async def caught_up(self) -> None:
        """Until everything that anybody was told of is noticed. (Everything here without waiting: `catch_up`.)"""
        await self.neighbours.catch_up()
        self.catch_up()

    def require_room(self, size: int = 4096) -> None:
        """Raises Refused 507."""
        if not self.journal.room(size):
            raise no_room()

    def token(self, subscription: Subscription, kind: str) -> str:
        """For the wake in flight. The keys must be there."""
        assert self.ring is not None
        expires = self.store.clock() + tokens.LIFETIME_MS
        claims = tokens.Claims(kind, subscription.id, subscription.incarnation, subscription.generation, expires)
        return tokens.mint(self.ring.token_secret, claims)

    # -- wakes --

    def kick(self, subscription: Subscription) -> None:
        """Something changed: see what is to be done."""
        if self._stopped or subscription.removed:
            return
        if subscription in self._steps:
            self._again.add(subscription)
        else:
            task = asyncio.ensure_future(self._step(subscription))
            self._steps[subscription] = task
            task.add_done_callback(lambda done: self._stepped(subscription, done))

    def _stepped(self, subscription: Subscription, done: asyncio.Task[None]) -> None:
        self._steps.pop(subscription, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("subscription %s: %s", subscription.id, error, exc_info=error)
            self._later(subscription, self.store.clock() + 1000)
        elif subscription in self._again:
            self._again.discard(subscription)
            self.kick(subscription)

    def _later(self, subscription: Subscription, moment: int) -> None:
        timer = self._timers.pop(subscription, None)
        if timer is not None:
            timer.cancel()
        if moment < FOREVER and not self._stopped and not subscription.removed:
            seconds = max(0.0, (moment - self.store.clock()) / 1000) + 0.001
            self._timers[subscription] = asyncio.get_running_loop().call_later(seconds, self.kick, subscription)

    async def _step(self, subscription: Subscription) -> None:
        """Bring the wake forward until something else has to happen."""
        while not subscription.removed and not self._stopped:
            now = self.store.clock()
            if not self.journal.room(4096):
                self._later(subscription, now + int(_NO_ROOM_RETRY * 1000))
                return
            wake = subscription.wake
            if wake is not None and (subscription.expired(now) or (wake.phase != LEASED and not subscription.pending)):
                subscription.clear()
                await self.journal.save(subscription, [])
            elif wake is None and subscription.pending:
                subscription.begin("w_" + secrets.token_urlsafe(16), now)
                await self.journal.save(subscription, [])
            elif wake is None or wake.phase != WAKING or subscription.next_event(now) > now:
                break
            elif subscription.config.type == WEBHOOK:
                subscription.delivering = wake.id
                task = asyncio.ensure_future(self._deliver(subscription, wake.id))
                self._deliveries.add(task)
                task.add_done_callback(self._deliveries.discard)
            else:
                await self._offer(subscription, wake.id)
        self._later(subscription, subscription.next_event(self.store.clock()))

    async def _offer(self, subscription: Subscription, wake_id: str) -> None:
        """Pull-wake: append the event to the wake stream."""
        wake_stream = (subscription.config.wake_stream or "").encode()
        event = {
            "type": "wake",
            "subscription_id": subscription.id,
            "stream": next(iter(subscription.pending)).decode(),
            "generation": subscription.generation,
            "ts": self.store.clock(),
        }
        answer = self._append(wake_stream, Append(media.JSON, False, None, None), orjson.dumps(event))
        response = answer if isinstance(answer, Response) else await answer
        wake = subscription.wake
        if subscription.removed or wake is None or wake.id != wake_id or wake.phase != WAKING:
            return
        if response.status == 204:
            self.delivered += 1
            wake.phase = OFFERED
            subscription.attempts = 0
        else:
            self._failed(subscription, f"its wake stream answered {response.status}")
        if self.journal.room(4096):
            await self.journal.save(subscription, [])

    async def _deliver(self, subscription: Subscription, wake_id: str) -> None:
        """Webhook: one attempt, and what follows from its answer."""
        problem, answer = "", b""
        snapshot: views.Snapshot = {}
        try:
            async with self._retry_slots if subscription.attempts else self._slots:
                if not subscription.removed and subscription.wake is not None and subscription.wake.id == wake_id:
                    ring = await self.keyring()
                    body, snapshot = views.notification(self, subscription)
                    signature = ring.keys[-1].sign(self.store.clock() // 1000, body)
                    answer = await self._courier.post(subscription.config.url or "", body, signature)
        except (Undelivered, Refused) as error:
            problem = str(error)
        except Exception as error:
            log.exception("subscription %s: a delivery failed in an unforeseen way", subscription.id)
            problem = type(error).__name__
        finally:
            if subscription.delivering == wake_id:
                subscription.delivering = ""
        wake = subscription.wake
        if subscription.removed or wake is None or wake.id != wake_id:
            return
        while not self.journal.room(links_size(snapshot)):
            await self.store.log.wait_room(_NO_ROOM_RETRY)
        if subscription.removed or subscription.wake is not wake:
            return
        await self._conclude(subscription, problem, answer, snapshot)
        self.kick(subscription)

    async def _conclude(
        self, subscription: Subscription, problem: str, answer: bytes, snapshot: dict[bytes, tuple[int, int]]
    ) -> None:
        wake = subscription.wake
        assert wake is not None
        changed: list[bytes] = []
        if problem:
            self.undelivered += 1
            if wake.phase == WAKING:  # else a callback has come: it was received
                self._failed(subscription, problem)
        else:
            self.delivered += 1
            if _says_done(answer):
                changed = self.acknowledge(subscription, snapshot)
                subscription.clear()
            elif wake.phase == WAKING:
                subscription.lease(WEBHOOK, self.store.clock())
        await self.journal.save(subscription, changed)

    def _failed(self, subscription: Subscription, problem: str) -> None:
        subscription.fail(self.store.clock(), random.random())  # noqa: S311
        log.warning("subscription %s: attempt %d failed: %s", subscription.id, subscription.attempts, problem)


def _says_done(answer: bytes) -> bool:
    try:
        raw = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return False
    return isinstance(raw, dict) and raw.get("done") is True
