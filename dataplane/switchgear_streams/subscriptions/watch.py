"""What subscriptions have to do with streams: which ones are theirs, and what in them is new."""

from __future__ import annotations

from abc import ABC, abstractmethod

from switchgear_streams import catalog
from switchgear_streams.store import Store
from switchgear_streams.stream import Stream
from switchgear_streams.subscriptions.changes import Changes
from switchgear_streams.subscriptions.neighbours import Neighbours, Seen
from switchgear_streams.subscriptions.state import Link, Subscription

_CACHE = 100_000


class Watch(ABC):
    """The part of the engine that looks at streams."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.neighbours = Neighbours()
        self.subscriptions: dict[str, Subscription] = {}
        self._linked: dict[bytes, tuple[Subscription, ...]] = {}
        self._changes = Changes(store, lambda key: bool(self._matching(key)), self.noticed)
        self._stopped = False

    @abstractmethod
    def kick(self, subscription: Subscription) -> None:
        """A stream of this subscription changed."""

    def _look(self) -> None:
        self._changes.listen(bool(self.subscriptions) and not self._stopped)

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

    def _matching(self, key: bytes) -> tuple[Subscription, ...]:
        found = self._linked.get(key)
        if found is None:
            if len(self._linked) >= _CACHE:
                self._linked.clear()
            found = tuple(
                each
                for each in self.subscriptions.values()
                if ((link := each.links.get(key)) is not None and link.explicit) or each.globs(key)
            )
            self._linked[key] = found
        return found

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
        one = self.store.streams[key]
        stream = one if isinstance(one, Stream) else catalog.unpack_body(one)
        return None if stream.gone or stream.expired(self.store.clock()) else stream

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
