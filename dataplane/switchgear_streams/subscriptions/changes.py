"""Which streams changed, told once that is durable.

Invariant: while nobody listens, the store has nobody to tell (`store.on_change` is None), and nothing is done here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from switchgear_streams.store import Store
from switchgear_streams.stream import Stream


class Changes:
    """`concerns`: does a stream's name matter? `tell`: the stream of this name is not as it was."""

    def __init__(self, store: Store, concerns: Callable[[bytes], bool], tell: Callable[[bytes], None]) -> None:
        self._store = store
        self._concerns = concerns
        self._tell = tell
        self._changed: dict[bytes, int] = {}
        self._waiting = False

    def listen(self, on: bool) -> None:
        self._store.on_change = self._on_change if on else None

    def look_again(self, key: bytes) -> None:
        """Is something of this stream under way from before anybody listened, or told? Then tell when it is durable."""
        stream = self._store.streams.get(key)
        if isinstance(stream, Stream) and stream.last_block > self._store.log.durable:
            self._changed[key] = stream.last_block
            self._await_durable()

    def catch_up(self) -> None:
        """Tell everything that is durable by now."""
        ready = [key for key, block in self._changed.items() if block <= self._store.log.durable]
        for key in ready:
            del self._changed[key]
            self._tell(key)

    def _on_change(self, stream: Stream) -> None:
        """A change of `stream` was put on the log: look again when it is durable."""
        if self._concerns(stream.key):
            self._changed[stream.key] = stream.last_block
            self._await_durable()

    def _await_durable(self) -> None:
        if not self._waiting and self._changed:
            self._waiting = True
            wal = self._store.log
            wal.wait(min(self._changed.values(), default=0)).add_done_callback(self._durable)

    def _durable(self, _: asyncio.Future[None]) -> None:
        self._waiting = False
        self.catch_up()
        self._await_durable()
