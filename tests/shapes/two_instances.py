"""Two instances of one stream, which take turns at writing, and clients that ask now one, now the other."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import httpx

from tests.shapes.server import Client, ShapesServer
from tests.shapes.tag_client import TagClient
from tests.shapes.test_subset_log import OnDemand

ENDINGS = ("stop", "kill", "kill the other", "stop the other", "kill both")


class Pair:
    """`active` writes. `other` waits for the lock and serves what is known; it takes over when `active` ends."""

    def __init__(self, make_server: Callable[..., ShapesServer], **environment: str) -> None:
        self._make = lambda: make_server("one", **environment)
        self.active = self._make().start()
        self.other = self._make().start(active=False)
        self.hand_overs = 0
        self.wait_ready()

    def any(self, rng: random.Random) -> ShapesServer:
        return rng.choice([self.active, self.other])

    def end(self, how: str, meanwhile: Callable[[], object]) -> None:
        """End one of the two, or both, and have two again; `meanwhile` runs after the end."""
        if how in ("kill the other", "stop the other"):
            _end(self.other, how)
            meanwhile()
            self.other.start(active=False)
            return
        _end(self.active, how)
        if how == "kill both":
            self.other.kill()
            meanwhile()
            self.other.start(active=False)
        else:
            meanwhile()
        self.active, self.other = self.other, self.active
        self.hand_overs += 1
        self.active.wait_active()
        self.other.start(active=False)

    def wait_ready(self) -> None:
        """Whoever writes after whatever happened: one does, and the other reads along."""
        deadline = time.monotonic() + 90
        while True:
            states = [self.active.health(), self.other.health()]
            if sorted(states) == [(200, "active"), (202, "waiting")]:
                break
            assert time.monotonic() < deadline, (states, self.active.log()[-4000:])
            time.sleep(0.05)
        if states[1] == (200, "active"):
            self.active, self.other = self.other, self.active
            self.hand_overs += 1
        reads = f"{self.other.url}/ready?standby=true"
        self.other.wait(lambda: self.other.http.get(reads).status_code == 200, 60, "the other to read along")


def _end(server: ShapesServer, how: str) -> None:
    if how.startswith("stop"):
        assert server.stop() == 0
    else:
        server.kill()


def poll(client: Client) -> None:
    """One live request; an instance that ends in the middle is asked again by whoever comes next."""
    try:
        assert client.step(live=client.up_to_date).status_code in (200, 409, 503)
    except httpx.TransportError:
        return


class Roaming(Client):
    """Goes on at the instance that writes when its shape has ended: only that one makes a new one."""

    def __init__(self, pair: Pair, **params: str) -> None:
        super().__init__(pair.active, **params)
        self._pair = pair

    def step(self, *, live: bool = False) -> httpx.Response:
        response = super().step(live=live)
        if response.status_code in (409, 503):
            self.server = self._pair.active
        return response


class RoamingTags(Roaming, TagClient):
    """The same for a shape with subqueries."""


class Loader(Roaming, OnDemand):
    """Loads rows on demand, from whichever instance answers, and begins again when its shape has ended."""

    def __init__(self, pair: Pair, **params: str) -> None:
        super().__init__(pair, **params)
        self.loaded: list[tuple[int, int]] = []
        """Of which ids it must have all rows."""

    def restart(self, handle: str | None) -> None:
        Client.restart(self, handle)
        self.snapshots.clear()
        self.loaded.clear()

    def load_some(self, rng: random.Random) -> None:
        if rng.random() < 0.2:
            self._request(where=f"kind = '{rng.choice('xyz')}'", order_by="id DESC", limit="4")
            return
        start = rng.randrange(60)
        end = start + rng.choice([1, 10, 60])
        self._request(where=f"id >= {start} AND id < {end}", order_by="id")
        self.loaded.append((start, end))

    def _request(self, **subset: str) -> None:
        deadline = time.monotonic() + 60
        while True:
            assert time.monotonic() < deadline, f"no subset\n{self.server.log()[-4000:]}"
            params: dict[str, Any] = {**self.params, **{f"subset__{name}": text for name, text in subset.items()}}
            if self.handle is not None:
                params["handle"] = self.handle
            try:
                response = self.server.get(**params, offset=self.offset)
            except httpx.TransportError:
                time.sleep(0.05)
                continue
            if response.status_code == 200:
                self._join(response)
                return
            assert response.status_code in (409, 503), response.text
            self.server = self._pair.active
            if response.status_code == 409:
                self.restart(response.headers.get("electric-handle"))
            time.sleep(0.05)

    def check(self, rows: list[tuple[Any, ...]], columns: list[str]) -> None:
        """`rows` are the shape's: each that is here is one of them, and none that was loaded is missing."""
        have = {tuple(row[name] for name in columns) for row in self.rows.values()}
        assert have <= set(rows), (self.params, sorted(have - set(rows), key=repr))
        must = {row for row in rows if any(start <= int(row[0]) < end for start, end in self.loaded)}
        assert must <= have, (self.params, self.loaded, sorted(must - have, key=repr))
