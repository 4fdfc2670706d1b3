"""Arithmetic on numbers and times, with Postgres' result types, rounding and errors. Pure.

`SIGNATURES` are the operators; `function` gives what one does to its values. ValueError and ArithmeticError stand for
Postgres' errors. Not here, because two machines may differ in the last digit, or two versions of Postgres in an
infinity: powers, and timestamps subtracted from each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

from switchgear_shapes.where import moments, values
from switchgear_shapes.where import types as t
from switchgear_shapes.where.expression import Type
from switchgear_shapes.where.moments import Interval

Signature = tuple[str, tuple[Type, ...], Type]

_INTEGERS = (t.INT2, t.INT4, t.INT8)
_WIDE = Context(prec=500_000, Emax=999_999, Emin=-999_999)
"""For what a division has on its way."""
_LOOSE = Context(prec=values.EXACT.prec, Emax=values.EXACT.Emax, Emin=values.EXACT.Emin, traps=[])


def _signatures() -> Iterator[Signature]:
    for name in ("+", "-", "*", "/"):
        for a, left in enumerate(_INTEGERS):
            for b, right in enumerate(_INTEGERS):
                yield name, (left, right), _INTEGERS[max(a, b)]
        yield name, (t.NUMERIC, t.NUMERIC), t.NUMERIC
        for left in (t.FLOAT4, t.FLOAT8):
            for right in (t.FLOAT4, t.FLOAT8):
                yield name, (left, right), t.FLOAT4 if left == right == t.FLOAT4 else t.FLOAT8
    for kind in _INTEGERS:
        for name in ("%", "&", "|", "#"):
            yield name, (kind, kind), kind
        yield "unary ~", (kind,), kind
    yield "%", (t.NUMERIC, t.NUMERIC), t.NUMERIC
    for kind in (*_INTEGERS, t.NUMERIC, t.FLOAT4, t.FLOAT8):
        for name in ("unary -", "unary +", "unary @"):
            yield name, (kind,), kind
    yield "unary -", (t.INTERVAL,), t.INTERVAL
    yield "unary |/", (t.FLOAT8,), t.FLOAT8
    yield from _moments()


def _moments() -> Iterator[Signature]:
    sums = [
        (t.DATE, t.INT4, t.DATE),
        (t.DATE, t.TIME, t.TIMESTAMP),
        (t.DATE, t.INTERVAL, t.TIMESTAMP),
        *((kind, t.INTERVAL, kind) for kind in (t.TIMESTAMP, t.TIMESTAMPTZ, t.TIME)),
    ]
    for left, right, result in sums:
        yield "+", (left, right), result
        yield "+", (right, left), result
        if right != t.TIME:
            yield "-", (left, right), result
    yield "+", (t.INTERVAL, t.INTERVAL), t.INTERVAL
    yield "-", (t.INTERVAL, t.INTERVAL), t.INTERVAL
    yield "-", (t.DATE, t.DATE), t.INT4
    yield "-", (t.TIME, t.TIME), t.INTERVAL


SIGNATURES: tuple[Signature, ...] = tuple(_signatures())
NAMES = frozenset(name for name, _, _ in SIGNATURES)


def function(name: str, args: tuple[Type, ...], result: Type) -> Callable[..., Any]:
    if result.name in t.INTEGERS and args[0].name in t.INTEGERS:
        return _integers(name, result.name)
    if result == t.NUMERIC:
        return _NUMERIC[name]
    if result.name in t.FLOATS:
        return _floats(name, single=result == t.FLOAT4)
    return _times(name, args)


# -- integers --


def _truncated(a: int, b: int) -> int:
    if b == 0:
        raise ZeroDivisionError
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


_INTEGER: dict[str, Callable[..., int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _truncated,
    "%": lambda a, b: a - b * _truncated(a, b),
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "#": lambda a, b: a ^ b,
    "unary -": lambda a: -a,
    "unary +": lambda a: a,
    "unary @": abs,
    "unary ~": lambda a: ~a,
}


def _integers(name: str, kind: str) -> Callable[..., int]:
    low, high = t.INTEGERS[kind]
    compute = _INTEGER[name]

    def ranged(*args: int) -> int:
        value = compute(*args)
        if not low <= value <= high:
            raise ValueError(f"{kind} out of range")
        return value

    return ranged


# -- numeric --


def _scale(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return max(-exponent, 0) if isinstance(exponent, int) else 0


def _finite(compute: Callable[[Decimal, Decimal], Decimal]) -> Callable[[Decimal, Decimal], Decimal]:
    return lambda a, b: values.checked_numeric(compute(a, b))


def _leading(value: Decimal) -> tuple[int, int]:
    """Weight and value of the first digit to the base 10,000, in which Postgres counts."""
    if not value:
        return 0, 0
    adjusted = value.adjusted()
    weight = adjusted // 4
    digits = "".join(map(str, value.as_tuple().digits))
    return weight, int((digits + "0000")[: adjusted - weight * 4 + 1])


def _quotient(a: Decimal, b: Decimal) -> Decimal:
    if not (a.is_finite() and b.is_finite()):
        if a.is_nan() or b.is_nan() or (a.is_infinite() and b.is_infinite()):
            return Decimal("NaN")
        if not b:
            raise ZeroDivisionError
        return _LOOSE.divide(a, b) if a.is_infinite() else Decimal(0)
    if not b:
        raise ZeroDivisionError
    (weight_a, first_a), (weight_b, first_b) = _leading(a), _leading(b)
    weight = weight_a - weight_b - (1 if first_a <= first_b else 0)
    scale = min(max(16 - weight * 4, _scale(a), _scale(b), 0), 1000)
    return values.checked_numeric(_rounded_quotient(a, b, scale))


def _rounded_quotient(a: Decimal, b: Decimal, scale: int) -> Decimal:
    """Half away from zero. In decimals throughout: Python refuses to turn integers this long into text."""
    shifted, divisor = abs(a).scaleb(scale, _WIDE), abs(b)
    whole = _WIDE.divide_int(shifted, divisor)
    rest = _WIDE.subtract(shifted, _WIDE.multiply(whole, divisor))
    if _WIDE.add(rest, rest) >= divisor:
        whole = _WIDE.add(whole, 1)
    negative = bool(whole) and (a < 0) != (b < 0)
    found = whole.scaleb(-scale, _WIDE)
    # Its scale is this one, whatever exponent the division left.
    found = found.quantize(Decimal(1).scaleb(-scale, _WIDE), ROUND_HALF_UP, _WIDE)
    return found.copy_negate() if negative else found


def _remainder(a: Decimal, b: Decimal) -> Decimal:
    if a.is_nan() or b.is_nan():
        return Decimal("NaN")
    if a.is_infinite():
        if not b:
            raise ZeroDivisionError
        return Decimal("NaN")
    if b.is_infinite():
        return a
    if not b:
        raise ZeroDivisionError
    scale = max(_scale(a), _scale(b))
    found = values.EXACT.remainder(a, b)
    return values.checked_numeric(found.quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP, values.EXACT))


_NUMERIC: dict[str, Callable[..., Decimal]] = {
    "+": _finite(_LOOSE.add),
    "-": _finite(_LOOSE.subtract),
    "*": _finite(_LOOSE.multiply),
    "/": _quotient,
    "%": _remainder,
    "unary -": lambda a: a if a.is_nan() or not a else a.copy_negate(),
    "unary +": lambda a: a,
    "unary @": lambda a: a.copy_abs(),
}


# -- floats --


def _float_quotient(a: float, b: float) -> float:
    if b == 0 and not math.isnan(a):
        raise ZeroDivisionError
    return a / b if b else math.nan


_FLOAT: dict[str, Callable[..., float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _float_quotient,
    "unary -": lambda a: -a,
    "unary +": lambda a: a,
    "unary @": abs,
    "unary |/": math.sqrt,
}


def _floats(name: str, *, single: bool) -> Callable[..., float]:
    compute = _FLOAT[name]

    def checked(*args: float) -> float:
        value = compute(*args)
        if math.isinf(value) and not any(map(math.isinf, args)):
            raise OverflowError
        lost = value == 0 and name in "*/" and args[0] != 0
        if lost and (args[1] != 0 if name == "*" else not math.isinf(args[1])):
            raise OverflowError
        return values.float4(value) if single else value

    return checked


# -- times --

_INFINITE = moments.INFINITE_INTERVAL
_MINUS_INFINITE = moments.MINUS_INFINITE_INTERVAL


def _stamp_plus(stamp: int, span: Interval) -> int:
    endless = {_INFINITE: moments.STAMP_MAX, _MINUS_INFINITE: moments.STAMP_MIN}.get(span)
    if stamp in (moments.STAMP_MAX, moments.STAMP_MIN):
        if endless is not None and endless != stamp:
            raise ValueError("timestamp out of range")
        return stamp
    if endless is not None:
        return endless
    if span.months:
        days, micros = divmod(stamp, moments.DAY)
        year, month, day = moments.civil_from_days(days)
        months = year * 12 + month - 1 + span.months
        year, month = months // 12, months % 12 + 1
        day = min(day, moments.month_days(year, month))
        stamp = moments.check_stamp(moments.days_from_civil(year, month, day) * moments.DAY + micros)
    if span.days:
        stamp = moments.check_stamp(stamp + span.days * moments.DAY)
    return moments.check_stamp(stamp + span.micros)


def negated(span: Interval) -> Interval:
    if span == _INFINITE:
        return _MINUS_INFINITE
    if span == _MINUS_INFINITE:
        return _INFINITE
    return moments.check_interval(Interval(-span.months, -span.days, -span.micros))


def _interval_plus(a: Interval, b: Interval) -> Interval:
    endless = [x for x in (a, b) if x in (_INFINITE, _MINUS_INFINITE)]
    if endless:
        if len(set(endless)) > 1:
            raise ValueError("interval out of range")
        return endless[0]
    return moments.check_interval(Interval(a.months + b.months, a.days + b.days, a.micros + b.micros))


def _date_plus(days: int, count: int) -> int:
    if days in (moments.DATE_MAX, moments.DATE_MIN):
        return days
    return moments.check_date(days + count)


def _days_between(a: int, b: int) -> int:
    if {a, b} & {moments.DATE_MAX, moments.DATE_MIN}:
        raise ValueError("cannot subtract infinite dates")
    return a - b


def _midnight(days: int) -> int:
    if days in (moments.DATE_MAX, moments.DATE_MIN):
        return moments.STAMP_MAX if days > 0 else moments.STAMP_MIN
    return moments.check_stamp(days * moments.DAY)


def _date_at(days: int, micros: int) -> int:
    midnight = _midnight(days)
    return midnight if midnight in (moments.STAMP_MAX, moments.STAMP_MIN) else moments.check_stamp(midnight + micros)


def _time_plus(micros: int, span: Interval) -> int:
    if span in (_INFINITE, _MINUS_INFINITE):
        raise ValueError("cannot add infinite interval to time")
    return (micros + span.micros) % moments.DAY


_PLUS: dict[tuple[str, str], Callable[[Any, Any], Any]] = {
    ("date", "int4"): _date_plus,
    ("date", "time"): _date_at,
    ("date", "interval"): lambda days, span: _stamp_plus(_midnight(days), span),
    ("timestamp", "interval"): _stamp_plus,
    ("timestamptz", "interval"): _stamp_plus,
    ("time", "interval"): _time_plus,
    ("interval", "interval"): _interval_plus,
}


def _times(name: str, args: tuple[Type, ...]) -> Callable[..., Any]:
    if name == "unary -":
        return negated
    left, right = args[0].name, args[1].name
    if name == "+":
        if (left, right) in _PLUS:
            return _PLUS[left, right]
        swapped = _PLUS[right, left]
        return lambda a, b: swapped(b, a)
    if (left, right) == ("date", "date"):
        return _days_between
    if (left, right) == ("time", "time"):
        return lambda a, b: Interval(0, 0, a - b)
    plus = _PLUS[left, right]
    if right == "int4":
        return lambda a, b: plus(a, -b)
    return lambda a, b: plus(a, negated(b))
