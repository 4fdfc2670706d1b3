"""What a server does by itself about once a second: expiry, retention, keep-alives, last accesses, memory.

What it must not do: take long; what is left over comes with the next round.
"""

from __future__ import annotations

import asyncio
import logging
import time

from switchgear_streams.checkpoint import Checkpointer
from switchgear_streams.live import Hub
from switchgear_streams.reads import Reader
from switchgear_streams.store import Store
from switchgear_streams.subscriptions.engine import Engine
from switchgear_streams.trimming import Trimmer
from switchgear_streams.wal import Room
from switchgear_wire.metrics import Counter

log = logging.getLogger("switchgear.streams")

BATCH = 1000
"""So many streams expire at once."""
_PAUSE = 0.05
TOUCH_EVERY = 10
TIDY_EVERY = 30
STALE = 30.0


class Upkeep:
    """See the module."""

    def __init__(
        self, store: Store, reader: Reader, hub: Hub, engine: Engine, checkpointer: Checkpointer, expired: Counter
    ) -> None:
        """`expired` counts the streams that it removes because their time is over."""
        self._store = store
        self._hub = hub
        self._engine = engine
        self._checkpointer = checkpointer
        self.trimmer = Trimmer(store, reader)
        self._expired = expired
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._ticked = time.monotonic()

    def start(self) -> None:
        self._ticked = time.monotonic()
        self._task = asyncio.ensure_future(self._run())

    def stop(self) -> None:
        self._stopped = True
        if self._task is not None:
            self._task.cancel()

    @property
    def well(self) -> bool:
        """Does it go on?"""
        return time.monotonic() - self._ticked < STALE

    async def _run(self) -> None:
        beats, touching = 0, False
        while True:
            await asyncio.sleep(1.0)
            beats += 1
            try:
                self._hub.tick()
                self._engine.tick()
                self.sweep()
                if touching or beats % TOUCH_EVERY == 0:
                    touching = self._store.flush_touches()
                if beats % TIDY_EVERY == 0:
                    self._checkpointer.tidy()
                self._store.pack_idle()
                self._ticked = time.monotonic()
            except Exception:
                log.exception("periodic work failed")

    def sweep(self) -> None:
        """Remove what has expired, trim and squeeze what holds too much."""
        store = self._store
        if store.hold is not None or self._stopped:
            return
        found = 0
        over = store.deadlines.expired(store.clock(), BATCH)
        while over:
            stream = over.pop()
            if store.log.room(len(stream.key) + 1024, reserved=True) is not Room.OK:
                for one in (stream, *over):
                    store.deadlines.watch(one)
                return
            if store.hold_on(stream) is not None:
                store.deadlines.watch(stream)
                continue
            self._expired.value += 1
            store.delete(stream, lambda: None)
            found += 1
        more = self.trimmer.sweep()
        if store.ripe:
            self._checkpointer.request_squeezes()
        if more or found == BATCH:
            asyncio.get_running_loop().call_later(_PAUSE, self.sweep)
