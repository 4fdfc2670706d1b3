"""At the desk: the streams of the other workers that subscriptions look at, kept up to date by their scouts.

Invariant: an entry is what its worker said last; entries that no subscription wants are thrown away, for nobody keeps
them up to date. A name can have moved from one worker to another, and what they say comes in any order: there is an
entry for each, and the one that counts is that of which something new was heard last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple

from switchgear_streams.subscriptions.engine import Engine
from switchgear_streams.subscriptions.neighbours import Neighbours, Seen
from switchgear_streams.subscriptions.state import Subscription
from switchgear_streams.workers.mesh import Mesh
from switchgear_streams.workers.share import Share


class Entry(NamedTuple):
    """A stream of another worker, as its readers see it."""

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
        self._entries: dict[bytes, dict[int, Entry]] = {}
        """By the worker that has it; the last one counts."""
        self._coming: list[tuple[Subscription, set[bytes]]] = []
        """What is not linked yet, but will be."""
        self._quiet = True

    async def open(self) -> None:
        """Hear of everything that the subscriptions of the last run want."""
        for subscription in self._engine.subscriptions.values():
            explicit = [key for key, link in subscription.links.items() if link.explicit]
            await self._mesh.ask_all("watch", (*self._wish(subscription, explicit), False))
        await self._mesh.ask_all("survey", self._share.number)
        self._quiet = False

    def _wish(self, subscription: Subscription, explicit: Iterable[bytes]) -> tuple[Any, ...]:
        config = subscription.config
        return self._share.number, subscription.incarnation, config.pattern, config.wake_stream, list(explicit)

    def hear(self, peer: int, notices: list[tuple[bytes, tuple[int, int, int, int] | None]]) -> None:
        """The scout of a worker says how streams are now (None: not there)."""
        for key, figures in notices:
            if not self._wanted(key):
                self._entries.pop(key, None)
                continue
            self._enter(peer, key, None if figures is None else Entry(*figures))
            if not self._quiet:
                self._engine.noticed(key)

    def _enter(self, peer: int, key: bytes, entry: Entry | None) -> None:
        entries = self._entries.setdefault(key, {})
        if entry is None:
            entries.pop(peer, None)
            if not entries:
                del self._entries[key]
            return
        known = entries.get(peer)
        if known is None or known.generation != entry.generation:
            entries.pop(peer, None)  # so that it is the last
        entries[peer] = entry

    def get(self, key: bytes) -> Seen | None:
        entries = self._entries.get(key)
        return entries[next(reversed(entries))] if entries else None

    def items(self) -> Iterable[tuple[bytes, Seen]]:
        return [(key, entries[next(reversed(entries))]) for key, entries in self._entries.items()]

    async def watch(self, subscription: Subscription, explicit: Iterable[bytes]) -> None:
        keys = set(explicit)
        self._coming.append((subscription, keys))
        try:
            await self._mesh.ask_all("watch", (*self._wish(subscription, keys), True))
        finally:
            # Whoever waited for this makes the links in the same step, before anything else runs.
            asyncio.get_running_loop().call_soon(self._coming.remove, (subscription, keys))

    def forget(self, subscription: Subscription) -> None:
        for peer in self._mesh.peers:
            self._mesh.send(peer, "forget", (self._share.number, subscription.incarnation))
        for key in [key for key in self._entries if not self._wanted(key)]:
            del self._entries[key]

    def unlinked(self, subscription: Subscription, key: bytes) -> None:
        if not any(one is subscription and key in keys for one, keys in self._coming):  # else it comes back at once
            for peer in self._mesh.peers:
                self._mesh.send(peer, "unwatch", (self._share.number, subscription.incarnation, key))
        if not self._wanted(key):
            self._entries.pop(key, None)

    def _wanted(self, key: bytes) -> bool:
        return self._engine.wanted(key) or any(key in keys or one.globs(key) for one, keys in self._coming)

    async def catch_up(self) -> None:
        await self._mesh.ask_all("catch_up", self._share.number)

    async def settled(self) -> None:
        await self._mesh.ask_all("settled", self._share.number)

    async def position(self, key: bytes, token: str) -> int:
        return await self._share.position_for(key, token)
