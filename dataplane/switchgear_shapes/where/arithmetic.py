"""Arithmetic on numbers and times, with Postgres' result types, rounding and errors. Pure.

`SIGNATURES` are the operators; `function` gives what one does to its values. ValueError and ArithmeticError stand for
Postgres' errors. Powers are for constants only: two machines may differ in their last digit, but what is computed once
is the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from decimal import ROUND_DOWN, ROUND_HALF_UP, Context, Decimal
from typing import Any

from switchgear_shapes.where import times, values
from switchgear_shapes.where import types as t
from switchgear_shapes.where.expression import Type

Signature = tuple[str, tuple[Type, ...], Type]

_INTEGERS = (t.INT2, t.INT4, t.INT8)
_WIDE = Context(prec=500_000, Emax=999_999, Emin=-999_999)
"""For what a division has on its way."""
_FIRST_DIGITS = Context(prec=4, rounding=ROUND_DOWN, Emax=_WIDE.Emax, Emin=_WIDE.Emin)
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
    yield "unary |/", (t.FLOAT8,), t.FLOAT8
    yield "^", (t.FLOAT8, t.FLOAT8), t.FLOAT8
    yield "^", (t.NUMERIC, t.NUMERIC), t.NUMERIC
    yield from times.SIGNATURES


SIGNATURES: tuple[Signature, ...] = tuple(_signatures())
NAMES = frozenset(name for name, _, _ in SIGNATURES)


def function(name: str, args: tuple[Type, ...], result: Type, rule: str = "") -> Callable[..., Any]:
    if result.name in t.INTEGERS and args[0].name in t.INTEGERS:
        return _integers(name, result.name)
    if result == t.NUMERIC:
        return _NUMERIC[name]
    if result.name in t.FLOATS:
        return _floats(name, single=result == t.FLOAT4)
    return times.function(name, args, rule)


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
    digits = "".join(map(str, _FIRST_DIGITS.plus(value).as_tuple().digits))
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


def _power(a: float, b: float) -> float:
    value = math.pow(a, b)
    if value == 0 and a != 0 and not (math.isinf(a) or math.isinf(b)):
        raise OverflowError
    return value


_FLOAT: dict[str, Callable[..., float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _float_quotient,
    "^": _power,
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
