"""Values in the evaluator: the stream's bytes → Python, literals → Python, Python → the text Postgres prints. Pure.

| type | Python |
|---|---|
| bool; int2, int4, int8; float4, float8 | bool; int; float (of float4: the nearest double) |
| numeric | Decimal, with its scale, NaN and infinities included |
| text, varchar, bpchar (padded), name, uuid, enums | bytes |
| jsonb | bytes, see `documents` |
| json | bytes as written, see `json_text` |
| date, time, timestamp, timestamptz, interval | see `moments` |

Readers raise ValueError or ArithmeticError; errors are the caller's to turn into a refusal or "not this row".
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from decimal import Context, Decimal
from typing import Any

from switchgear_shapes.where import arrays, json_input, moments
from switchgear_shapes.where.expression import Type
from switchgear_shapes.where.types import INTEGERS, STRINGS

EXACT = Context(prec=150_000, Emax=999_999, Emin=-999_999)
"""More digits than Postgres' numeric can have, so that nothing is ever rounded by accident."""

_BLANK = " \t\n\r\f\v"
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_NUMERIC = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,6})?", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}")
MAX_LITERAL_DEPTH = 100
"""Of a jsonb."""
_FLOAT4 = struct.Struct("<f")
_FLOAT4_ULP = float(1 << 29)
"""How much farther from each other float4 values are than doubles."""


def _read_int(name: str) -> Callable[[str], int]:
    low, high = INTEGERS[name]

    def read(text: str) -> int:
        stripped = text.strip(_BLANK)
        if len(stripped) > 100 or not _INTEGER.fullmatch(stripped):
            raise ValueError("no integer")
        value = int(stripped)
        if not low <= value <= high:
            raise ValueError("integer out of range")
        return value

    return read


def read_bool(text: str) -> bool:
    word = text.strip(_BLANK).lower()
    if word == "1" or (word and ("true".startswith(word) or "yes".startswith(word))) or word == "on":
        return True
    if word == "0" or (word and ("false".startswith(word) or "no".startswith(word))) or word in ("of", "off"):
        return False
    raise ValueError("no boolean")


def read_float8(text: str) -> float:
    word = text.strip(_BLANK).lower()
    if _NUMERIC.fullmatch(word):
        value = float(word)
        if value in (float("inf"), float("-inf")) or (value == 0 and re.search(r"[1-9]", word.split("e")[0])):
            raise ValueError("out of range")
        return value
    match word:
        case "nan":
            return float("nan")
        case "infinity" | "+infinity" | "inf" | "+inf":
            return float("inf")
        case "-infinity" | "-inf":
            return float("-inf")
        case _:
            raise ValueError("no number")


def float4(value: float) -> float:
    """The nearest float4. Raises ValueError where Postgres says "out of range"."""
    try:
        rounded: float = _FLOAT4.unpack(_FLOAT4.pack(value))[0]
    except OverflowError:
        raise ValueError("out of range") from None
    if value != 0 and rounded == 0:
        raise ValueError("out of range")
    return rounded


def read_float4(text: str) -> float:
    # Through a double: that differs from the correctly rounded float4 only half-way between two floats, to more
    # digits than a double has; such literals are refused.
    value = read_float8(text)
    rounded = float4(value)
    if rounded != value and value == value:
        exact = Decimal(text.strip(_BLANK))
        if Decimal(value) != exact and _halfway(value):
            raise ValueError("too precise")
    return rounded


def _halfway(value: float) -> bool:
    bits: int = struct.unpack("<Q", struct.pack("<d", value))[0]
    return (bits & 0x1FFFFFFF) == 0x10000000


def read_numeric(text: str) -> Decimal:
    word = text.strip(_BLANK)
    if _NUMERIC.fullmatch(word):
        return checked_numeric(EXACT.create_decimal(word))
    match word.lower():
        case "nan":
            return Decimal("NaN")
        case "infinity" | "+infinity" | "inf" | "+inf":
            return Decimal("Infinity")
        case "-infinity" | "-inf":
            return Decimal("-Infinity")
        case _:
            raise ValueError("no number")


