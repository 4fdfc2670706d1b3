"""One subscription: what it is, what it has acknowledged, and its wake. Pure: every function of time takes the time.

A wake goes through phases: WAKING (to be delivered; retried), OFFERED (pull-wake: the event is in the wake stream,
nobody has claimed it), LEASED (somebody works on it until `lease_until`). At most one wake exists; each has a
generation of its own, higher than all before, and everything that names another one is fenced.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from switchgear_streams.subscriptions.config import Config
from switchgear_streams.subscriptions.errors import Refused, fenced
from switchgear_streams.subscriptions.globs import Glob

WAKING, OFFERED, LEASED = "waking", "offered", "leased"
RETRY_MS = (1000, 60_000)
FAILED_AFTER = 6
"""Failed attempts in a row after which the status says so (the pauses are at their longest then)."""
FOREVER = 1 << 62


@dataclass(slots=True)
class Link:
    """A stream of the subscription. `generation` 0: the stream was not there when it was linked."""

    generation: int
    position: int
    explicit: bool


@dataclass(slots=True)
class Wake:
    """The one in flight; its generation is the subscription's."""

    id: str
    phase: str
    holder: str | None = None
    lease_until: int = 0


@dataclass(slots=True, eq=False)
class Subscription:
    """`links` holds every stream that it has; `pending` those with something beyond what is acknowledged."""

    id: str
    config: Config
    base: str
    created: int
    incarnation: str
    number: int = 1
    """Of the stream that its state is written to."""
    generation: int = 0
    wake: Wake | None = None
    attempts: int = 0
    next_at: int = 0
    links: dict[bytes, Link] = field(default_factory=dict)
    pending: dict[bytes, None] = field(default_factory=dict)
    removed: bool = False
    delivering: str = ""
    """Id of the wake whose delivery is under way."""
    _glob: Glob | None = None

    def __post_init__(self) -> None:
        if self.config.pattern is not None:
            self._glob = Glob(self.config.pattern)

    @property
    def prefix(self) -> bytes | None:
        """What every stream of its pattern begins with; None: it has no pattern."""
        return None if self._glob is None else self._glob.prefix

    def globs(self, key: bytes) -> bool:
        """Is this stream linked by the pattern? Its own wake stream never is."""
        glob, wake_stream = self._glob, self.config.wake_stream
        if glob is None or key[:1] == b"\0" or not glob.matches(key):
            return False
        return wake_stream is None or key != wake_stream.encode()

    @property
    def status(self) -> str:
        return "failed" if self.attempts >= FAILED_AFTER else "active"

    # -- transitions --

    def begin(self, wake_id: str, now: int) -> None:
        """A new wake."""
        self.generation += 1
        self.wake = Wake(wake_id, WAKING)
        self.next_at = now

    def lease(self, holder: str, now: int) -> None:
        """Somebody has it, or goes on having it."""
        assert self.wake is not None
        self.wake.phase, self.wake.holder = LEASED, holder
        self.wake.lease_until = now + self.config.lease_ttl_ms
        self.attempts = 0

    def fail(self, now: int, chance: float) -> None:
        """A delivery failed. `chance` in [0, 1) spreads the pause by a fifth to either side."""
        low, high = RETRY_MS
        pause = min(high, low << min(self.attempts, 16))
        self.attempts += 1
        self.next_at = now + int(pause * (0.8 + 0.4 * chance))

    def clear(self) -> None:
        """The wake is over."""
        self.wake = None
        self.attempts = 0

    def expired(self, now: int) -> bool:
        wake = self.wake
        return wake is not None and wake.phase == LEASED and wake.lease_until <= now

    def next_event(self, now: int) -> int:
        """When time alone changes something (Unix ms)."""
        wake = self.wake
        if wake is None or wake.phase == OFFERED:
            return FOREVER
        if wake.phase == LEASED:
            return wake.lease_until
        return self.next_at if self.delivering != wake.id else FOREVER

    def check(self, wake_id: str, generation: int, token_generation: int) -> Wake:
        """The wake, if these name it. Raises Refused 409 FENCED."""
        wake = self.wake
        if wake is None or wake.id != wake_id or not generation == token_generation == self.generation:
            raise fenced()
        return wake

    # -- durable form --

    def snapshot(self, links: Iterable[bytes] | None = None) -> bytes:
        """Everything, as one line. `links`: what `written` made of them, where that was done before."""
        config = {**asdict(self.config), "streams": list(self.config.streams)}
        fixed = {"id": self.id, "config": config, "base": self.base, "created": self.created}
        whole = {**fixed, "incarnation": self.incarnation, **self._moving()}
        if links is None:
            return _line({**whole, "l": self._links(self.links)})
        return b"%b%b]}\n" % (orjson.dumps({**whole, "l": []})[:-2], b",".join(piece for piece in links if piece))

    def written(self, keys: Iterable[bytes]) -> bytes:
        """The links of `keys`, for `snapshot`: of a key that comes twice, the later one counts."""
        return orjson.dumps(self._links(keys))[1:-1]

    def delta(self, keys: Iterable[bytes]) -> bytes:
        """What changes, with the links of `keys`, as one line."""
        return _line({**self._moving(), "l": self._links(keys)})

    def _moving(self) -> dict[str, Any]:
        wake = self.wake
        made = None if wake is None else [wake.id, wake.phase, wake.holder, wake.lease_until]
        return {"g": self.generation, "w": made, "r": [self.attempts, self.next_at]}

    def _links(self, keys: Iterable[bytes]) -> list[list[Any]]:
        made: list[list[Any]] = []
        for key in keys:
            link = self.links.get(key)
            path = key.decode()
            made.append([path] if link is None else [path, link.generation, link.position, link.explicit])
        return made

    def apply(self, raw: dict[str, Any]) -> None:
        """A line that `delta` made."""
        self.generation = raw["g"]
        wake = raw["w"]
        self.wake = None if wake is None else Wake(wake[0], wake[1], wake[2], wake[3])
        self.attempts, self.next_at = raw["r"]
        for path, *link in raw["l"]:
            if link:
                self.links[path.encode()] = Link(link[0], link[1], link[2])
            else:
                self.links.pop(path.encode(), None)


def restore(lines: Iterable[bytes], number: int) -> Subscription | None:
    """From what was written: a snapshot, then deltas. None if there is no snapshot. Raises ValueError, KeyError."""
    made: Subscription | None = None
    for line in lines:
        raw = orjson.loads(line)
        if made is None:
            config = raw["config"]
            config["streams"] = tuple(config["streams"])
            made = Subscription(raw["id"], Config(**config), raw["base"], raw["created"], raw["incarnation"], number)
        made.apply(raw)
    return made


def _line(raw: dict[str, Any]) -> bytes:
    return orjson.dumps(raw) + b"\n"


def already_claimed(holder: str | None, generation: int) -> Refused:
    return Refused(
        409,
        "ALREADY_CLAIMED",
        "Another worker has this wake; wait until it is done or its lease ends.",
        current_holder=holder or "",
        generation=generation,
    )


def no_pending_work() -> Refused:
    return Refused(409, "NO_PENDING_WORK", "Everything is acknowledged; wait for the next wake event.")
