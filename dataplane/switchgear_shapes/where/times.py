"""Arithmetic on dates, times, timestamps and intervals. Pure.

An interval's multiple is a matter of floats; `resolve` takes only factors with which every machine rounds alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from switchgear_shapes.where import moments
from switchgear_shapes.where import types as t
from switchgear_shapes.where.expression import Type
from switchgear_shapes.where.moments import Interval

NO_ENDLESS: Final = "no endless intervals"
"""The rule of a difference on servers that have no infinite intervals: there `infinity - x` is an error."""


def _signatures() -> Iterator[tuple[str, tuple[Type, ...], Type]]:
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
    yield "-", (t.TIMESTAMP, t.TIMESTAMP), t.INTERVAL
    yield "-", (t.TIMESTAMPTZ, t.TIMESTAMPTZ), t.INTERVAL
    yield "unary -", (t.INTERVAL,), t.INTERVAL
    yield "*", (t.INTERVAL, t.FLOAT8), t.INTERVAL
    yield "*", (t.FLOAT8, t.INTERVAL), t.INTERVAL
    yield "/", (t.INTERVAL, t.FLOAT8), t.INTERVAL


SIGNATURES: tuple[tuple[str, tuple[Type, ...], Type], ...] = tuple(_signatures())

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


def _between(a: int, b: int, *, endless: bool) -> Interval:
    ends = (moments.STAMP_MAX, moments.STAMP_MIN)
    if a in ends or b in ends:
        if a == b or not endless:
            raise ValueError("interval out of range")
        return _INFINITE if a == moments.STAMP_MAX or b == moments.STAMP_MIN else _MINUS_INFINITE
    return moments.justify_hours(moments.check_interval(Interval(0, 0, a - b)))


def _rounded(value: float) -> float:
    """To microseconds, as Postgres does on the way: the product may be a little off."""
    return round(value * 1_000_000.0) / 1_000_000.0


def _whole(value: float, limit: int) -> int:
    if not -limit <= value < limit:
        raise ValueError("interval out of range")
    return int(value)


def _times(span: Interval, factor: float) -> Interval:
    return _scaled(span, factor, span.months * factor, span.days * factor, span.micros * factor)


def _divided(span: Interval, divisor: float) -> Interval:
    if divisor == 0:
        raise ZeroDivisionError
    return _scaled(span, 1 / divisor, span.months / divisor, span.days / divisor, span.micros / divisor)


def _scaled(span: Interval, factor: float, months: float, days: float, micros: float) -> Interval:
    """Fractions of months go to days, and those of days to the time."""
    if span in (_INFINITE, _MINUS_INFINITE):
        if factor == 0 or factor != factor:
            raise ValueError("interval out of range")
        return span if factor > 0 else negated(span)
    whole_months, whole_days = _whole(months, 1 << 31), _whole(days, 1 << 31)
    days_left = _rounded((months - whole_months) * 30)
    seconds = _rounded((days - whole_days + days_left - int(days_left)) * 86_400)
    if abs(seconds) >= 86_400:
        whole_days += int(seconds / 86_400)
        seconds -= int(seconds / 86_400) * 86_400
    total = _whole(round(micros + seconds * 1_000_000.0), 1 << 63)
    return moments.check_interval(Interval(whole_months, whole_days + int(days_left), total))


_PLUS: dict[tuple[str, str], Callable[[Any, Any], Any]] = {
    ("date", "int4"): _date_plus,
    ("date", "time"): _date_at,
    ("date", "interval"): lambda days, span: _stamp_plus(_midnight(days), span),
    ("timestamp", "interval"): _stamp_plus,
    ("timestamptz", "interval"): _stamp_plus,
    ("time", "interval"): _time_plus,
    ("interval", "interval"): _interval_plus,
}


def function(name: str, args: tuple[Type, ...], rule: str) -> Callable[..., Any]:
    if name == "unary -":
        return negated
    left, right = args[0].name, args[1].name
    if name in ("*", "/"):
        factor = _times if name == "*" else _divided
        return factor if left == "interval" else lambda a, b: factor(b, a)
    if name == "-" and left == right and left in ("timestamp", "timestamptz"):
        return lambda a, b: _between(a, b, endless=rule != NO_ENDLESS)
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
