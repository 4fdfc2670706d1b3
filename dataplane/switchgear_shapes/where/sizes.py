"""What a type's modifier does to a value: `varchar(3)` cuts, `char(3)` pads, `numeric(5, 2)` and `timestamp(0)` round.

Pure. As in a written cast, which cuts what is too long without a word.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from switchgear_shapes.where import moments, values
from switchgear_shapes.where.expression import Type


def sized(kind: Type) -> Callable[..., Any]:
    """A function of a value and its type's modifiers. Raises ValueError for a number that is too large."""
    match kind.name:
        case "varchar":
            return _cut
        case "bpchar":
            return _padded
        case "numeric":
            return _scaled
        case _:
            return moments.rounded


def _cut(text: bytes, length: int) -> bytes:
    if len(text) <= length:
        return text
    return text.decode()[:length].encode()


def _padded(text: bytes, length: int) -> bytes:
    made = _cut(text, length)
    return made + b" " * (length - len(made.decode()))


def _scaled(value: Decimal, precision: int, scale: int) -> Decimal:
    if value.is_nan():
        return value
    if value.is_infinite():
        raise ValueError("numeric field overflow")
    if value and value.adjusted() > 131_072:
        raise ValueError("numeric field overflow")
    made = value.quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP, values.EXACT)
    if made and made.adjusted() >= precision - scale:
        raise ValueError("numeric field overflow")
    return values.checked_numeric(made)
