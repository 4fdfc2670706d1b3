"""Offset tokens: `<space>_<position>`, 16 decimal digits each, so that text order is stream order. Pure.

The space is the number of the stream's incarnation (of the root's, for a fork: forks share their source's tokens), so
that a token of a deleted stream is recognised on its successor. The position counts stored bytes. Zeros mean the start.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from switchgear_wire.errors import HttpError

_TOKEN = re.compile(r"([0-9]{16})_([0-9]{16})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Offset:
    """A parsed token. `space` 0 stands for any (only the start has it)."""

    space: int
    position: int


START = Offset(0, 0)


def mint(space: int, position: int) -> bytes:
    """The token of a position."""
    return b"%016d_%016d" % (space, position)


def parse(token: str) -> Offset:
    """A token that this server minted. Raises 400 INVALID_OFFSET."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise HttpError(400, "INVALID_OFFSET", "offset must be -1, now, or a Stream-Next-Offset that this server gave.")
    offset = Offset(int(match[1]), int(match[2]))
    if offset.space == 0 and offset.position != 0:
        raise HttpError(400, "INVALID_OFFSET", "This offset was never given out; use one from Stream-Next-Offset.")
    return offset


def resolve(offset: Offset, space: int, tail: int) -> int:
    """The position of a token (not `START`) in a stream that ends at `tail`.

    Raises 410 OFFSET_GONE (an earlier stream of this name) and 400 OFFSET_BEYOND_TAIL.
    """
    if offset.space != space:
        raise HttpError(410, "OFFSET_GONE", "This offset belongs to an earlier stream of this name; start again at -1.")
    if offset.position > tail:
        raise HttpError(400, "OFFSET_BEYOND_TAIL", "This offset is beyond the stream's end and was never given out.")
    return offset.position
