"""Casts between types, value → value, with Postgres' rounding and range errors. Pure.

A cast that is refused (ValueError) on a row makes the row not match, as it would fail the query in Postgres.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from switchgear_shapes.where import documents, moments, values
from switchgear_shapes.where.comparing import date_as_stamp
from switchgear_shapes.where.expression import Type
from switchgear_shapes.where.types import CATEGORY, EXPLICIT, FLOATS, IMPLICIT, INTEGERS, STRINGS

Cast = Callable[[Any], Any]


def _to_int(name: str) -> Cast:
    low, high = INTEGERS[name]

    def ranged(value: int) -> int:
        if not low <= value <= high:
            raise ValueError(f"{name} out of range")
        return value

    def cast(value: Any) -> int:
        if isinstance(value, bool):
            return int(value)
        if isinstance(value, float):
            if not math.isfinite(value):
                raise ValueError(f"{name} out of range")
            return ranged(round(value))
        if isinstance(value, Decimal):
            if not value.is_finite():
                raise ValueError(f"cannot convert to {name}")
            if value and value.adjusted() > 20:  # turning all its digits into an integer would take its time
                raise ValueError(f"{name} out of range")
            return ranged(int(value.to_integral_value(ROUND_HALF_UP, values.EXACT)))
        return ranged(value)

    return cast


def _to_float8(value: Any) -> float:
    if isinstance(value, Decimal):
        return values.read_float8(values.print_numeric(value))
    return float(value)


def _to_float4(value: Any) -> float:
    if isinstance(value, Decimal):
        return values.read_float4(values.print_numeric(value))
    if isinstance(value, int):
        return _int_to_float4(value)
    return values.float4(value)


def _int_to_float4(value: int) -> float:
    """Rounded once: a double between would round twice."""
    size = value.bit_length()
    if size <= 53:
        return values.float4(float(value))
    shift = size - 40  # keep 40 bits and whether anything was cut: enough to round to 24
    magnitude = abs(value)
    kept = (magnitude >> shift) | (1 if magnitude & ((1 << shift) - 1) else 0)
    rounded = values.float4(math.ldexp(kept, shift))
    return -rounded if value < 0 else rounded


def _to_numeric(value: Any) -> Decimal:
    if isinstance(value, int):
        return Decimal(value)
    if not math.isfinite(value):
        return Decimal(values.print_float8(value))
    return values.checked_numeric(values.EXACT.create_decimal(f"{value:.15g}"))


def _float4_to_numeric(value: float) -> Decimal:
    if not math.isfinite(value):
        return Decimal(values.print_float8(value))
    return values.checked_numeric(values.EXACT.create_decimal(f"{value:.6g}"))


def _to_name(value: bytes) -> bytes:
    return value[:63].decode("utf-8", "ignore").encode() if len(value) > 63 else value


def _strip(value: bytes) -> bytes:
    return value.rstrip(b" ")


def _stamp_to_date(stamp: int) -> int:
    if stamp == moments.STAMP_MAX:
        return moments.DATE_MAX
    return moments.DATE_MIN if stamp == moments.STAMP_MIN else stamp // moments.DAY


def _stamp_to_time(stamp: int) -> int | None:
    return None if stamp in (moments.STAMP_MAX, moments.STAMP_MIN) else stamp % moments.DAY


def _date_to_stamp(days: int) -> int:
    if days in (moments.DATE_MAX, moments.DATE_MIN):
        return date_as_stamp(days)
    return moments.check_stamp(days * moments.DAY)


def _interval_to_time(value: moments.Interval) -> int:
    return value.micros % moments.DAY


def _from_document(to: Cast) -> Cast:
    return lambda value: to(documents.number(value))


_SPECIAL: dict[tuple[str, str], Cast] = {
    ("bool", "int4"): int,
    ("int4", "bool"): bool,
    ("float4", "float8"): lambda value: value,
    ("float4", "numeric"): _float4_to_numeric,
    ("date", "timestamp"): _date_to_stamp,
    ("timestamp", "date"): _stamp_to_date,
    ("timestamp", "time"): _stamp_to_time,
    ("time", "interval"): lambda value: moments.Interval(0, 0, value),
    ("interval", "time"): _interval_to_time,
    ("bpchar", "text"): _strip,
    ("bpchar", "varchar"): _strip,
    ("bpchar", "name"): lambda value: _to_name(_strip(value)),
    ("text", "name"): _to_name,
    **{("jsonb", kind): _from_document(_to_int(kind)) for kind in INTEGERS},
    ("jsonb", "numeric"): documents.number,
    ("jsonb", "float4"): _from_document(_to_float4),
    ("jsonb", "float8"): _from_document(_to_float8),
    ("jsonb", "bool"): documents.boolean,
    **{(kind, "jsonb"): lambda value: values.read_document(value.decode()) for kind in ("json", "text", "varchar")},
    ("bpchar", "jsonb"): lambda value: values.read_document(value.decode()),
    **{("json", kind): lambda value: value for kind in ("text", "varchar", "bpchar")},
    ("varchar", "name"): _to_name,
}


def cast(source: Type, target: Type) -> Cast | None:
    """The cast's function, None if there is no such cast. Enums and arrays become text, and text enums."""
    pair = (source.name, target.name)
    if source.array or target.array or source.enum is not None or target.enum is not None:
        return _through_text(source, target)
    if pair in _SPECIAL:
        return _SPECIAL[pair]
    if source.name in STRINGS and target.name in STRINGS:
        return lambda value: value
    if target.name in IMPLICIT.get(source.name, ()) or target.name in EXPLICIT.get(source.name, ()):
        if target.name in INTEGERS:
            return _to_int(target.name)
        if target.name in FLOATS:
            return _to_float8 if target.name == "float8" else _to_float4
        return _to_numeric if target.name == "numeric" else None
    return _through_text(source, target)


def _through_text(source: Type, target: Type) -> Cast | None:
    """What Postgres does with input and output functions, for types without a cast of their own."""
    if not target.array and target.name in ("text", "varchar", "bpchar"):
        if source.name == "bool" and not source.array:
            return lambda value: b"true" if value else b"false"
        if source.enum is None and source.name not in CATEGORY:
            return None
        if source.array and target.name == "bpchar":
            return None
        return lambda value: values.to_text(source, value).encode()
    if source.name in ("text", "varchar", "bpchar") and not source.array and target.enum is None and not target.array:
        if target.name not in values.READ:
            return None
        return lambda value: values.read(target, value.decode())
    return None
