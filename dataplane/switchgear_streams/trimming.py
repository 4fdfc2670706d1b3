"""Retention at work: looks at streams that may hold too much, and lets their oldest appends go, whole.

What it must not do: touch files or memory of a stream; it puts a trim on the log (`Store.trim`), and a later checkpoint
gives the space back. Invariants: it cuts only where an append ends, only what is durable, and never the newest append
for its size.
"""

from __future__ import annotations

import logging
from itertools import islice

from switchgear_streams import records
from switchgear_streams.reads import Reader
from switchgear_streams.rules import retention
from switchgear_streams.store import Store
from switchgear_streams.stream import Stream
from switchgear_streams.wal import Room
from switchgear_wire.errors import HttpError

log = logging.getLogger("switchgear.streams.trimming")

AT_ONCE = 500


class Trimmer:
    """Called about once a second."""

    def __init__(self, store: Store, reader: Reader) -> None:
        self._store = store
        self._reader = reader
        self.trims = 0
        self.trimmed_bytes = 0

    def sweep(self) -> bool:
        """Look at some overdue streams. Returns whether others wait."""
        store = self._store
        now = store.clock()
        for key in list(islice(store.deadlines.overdue, AT_ONCE)):
            if store.log.room(len(key) + records.OVERHEAD + 128, reserved=True) is not Room.OK:
                return False
            del store.deadlines.overdue[key]
            stream = store.get(key)
            if stream is None or stream.leaving is not None or stream.gone:
                continue
            if stream.damage is not None or not stream.durable_born:
                continue
            if stream.ripe:  # by key: the next checkpoint does it, if the present one does not
                if not stream.sealing:
                    store.mark(stream)
                    store.ripe = True
                continue
            first = self._first(stream, now)
            if first > stream.first:
                self.trims += 1
                self.trimmed_bytes += first - stream.first
                store.trim(stream, first)
            elif stream.visible != stream.end:
                store.deadlines.overdue[key] = None
            else:
                store.deadlines.watch(stream, cut=True)
        return bool(store.deadlines.overdue)

    def _first(self, stream: Stream, now: int) -> int:
        """Where the stream should begin."""
        bounds = self._store.deadlines.bounds(stream)
        first = stream.first
        if bounds.seconds is not None:
            first = max(first, self._by_age(stream, now, bounds.seconds))
        if bounds.size is not None and retention.crowded(stream.end - max(first, stream.base), bounds.size):
            first = max(first, self._by_size(stream, bounds.size))
        return min(first, stream.visible)

    def _by_age(self, stream: Stream, now: int, seconds: int) -> int:
        if not stream.ages:  # nothing was appended since there is a bound
            return stream.visible if now >= self._store.deadlines.begun + seconds * 1000 else 0
        old = retention.aged(stream.ages, now, seconds)
        return stream.ages[old - 1][1] if old else 0

    def _by_size(self, stream: Stream, size: int) -> int:
        """The first end of an append from which on there are at most `size` bytes; before the last append at most."""
        target = max(stream.end - size, stream.base)
        try:
            end = self._reader.append_end(stream, target - 1)
            if end is None or end < stream.visible:
                return end or 0
            return self._store.packs.append_start(stream, target)
        except (HttpError, OSError) as error:
            log.error("cannot look where to cut %r: %s", stream.key, error)
            return 0
