"""How two values of given types compare, as Postgres has it. Pure.

Postgres' orders are total: NaN equals NaN and is above every number, `1 mon` equals `30 days`, char(n) ignores blanks
at the end. Comparisons take values (see `values`) that are not NULL.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from switchgear_shapes.where import arrays, documents, moments
from switchgear_shapes.where.expression import Type
from switchgear_shapes.where.types import FLOATS
from switchgear_shapes.where.values import decoder

Compare = Callable[[Any, Any], bool]

_PLAIN: dict[str, Compare] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

_IDENTITY_NAMES = "bool int2 int4 int8 text varchar name uuid date time timestamp timestamptz"
TEXT_IS_IDENTITY = frozenset(_IDENTITY_NAMES.split())
"""Types of which equal values have equal texts, so that the stream's bytes can be compared as they are."""


def _not_a_number(value: Any) -> bool:
    return value.is_nan() if isinstance(value, Decimal) else value != value


def _number_below(a: Any, b: Any) -> bool:
    if _not_a_number(a):
        return False
    return True if _not_a_number(b) else bool(a < b)


def _number_equal(a: Any, b: Any) -> bool:
    return bool(a == b) or (_not_a_number(a) and _not_a_number(b))


_NUMBERS: dict[str, Compare] = {
    "=": _number_equal,
    "<>": lambda a, b: not _number_equal(a, b),
    "<": _number_below,
    "<=": lambda a, b: not _number_below(b, a),
    ">": lambda a, b: _number_below(b, a),
    ">=": lambda a, b: not _number_below(a, b),
}


def _span(value: moments.Interval) -> int:
    return value.span


def _trimmed(value: bytes) -> bytes:
    return value.rstrip(b" ")


def date_as_stamp(days: int) -> int:
    """A date at midnight; infinities stay what they are."""
    if days == moments.DATE_MAX:
        return moments.STAMP_MAX
    return moments.STAMP_MIN if days == moments.DATE_MIN else days * moments.DAY


def _identity(value: Any) -> Any:
    return value


def comparable(kind: Type, other: Type) -> Callable[[Any], Any] | None:
    """What to do to a value of `kind` before it is compared with one of `other`; None for nothing."""
    if kind.enum is not None:
        return None
    if kind.name == "interval":
        return _span
    if kind.name == "jsonb":
        return documents.key
    if kind.name == "bpchar":
        return _trimmed
    return date_as_stamp if kind.name == "date" and other.name == "timestamp" else None


def comparison(name: str, left: Type, right: Type) -> Compare:
    """`left name right`."""
    if left.array:
        equal = comparison("=", left.element, right.element)
        if name == "<>":
            return lambda a, b: not arrays.equal_arrays(equal, a, b)
        return lambda a, b: arrays.equal_arrays(equal, a, b)
    plain = _PLAIN[name]
    if left.name in FLOATS or left.name == "numeric":
        return _NUMBERS[name]
    before, after = comparable(left, right), comparable(right, left)
    if before is None and after is None:
        return plain
    first, second = before or _identity, after or _identity
    return lambda a, b: plain(first(a), second(b))


def value_key(kind: Type) -> Callable[[Any], Any]:
    """A function from values to hashable keys that are the same for equal values."""
    if kind.enum is None and (kind.name in FLOATS or kind.name == "numeric"):
        return _number_key
    return comparable(kind, kind) or _identity


def comparison_key(kind: Type) -> Callable[[bytes], Any] | None:
    """A function from the stream's bytes to a hashable, ordered key: equal keys are equal values, and keys order as
    values do (text in byte order; jsonb's have no order). None if the type has no such key. For indexes over columns
    and constants.

    The function raises ValueError or ArithmeticError for bytes that are no value of the type.
    """
    if kind.array:
        return None
    if kind.enum is not None or kind.name in ("text", "varchar", "name", "uuid"):
        return _identity
    if kind.name == "bpchar":
        return _trimmed
    if kind.name == "jsonb":
        return documents.key
    decode = decoder(kind)
    if decode is None:
        return None
    if kind.name == "interval":
        return lambda data: decode(data).span
    if kind.name in FLOATS or kind.name == "numeric":
        return lambda data: _number_key(decode(data))
    return decode


def _number_key(value: Any) -> Any:
    """NaN above infinity; numeric infinities as floats, which Decimal can be compared with."""
    return (1, 0) if _not_a_number(value) else (0, value)
