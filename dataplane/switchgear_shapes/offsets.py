"""Positions in a shape's log. Pure.

An offset is the pair (tx, op); Python's tuple order is the protocol's order: `-1` < `0_N` < `0_inf` < `tx_op`.
"""

from __future__ import annotations

import re

Offset = tuple[int, int]

MAX_U64 = 2**64 - 1
INFINITY = 2**64
"""The `inf` of `0_inf`: above every op."""

BEFORE_ALL: Offset = (-1, 0)
END_OF_SNAPSHOT: Offset = (0, INFINITY)
"""Where a shape is before its first change from the replication stream."""

_PATTERN = re.compile(r"([0-9]+)_([0-9]+|inf)")


def parse(text: str) -> Offset | None:
    """`-1`, `-1_0`, `<tx>_<op>` or `<tx>_inf`; None when it is none of these."""
    if text in ("-1", "-1_0"):
        return BEFORE_ALL
    match = _PATTERN.fullmatch(text)
    if match is None or len(text) > 64:
        return None
    tx = int(match[1])
    op = INFINITY if match[2] == "inf" else int(match[2])
    if tx > MAX_U64 or op > INFINITY or (op == INFINITY and match[2] != "inf"):
        return None
    return tx, op


def render(offset: Offset) -> str:
    if offset[0] < 0:
        return "-1"
    return f"{offset[0]}_inf" if offset[1] == INFINITY else f"{offset[0]}_{offset[1]}"
