"""Retention: how much of a living stream is kept, and up to where it may go. Pure; times are Unix milliseconds.

By age and by size the oldest appends go, whole. By key (`tombstones`), messages go that a newer one of the same key has
replaced (`rules.state`). How old bytes are is known from a list of ages: (time of the last append, position of its
end), closed up to about 64 entries, so that bytes live at most a 64th longer than was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from switchgear_streams.rules import lifetime
from switchgear_wire.errors import HttpError

MAX_BYTES = 1 << 53
DEFAULT_TOMBSTONES = 86_400
_GRAINS = 64
_MIN_GRAIN = 1000
# A stream is cut when it is this part (1/8) above its size, so that busy ones are not cut at every append.
_SLACK = 8

SECONDS, BYTES, KEYS, TOMBSTONES = (
    b"stream-retention-seconds",
    b"stream-retention-bytes",
    b"stream-retention-keys",
    b"stream-retention-tombstone-seconds",
)


class Retention(NamedTuple):
    """`seconds` and `size` (bytes): None for no bound. `tombstones`: seconds that deletions stay, None: no keys."""

    seconds: int | None = None
    size: int | None = None
    tombstones: int | None = None


def parse(headers: Mapping[bytes, bytes], json: bool | None) -> Retention | None:
    """What a PUT asks for; None: nothing. `json` None: a fork, whose type is not known yet. Raises 400."""
    raw = [headers.get(name) for name in (SECONDS, BYTES, KEYS, TOMBSTONES)]
    if not any(value is not None for value in raw):
        return None
    seconds = _number(raw[0], "Stream-Retention-Seconds", lifetime.MAX_TTL)
    size = _number(raw[1], "Stream-Retention-Bytes", MAX_BYTES)
    tombstones = _number(raw[3], "Stream-Retention-Tombstone-Seconds", lifetime.MAX_TTL, zero=True)
    if raw[2] is None:
        if tombstones is not None:
            raise _invalid("Stream-Retention-Tombstone-Seconds goes with Stream-Retention-Keys: state.")
        return Retention(seconds, size)
    if raw[2] != b"state":
        raise _invalid("Stream-Retention-Keys can be: state.")
    if json is False:
        raise _invalid("Stream-Retention-Keys is for streams of application/json.")
    if seconds is not None or size is not None:
        raise _invalid("Stream-Retention-Keys keeps the newest of every key; -Seconds and -Bytes do not go with it.")
    return Retention(None, None, DEFAULT_TOMBSTONES if tombstones is None else tombstones)


def _number(raw: bytes | None, header: str, most: int, zero: bool = False) -> int | None:
    if raw is None:
        return None
    number = lifetime.whole_number(raw)
    if number is None or number > most or (not number and not zero):
        raise _invalid(f"{header} must be a whole number from {0 if zero else 1} to {most} in plain decimal.")
    return number


def _invalid(message: str) -> HttpError:
    return HttpError(400, "INVALID_RETENTION", message)


def effective(own: Retention | None, default: Retention) -> Retention:
    """A stream's own bounds, and the server's for those that it does not name. One kept by key has no others."""
    if own is None:
        return default
    if own.tombstones is not None:
        return own
    return Retention(
        default.seconds if own.seconds is None else own.seconds,
        default.size if own.size is None else own.size,
        own.tombstones,
    )


def age(ages: list[tuple[int, int]], time: int, end: int, seconds: int) -> None:
    """Note that at `time` the stream's end became `end`."""
    if ages:
        time = max(time, ages[-1][0])
        opened = ages[-2][0] if len(ages) > 1 else 0
        if opened and time - opened < max(_MIN_GRAIN, seconds * 1000 // _GRAINS):
            ages[-1] = (time, end)
            return
    ages.append((time, end))


def aged(ages: list[tuple[int, int]], now: int, seconds: int) -> int:
    """How many of the entries are too old."""
    limit = now - seconds * 1000
    count = 0
    while count < len(ages) and ages[count][0] <= limit:
        count += 1
    return count


def crowded(held: int, size: int) -> bool:
    """Is it time to cut a stream that holds `held` bytes and should hold `size`?"""
    return held > size + size // _SLACK