def checked_numeric(value: Decimal) -> Decimal:
    """A finite value as Postgres can hold it: no negative scale, no negative zero, at most 131,072 + 16,383 digits."""
    if not value.is_finite():
        return value
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)
    if value and value.adjusted() >= 131_072:
        raise ValueError("value overflows numeric format")
    if exponent < -16_383:
        raise ValueError("too many digits")
    if exponent > 0:
        value = value.quantize(Decimal(1), context=EXACT) if value else Decimal(0)
    return value if value else value.copy_abs()


def print_numeric(value: Decimal) -> str:
    if value.is_nan():
        return "NaN"
    if value.is_infinite():
        return "Infinity" if value > 0 else "-Infinity"
    return format(value, "f")


def print_float8(value: float) -> str:
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    text = repr(value)
    if abs(value) >= 1 << 52 and _halfway_to_next(text, value, math.ulp(value)):
        longer = (f"{value:.{digits - 1}e}" for digits in range(2, 18))
        text = next(t for t in longer if float(t) == value and not _halfway_to_next(t, value, math.ulp(value)))
    return _shortest(text)


def print_float4(value: float) -> str:
    if value != value or value in (float("inf"), float("-inf")):
        return print_float8(value)
    power_of_two = abs(math.frexp(value)[0]) == 0.5
    for digits in range(1, 10):
        texts = [f"{value:.{digits - 1}e}"]
        if power_of_two:  # the floats above are farther apart: what is not nearest may still be nearer to no other
            context = Context(prec=digits)
            up = context.next_plus(Decimal(texts[0]).copy_abs())
            texts.append(str(up.copy_sign(Decimal(texts[0]))))
        for text in texts:
            if float4_or_none(float(text)) == value and not (
                abs(value) >= 1 << 22 and _halfway_to_next(text, value, math.ulp(value) * _FLOAT4_ULP)
            ):
                return _shortest(text, 6)
    return _shortest(f"{value:.8e}", 6)


def _halfway_to_next(text: str, value: float, ulp: float) -> bool:
    """Whether a text lies exactly between two floats, the one next to `value` among them: reading such a text gives
    the even one, but Postgres does not count on that and prints more digits (1e23 as 9.999999999999999e+22).

    Only integers from 2^52 on (of float4, 2^22) and their halves have texts short enough for that.
    """
    written, exact = Decimal(text), Decimal(value)
    towards_zero = abs(written) < abs(exact) and abs(math.frexp(value)[0]) == 0.5  # floats lie closer below 2^n
    gap = Decimal(ulp / 2 if towards_zero else ulp)
    return EXACT.multiply(2, EXACT.subtract(written, exact).copy_abs()) == gap


def float4_or_none(value: float) -> float | None:
    try:
        return float4(value)
    except ValueError:
        return None


def _shortest(text: str, plain_digits: int = 15) -> str:
    """Shortest digits as Postgres lays them out: `1e+20` with two digits of exponent, plain up to 15 (or 6) digits."""
    sign, digits, exponent = Decimal(text).normalize().as_tuple()
    assert isinstance(exponent, int)
    mark = "-" if sign else ""
    if digits == (0,):
        return mark + "0"
    number = "".join(map(str, digits))
    adjusted = exponent + len(number) - 1
    if adjusted < -4 or adjusted >= plain_digits:
        mantissa = number[0] + ("." + number[1:] if len(number) > 1 else "")
        return f"{mark}{mantissa}e{'-' if adjusted < 0 else '+'}{abs(adjusted):02}"
    return mark + format(Decimal((0, digits, exponent)), "f")


def read_uuid(text: str) -> bytes:
    word = text.lower()
    if word.startswith("{") and word.endswith("}"):
        word = word[1:-1]
    if not _UUID.fullmatch(word):
        raise ValueError("no UUID")
    digits = word.replace("-", "")
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])).encode()


def read_text(text: str) -> bytes:
    return text.encode()


