"""What subscriptions have to do with streams: which ones are theirs, and what in them is new."""

from __future__ import annotations

from abc import ABC, abstractmethod

from switchgear_streams import catalog
from switchgear_streams.store import Store
from switchgear_streams.stream import Stream
from switchgear_streams.subscriptions import scan
from switchgear_streams.subscriptions.changes import Changes
from switchgear_streams.subscriptions.errors import Refused
from switchgear_streams.subscriptions.index import Index
from switchgear_streams.subscriptions.neighbours import Neighbours, Seen
from switchgear_streams.subscriptions.state import Link, Subscription

MAX_LINKED = 100_000
"""Streams that may match a new subscription; later ones are without bound."""
_CACHE = 100_000


class Watch(ABC):
    """The part of the engine that looks at streams."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.neighbours = Neighbours()
        self.subscriptions: dict[str, Subscription] = {}
        self._linked: dict[bytes, tuple[Subscription, ...]] = {}
        self._index: Index[Subscription] = Index()
        self._forming: dict[Subscription, dict[bytes, None]] = {}
        """Those that are being made, with the names of their streams that changed meanwhile."""
        self._changes = Changes(store, self._concerns, self.noticed)
        self._stopped = False

    @abstractmethod
    def kick(self, subscription: Subscription) -> None:
        """A stream of this subscription changed."""

    def _look(self) -> None:
        self._changes.listen(bool(self.subscriptions or self._forming) and not self._stopped)

    def _enlist(self, subscription: Subscription) -> None:
        """From now on it is one of them."""
        self.subscriptions[subscription.id] = subscription
        if subscription.prefix is not None:
            self._index.add_pattern(subscription.prefix, subscription)
        for key, link in subscription.links.items():
            if link.explicit:
                self._index.add_name(key, subscription)

    def _strike(self, subscription: Subscription) -> None:
        """It is none of them any more."""
        if self.subscriptions.get(subscription.id) is subscription:
            del self.subscriptions[subscription.id]
        if subscription.prefix is not None:
            self._index.drop_pattern(subscription.prefix, subscription)
        for key, link in subscription.links.items():
            if link.explicit:
                self._index.drop_name(key, subscription)

    # -- streams --

    def stream(self, key: bytes) -> Seen | None:
        """The stream as readers see it."""
        found = self.store.get(key)
        return self.neighbours.get(key) if found is None else self._usable(found, self.store.clock())

    @staticmethod
    def _usable(stream: Stream, now: int) -> Stream | None:
        return stream if stream.durable_born and not stream.gone and not stream.expired(now) else None

    def catch_up(self) -> None:
        """Take notice of everything that is durable by now."""
        self._changes.catch_up()

    def noticed(self, key: bytes) -> None:
        """The stream of this name is not as it was."""
        stream = self.stream(key)
        for subscription in self._matching(key):
            self._refresh(subscription, key, stream)
            self.kick(subscription)

    def wanted(self, key: bytes) -> bool:
        """Does any subscription look at the stream of this name?"""
        return bool(self._matching(key))

    def _concerns(self, key: bytes) -> bool:
        for subscription, changed in self._forming.items():
            if subscription.globs(key):
                changed[key] = None
        return bool(self._matching(key))

    def _matching(self, key: bytes) -> tuple[Subscription, ...]:
        found = self._linked.get(key)
        if found is None:
            if len(self._linked) >= _CACHE:
                self._linked.clear()
            found = self._linked[key] = self._find(key)
        return found

    def _find(self, key: bytes) -> tuple[Subscription, ...]:
        return tuple(
            each
            for each in self._index.candidates(key)
            if ((link := each.links.get(key)) is not None and link.explicit) or each.globs(key)
        )

    def _refresh(self, subscription: Subscription, key: bytes, stream: Seen | None) -> None:
        """Bring link and pending work in line with the stream (None: it is not there)."""
        link = subscription.links.get(key)
        if stream is None:
            subscription.pending.pop(key, None)
            if link is not None and link.explicit:
                link.generation = link.position = 0
            else:
                subscription.links.pop(key, None)
            return
        if link is None:
            link = subscription.links[key] = Link(stream.generation, stream.base, False)
        elif link.generation != stream.generation:
            link.generation, link.position = stream.generation, stream.base
        if stream.visible > link.position:
            subscription.pending[key] = None
        else:
            subscription.pending.pop(key, None)

    def _forget_matches(self) -> None:
        self._linked.clear()

    def _found(self, key: bytes) -> Stream | None:
        """Without unpacking it for good: a scan must not fill the memory."""
        one = self.store.streams.get(key)
        if one is None:
            return None
        stream = one if isinstance(one, Stream) else catalog.unpack_body(one)
        return None if stream.gone or stream.expired(self.store.clock()) else stream

    async def _link_all(self, subscription: Subscription, changed: dict[bytes, None], written: list[bytes]) -> None:
        """What its pattern stands for, each at its tail at some moment. What changes meanwhile gets into `changed`.

        What can be long is done bit by bit: `written` gets the links as `snapshot` takes them.
        """
        if subscription.prefix is None:
            return
        wal = self.store.log
        async for found in scan.wanted(self.store, subscription.globs):
            for key in found:
                one = self.store.streams.get(key)
                if isinstance(one, Stream) and one.last_block > wal.durable:
                    changed[key] = None
                else:
                    self._link_found(subscription, key, self._found(key))
            written.append(subscription.written(key for key in found if key in subscription.links))

    @staticmethod
    def _link_found(subscription: Subscription, key: bytes, stream: Seen | None) -> None:
        if stream is not None:
            subscription.links[key] = Link(stream.generation, stream.visible, False)
            if len(subscription.links) > MAX_LINKED:
                raise Refused(400, "INVALID_REQUEST", f"More than {MAX_LINKED} streams match; narrow it down.")

    def _tail_link(self, key: bytes, explicit: bool) -> Link:
        stream = self.stream(key)
        return Link(0, 0, explicit) if stream is None else Link(stream.generation, stream.visible, explicit)

    def acknowledge(self, subscription: Subscription, acks: dict[bytes, tuple[int, int]]) -> list[bytes]:
        """Move links to (generation, position), never back. Returns the keys that changed."""
        changed: list[bytes] = []
        for key, (generation, position) in acks.items():
            link = subscription.links.get(key)
            if link is not None and link.generation == generation and position > link.position:
                link.position = position
                changed.append(key)
                self._refresh(subscription, key, self.stream(key))
        return changed
