"""At the desk: the streams of the other workers that subscriptions look at, kept up to date by their scouts.

Invariant: an entry is what its worker said last; entries that no subscription wants are thrown away, for nobody keeps
them up to date.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from switchgear_streams.subscriptions.engine import Engine
from switchgear_streams.subscriptions.neighbours import Neighbours, Seen
from switchgear_streams.subscriptions.state import Subscription
from switchgear_streams.workers.mesh import Mesh
from switchgear_streams.workers.share import Share


class Entry(NamedTuple):
    """A stream of another worker, as its readers see it."""

    peer: int
    generation: int
    space: int
    base: int
    visible: int


class Directory(Neighbours):
    """Of one service."""

    def __init__(self, engine: Engine, share: Share, mesh: Mesh) -> None:
        self._engine = engine
        self._share = share
        self._mesh = mesh
        self._entries: dict[bytes, Entry] = {}
        self._coming: list[tuple[Subscription, set[bytes]]] = []
        """What is not linked yet, but will be."""
        self._quiet = True

    async def open(self) -> None:
        """Hear of everything that the subscriptions of the last run want."""
        for subscription in self._engine.subscriptions.values():
            explicit = [key for key, link in subscription.links.items() if link.explicit]
            await self.watch(subscription, explicit)
        self._quiet = False

    def hear(self, peer: int, notices: list[tuple[bytes, tuple[int, int, int, int] | None]]) -> None:
        """The scout of a worker says how streams are now (None: not there)."""
        for key, figures in notices:
            if figures is not None:
                self._entries[key] = Entry(peer, *figures)
            elif (known := self._entries.get(key)) is None or known.peer != peer:
                continue  # another worker has it, or nobody
            else:
                del self._entries[key]
            if not self._quiet:
                self._engine.noticed(key)

    def get(self, key: bytes) -> Seen | None:
        return self._entries.get(key)

    def items(self) -> Iterable[tuple[bytes, Seen]]:
        return list(self._entries.items())

    async def watch(self, subscription: Subscription, explicit: Iterable[bytes]) -> None:
        keys = set(explicit)
        config = subscription.config
        self._coming.append((subscription, keys))
        try:
            value = (self._share.number, subscription.incarnation, config.pattern, config.wake_stream, list(keys))
            await self._mesh.ask_all("watch", value)
        finally:
            # Whoever waited for this makes the links in the same step, before anything else runs.
            asyncio.get_running_loop().call_soon(self._coming.remove, (subscription, keys))

    def forget(self, subscription: Subscription) -> None:
        for peer in self._mesh.peers:
            self._mesh.send(peer, "forget", (self._share.number, subscription.incarnation))
        for key in [key for key in self._entries if not self._wanted(key)]:
            del self._entries[key]

    def _wanted(self, key: bytes) -> bool:
        return self._engine.wanted(key) or any(key in keys or one.globs(key) for one, keys in self._coming)

    async def catch_up(self) -> None:
        await self._mesh.ask_all("catch_up", self._share.number)

    async def settled(self) -> None:
        await self._mesh.ask_all("settled", self._share.number)

    async def position(self, key: bytes, token: str) -> int:
        return await self._share.position_for(key, token)