def read_name(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > 63:
        raise ValueError("a name has at most 63 bytes")
    return encoded


def read_document(text: str, max_depth: int = json_input.MAX_DEPTH) -> bytes:
    """A jsonb, as Postgres prints it."""
    return json_input.read_jsonb(text, lambda number: print_numeric(read_numeric(number)), max_depth)


READ: dict[str, Callable[[str], Any]] = {
    "bool": read_bool,
    "int2": _read_int("int2"),
    "int4": _read_int("int4"),
    "int8": _read_int("int8"),
    "float4": read_float4,
    "float8": read_float8,
    "numeric": read_numeric,
    "text": read_text,
    "varchar": read_text,
    "bpchar": read_text,
    "name": read_name,
    "uuid": read_uuid,
    "jsonb": lambda text: read_document(text, MAX_LITERAL_DEPTH),
    "date": moments.read_date,
    "time": moments.read_time,
    "timestamp": lambda text: moments.read_stamp(text, zoned=False),
    "timestamptz": lambda text: moments.read_stamp(text, zoned=True),
    "interval": moments.read_interval,
}
PRINT: dict[str, Callable[[Any], str]] = {
    "bool": lambda value: "t" if value else "f",
    "int2": str,
    "int4": str,
    "int8": str,
    "float4": print_float4,
    "float8": print_float8,
    "numeric": print_numeric,
    "bytea": bytes.decode,  # the value is its text: \x and hexadecimal digits, on the stream and in snapshots
    "text": bytes.decode,
    "varchar": bytes.decode,
    "bpchar": bytes.decode,
    "name": bytes.decode,
    "uuid": bytes.decode,
    "jsonb": bytes.decode,
    "date": moments.print_date,
    "time": moments.print_time,
    "timestamp": lambda value: moments.print_stamp(value, zoned=False),
    "timestamptz": lambda value: moments.print_stamp(value, zoned=True),
    "interval": moments.print_interval,
}
DECODE: dict[str, Callable[[bytes], Any]] = {
    "bool": b"t".__eq__,
    "int2": int,
    "int4": int,
    "int8": int,
    "float4": lambda value: float4(float(value)),
    "float8": float,
    "numeric": lambda value: Decimal(value.decode("ascii")),
    "date": lambda value: moments.read_date(value.decode("ascii")),
    "time": lambda value: moments.read_time(value.decode("ascii")),
    "timestamp": lambda value: moments.read_stamp(value.decode("ascii"), zoned=False),
    "timestamptz": lambda value: moments.read_stamp(value.decode("ascii"), zoned=True),
    "interval": lambda value: moments.read_interval(value.decode("ascii")),
}
"""The stream's bytes → a value. Types that are not here keep their bytes."""

AS_BYTES = STRINGS | {"uuid"}


def read(kind: Type, text: str) -> Any:
    """A literal's text by the type's input function. Raises ValueError, ArithmeticError."""
    if kind.array:
        item = kind.element
        return arrays.read_array(text, lambda element: read(item, element))
    if kind.enum is not None:
        if text not in kind.enum:
            raise ValueError("no such label")
        return text.encode()
    return READ[kind.name](text)


def to_text(kind: Type, value: Any) -> str:
    """What the type's output function prints."""
    if kind.array:
        item = kind.element
        return arrays.print_array(value, lambda element: to_text(item, element))
    if kind.enum is not None:
        return bytes.decode(value)
    return PRINT[kind.name](value)


def decoder(kind: Type) -> Callable[[bytes], Any] | None:
    """From the stream's bytes to a value; None when the bytes are the value."""
    if kind.array:
        decode = decoder(kind.element) or bytes
        # The bytes of a SQL_ASCII database may be no UTF-8: they stay what they are.
        return lambda data: arrays.read_array(
            data.decode("utf-8", "surrogateescape"),
            lambda element: decode(element.encode("utf-8", "surrogateescape")),
        )
    return None if kind.enum is not None else DECODE.get(kind.name)
