"""When something has to happen to a stream by itself: it expires, or holds too much, or too old bytes.

What it must not do: change a stream; `upkeep` does, and `trimming`.
Invariant: a stream with a deadline is in the heap with that deadline or an earlier one, and is looked at then.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from switchgear_streams import catalog
from switchgear_streams.rules import retention
from switchgear_streams.rules.retention import Retention
from switchgear_streams.stream import Stream

if TYPE_CHECKING:
    from switchgear_streams.store import Store

_UNBOUNDED = Retention()
MAX_TIME = 1 << 63


class Deadlines:
    """Those of all streams of a store."""

    def __init__(self, store: Store, default: Retention) -> None:
        self._store = store
        self.default = default
        """Bounds for streams that name none."""
        self.bounded = default != Retention()
        self.overdue: dict[bytes, None] = {}
        """Streams that may hold more, or older, bytes than they should (`trimming` looks at them)."""
        self._heap: list[tuple[int, bytes]] = []
        self.begun = store.clock()
        """From then on ages are known: nothing is of those of what was there before there was a bound on them."""

    def bounds(self, stream: Stream) -> Retention:
        """What holds for a stream. (Hidden ones, of subscriptions, are nobody's to cut.)"""
        if stream.key[:1] == b"\0":
            return _UNBOUNDED
        return retention.effective(stream.retention, self.default)

    def due(self, stream: Stream) -> int | None:
        """When it has to be looked at (Unix ms)."""
        if stream.retention is None and not self.bounded:
            return stream.deadline()
        return stream.due(self.bounds(stream))

    def watch(self, stream: Stream, *, cut: bool = False) -> None:
        """Look at it again in time. `cut`: its size was just looked at."""
        deadline = self._next(stream, cut)
        if deadline is not None:
            heapq.heappush(self._heap, (deadline, stream.key))
            if len(self._heap) > 2 * len(self._store.streams) + 1000:
                self.collect()

    def _next(self, stream: Stream, cut: bool = False) -> int | None:
        """Like `due`, also for what has no age, which counts from the start of the server."""
        bounds = self.bounds(stream)
        due = stream.due(bounds._replace(size=None) if cut else bounds)
        if bounds.seconds is None or stream.ages or stream.end <= stream.first:
            return due
        aged = self.begun + bounds.seconds * 1000
        return aged if due is None else min(due, aged)

    def collect(self) -> None:
        """Make the heap anew from the streams that there are."""
        store = self._store
        found: list[tuple[int, bytes]] = []
        # However often this is done: from the start on.
        unknown = 0 if self.default.seconds is None else self.begun + self.default.seconds * 1000
        deadline_of = catalog.deadline_of
        for key, one in store.streams.items():
            due = self.due(one) if type(one) is Stream else deadline_of(one)  # type: ignore[arg-type]
            if due or (unknown and key[:1] != b"\0"):
                found.append((min(due or unknown, unknown or MAX_TIME), key))
        heapq.heapify(found)
        self._heap = found

    def expired(self, now: int, most: int) -> list[Stream]:
        """At most `most` streams whose time is over, each once, however often it is in the heap."""
        found: dict[Stream, None] = {}
        while self._heap and self._heap[0][0] <= now and len(found) < most:
            _, key = heapq.heappop(self._heap)
            stream = self._store.get(key)
            if stream is None or stream.gone or stream.leaving is not None:
                continue
            if stream.expired(now):
                found[stream] = None
                continue
            due = self._next(stream)
            if due is None or due <= now:
                self.overdue[key] = None
            else:
                self.watch(stream)
        return list(found)
