"""Subscriptions and keys on the disk: hidden streams of the same store, so the same log, group commit and checkpoints.

Their keys begin with NUL, which no request's path can. A subscription's stream begins with a snapshot, changes follow;
when it has grown long, a stream with the next number takes its place and the old one is deleted. The highest counts.
Of many links the new one is put together bit by bit, while changes still go to the old one.
Every function returns a future that is done when the change is durable; the order of calls is the order on the disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from switchgear_streams import answers
from switchgear_streams.pending import Pending
from switchgear_streams.reads import Reader
from switchgear_streams.rules import media
from switchgear_streams.store import Store
from switchgear_streams.stream import Stream
from switchgear_streams.subscriptions import keys, state
from switchgear_streams.subscriptions.state import Subscription
from switchgear_streams.wal import Room
from switchgear_wire.errors import HttpError
from switchgear_wire.response import Response

log = logging.getLogger("switchgear.streams.subscriptions")

_KEYS = b"\0keys/"
_PREFIX = b"\0subscription/"
# A subscription's stream is replaced when it is this much longer than twice its snapshot.
_SLACK = 262_144
# Added to a generation of which a part of the history was lost, so that none is given twice.
_SKIP = 1 << 32
_AT_ONCE = 500
"""So many links are written down before others get their turn."""
_DONE = Response(204, answers.BASE)


class Journal:
    """See the module."""

    def __init__(self, store: Store, reader: Reader) -> None:
        self._store = store
        self._reader = reader
        self._replaced: dict[bytes, None] = {}
        self._sizes: dict[bytes, int] = {}
        self._rewritten: dict[Subscription, dict[bytes, None]] = {}
        """Those that are being put together anew, with the links that changed meanwhile."""
        self._rewrites: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """What is not put together yet is begun anew after the next start."""
        for task in self._rewrites:
            task.cancel()

    def room(self, size: int) -> bool:
        """Is there space for a change of `size` bytes?"""
        return self._store.log.room(size + 8192) is Room.OK

    # -- writing --

    def create(self, subscription: Subscription, whole: bytes) -> asyncio.Future[Any]:
        """A new subscription, `whole` its snapshot. Room must have been asked for (this is true of every change)."""
        return self._make(_name(subscription), whole)

    def save(self, subscription: Subscription, changed: list[bytes]) -> asyncio.Future[Any]:
        """What may have changed, and the links of `changed`."""
        name = _name(subscription)
        stream = self._store.get(name)
        assert stream is not None
        line = subscription.delta(changed)
        size = self._sizes.get(name, 0)
        if subscription in self._rewritten:
            self._rewritten[subscription].update(dict.fromkeys(changed))
        elif stream.end + len(line) > 2 * size + _SLACK and self.room(size + _SLACK):
            if len(subscription.links) > _AT_ONCE:
                changes = self._rewritten[subscription] = {}
                task = asyncio.ensure_future(self._rewrite(subscription, changes))
                self._rewrites.add(task)
                task.add_done_callback(self._rewrites.discard)
            elif self.room(len(whole := subscription.snapshot())):
                return self._replace(subscription, whole)
        pending = Pending()
        entry = self._store.append(stream, line, close=False, extra=None)
        entry.answers.append((pending, _DONE))
        return pending

    async def _rewrite(self, subscription: Subscription, changed: dict[bytes, None]) -> None:
        """A new stream for one with many links. What changes meanwhile is in the old stream, and written once more."""
        try:
            written: list[bytes] = []
            keys = list(subscription.links)
            for start in range(0, len(keys), _AT_ONCE):
                written.append(subscription.written(keys[start : start + _AT_ONCE]))
                await asyncio.sleep(0)
            # Nothing waits from here on.
            whole = subscription.snapshot((*written, subscription.written(changed)))
            if not subscription.removed and self.room(len(whole)):
                self._replace(subscription, whole)
        except Exception:
            log.exception("subscription %s could not be written anew", subscription.id)
        finally:
            del self._rewritten[subscription]

    def _replace(self, subscription: Subscription, whole: bytes) -> asyncio.Future[Any]:
        """The next stream, with all of it, in the place of the one before."""
        name = _name(subscription)
        self._sizes.pop(name, None)
        self._replaced[name] = None
        subscription.number += 1
        made = self._make(_name(subscription), whole)
        made.add_done_callback(lambda _: self.tidy())
        return made

    async def delete(self, subscription: Subscription) -> None:
        """Older streams first: what a crash leaves is then the subscription as it was, or nothing."""
        last = _name(subscription)
        mine = last[: last.rindex(b"/") + 1]
        for name in [*sorted(name for name in self._replaced if name.startswith(mine)), last]:
            await self._delete(name)

    def tidy(self) -> None:
        """Delete streams that were replaced."""
        if self._store.hold is None:
            for name in list(self._replaced):
                stream = self._store.get(name)
                if stream is None:
                    self._replaced.pop(name)
                elif stream.leaving is None and self._store.log.room(1024, reserved=True) is Room.OK:
                    self._store.delete(stream, lambda: None)

    def write_keys(self, ring: keys.Keyring) -> asyncio.Future[Any]:
        number = 1 + sum(1 for name in self._store.streams if name.startswith(_KEYS))
        return self._make(b"%b%d" % (_KEYS, number), orjson.dumps(ring.dump()) + b"\n")

    def _make(self, name: bytes, content: bytes) -> asyncio.Future[Any]:
        store = self._store
        generation = store.next_generation
        stream = Stream(name, generation, generation, 0, media.OCTETS, store.clock())
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        store.create(stream, content, False, _setter(future))
        self._sizes[name] = len(content)
        return future

    async def _delete(self, name: bytes) -> None:
        store = self._store
        self._sizes.pop(name, None)
        self._replaced.pop(name, None)
        while (stream := store.get(name)) is not None:
            if stream.leaving is not None:
                await asyncio.shield(stream.leaving)
            elif store.hold is not None:
                await asyncio.shield(store.hold)
            elif store.log.room(1024, reserved=True) is not Room.OK:
                await store.log.wait_room(1.0)
            else:
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                store.delete(stream, _setter(future))
                await future

    # -- at start --

    def load(self) -> tuple[keys.Keyring | None, list[Subscription]]:
        """What was written. What cannot be read is reported and left as it is."""
        newest: dict[bytes, int] = {}
        rings: list[keys.Keyring] = []
        for name in [name for name in self._store.streams if name[:1] == b"\0"]:
            if name.startswith(_PREFIX):
                subscription_id, _, number = name.removeprefix(_PREFIX).rpartition(b"/")
                newest[subscription_id] = max(newest.get(subscription_id, 0), int(number))
                self._replaced[name] = None
            elif name.startswith(_KEYS):
                rings += self._load_keys(name)
        found: list[Subscription] = []
        for subscription_id, last in newest.items():
            name = b"%b%b/%d" % (_PREFIX, subscription_id, last)
            self._replaced.pop(name, None)
            try:
                lines, damaged = self._content(name)
                made = state.restore(lines, last)
            except (HttpError, OSError, ValueError, KeyError, TypeError) as error:
                log.error("subscription %s cannot be read and rests: %s", subscription_id.decode(), error)
                continue
            if made is None:
                continue
            self._sizes[name] = len(made.snapshot())
            if damaged:
                log.error("subscription %s: a part of its history was damaged; it begins a new wake", made.id)
                made.generation += _SKIP
                made.clear()
                self._replaced[name] = None
                made.number += 1
                self._make(_name(made), made.snapshot())
            found.append(made)
        return (rings[-1] if rings else None), found

    def _load_keys(self, name: bytes) -> list[keys.Keyring]:
        try:
            return [keys.restore(orjson.loads(self._content(name)[0][0]))]
        except (HttpError, OSError, ValueError, KeyError, IndexError) as error:
            log.error(
                "keys cannot be read (%s); new ones will be made, receivers must fetch them", type(error).__name__
            )
            return []

    def _content(self, name: bytes) -> tuple[list[bytes], bool]:
        """(complete lines, was something lost?)"""
        stream = self._store.get(name)
        assert stream is not None
        damage = stream.damage
        end = stream.visible if damage is None else damage[0]
        return self._reader.load(stream, 0, end).splitlines(), damage is not None


def links_size(keys: Iterable[bytes]) -> int:
    """At most so many bytes does a change with the links of `keys` take (every byte may be escaped)."""
    return 4096 + sum(6 * len(key) + 80 for key in keys)


def _setter(future: asyncio.Future[None]) -> Callable[[], None]:
    def done() -> None:
        if not future.done():
            future.set_result(None)

    return done


def _name(subscription: Subscription) -> bytes:
    return b"%b%b/%d" % (_PREFIX, subscription.id.encode(), subscription.number)
