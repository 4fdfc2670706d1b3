"""At every worker but the desk: tells the desk of the streams here that subscriptions want, and when they change."""

from __future__ import annotations

from switchgear_streams import catalog
from switchgear_streams.service import Service
from switchgear_streams.stream import Stream
from switchgear_streams.subscriptions import scan
from switchgear_streams.subscriptions.changes import Changes
from switchgear_streams.subscriptions.globs import Glob
from switchgear_streams.subscriptions.index import Index
from switchgear_streams.workers.mesh import Mesh
from switchgear_streams.workers.placing import DESK

_AT_ONCE = 500
_CACHE = 100_000

Figures = tuple[int, int, int, int]


class _Wish:
    """What one subscription wants to hear of."""

    def __init__(self, pattern: str | None, wake_stream: str | None) -> None:
        self._glob = None if pattern is None else Glob(pattern)
        self._wake_stream = None if wake_stream is None else wake_stream.encode()
        self.prefix = None if self._glob is None else self._glob.prefix
        self.explicit: set[bytes] = set()

    def wants(self, key: bytes) -> bool:
        if key in self.explicit:
            return True
        return self._glob is not None and key[:1] != b"\0" and key != self._wake_stream and self._glob.matches(key)


class Scout:
    """Of one service."""

    def __init__(self, service: Service, number: int, mesh: Mesh) -> None:
        self._service = service
        self._number = number
        self._mesh = mesh
        self._wishes: dict[str, _Wish] = {}
        self._index: Index[_Wish] = Index()
        self._wanted: dict[bytes, bool] = {}
        self._changes = Changes(service.store, self._concerns, lambda key: self._tell([key]))

    async def watch(
        self, subscription: str, pattern: str | None, wake_stream: str | None, explicit: list[bytes], now: bool
    ) -> None:
        """From now on tell of these; with `now` first of all that there are."""
        wish = self._wishes.get(subscription)
        new = wish is None
        if wish is None:
            wish = self._wishes[subscription] = _Wish(pattern, wake_stream)
            if wish.prefix is not None:
                self._index.add_pattern(wish.prefix, wish)
        wish.explicit.update(explicit)
        for key in explicit:
            self._index.add_name(key, wish)
        self._wanted.clear()
        self._changes.listen(True)
        if not now:
            return
        for start in range(0, len(explicit), _AT_ONCE):
            self._tell(explicit[start : start + _AT_ONCE])
        if new and pattern is not None:
            async for keys in scan.wanted(self._service.store, wish.wants):
                if keys:
                    self._tell(keys)

    async def survey(self) -> None:
        """Tell of all that any subscription wants: one walk for all of them."""
        if self._wishes:
            async for keys in scan.wanted(self._service.store, self._concerns):
                if keys:
                    self._tell(keys)

    def unwatch(self, subscription: str, key: bytes) -> None:
        """It is not wanted by its name any more."""
        wish = self._wishes.get(subscription)
        if wish is not None:
            wish.explicit.discard(key)
            self._index.drop_name(key, wish)
            self._wanted.pop(key, None)

    def forget(self, subscription: str) -> None:
        wish = self._wishes.pop(subscription, None)
        if wish is not None:
            if wish.prefix is not None:
                self._index.drop_pattern(wish.prefix, wish)
            for key in wish.explicit:
                self._index.drop_name(key, wish)
        self._wanted.clear()
        self._changes.listen(bool(self._wishes))

    def catch_up(self) -> None:
        """Tell everything that is durable by now."""
        self._changes.catch_up()

    def _concerns(self, key: bytes) -> bool:
        found = self._wanted.get(key)
        if found is None:
            if len(self._wanted) >= _CACHE:
                self._wanted.clear()
            found = self._wanted[key] = key[:1] != b"\0" and any(one.wants(key) for one in self._index.candidates(key))
        return found

    def _tell(self, keys: list[bytes]) -> None:
        for key in keys:
            self._changes.look_again(key)
        self._mesh.send(DESK, "notices", (self._number, [(key, self._figures(key)) for key in keys]))

    def _figures(self, key: bytes) -> Figures | None:
        """Without unpacking it for good: a scan must not fill the memory."""
        one = self._service.store.streams.get(key)
        if one is None:
            return None
        stream = one if isinstance(one, Stream) else catalog.unpack_body(one)
        if not stream.durable_born or stream.gone or stream.expired(self._service.store.clock()):
            return None
        return stream.generation, stream.space, stream.base, stream.visible
