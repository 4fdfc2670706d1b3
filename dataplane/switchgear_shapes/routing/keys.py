"""Values of the stream as keys of an index: equal values get equal keys, and ordered types keys that compare. Pure.

A key function takes a value as the stream has it (not NULL). It raises ValueError for a value that it cannot place,
and the caller looks at all shapes that the value might concern. Types that are not listed here are not indexed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from switchgear_shapes.where.expression import And, Call, Column, Const, Expression, InList, IsNull, Not, Or, Type

Key = Any
"""Hashable; those of `ORDERED` also compare with each other."""
KeyFunction = Callable[[bytes], Key]


def same(value: bytes) -> Key:
    """Of types that have one text for each value."""
    return value


def numeric(value: bytes) -> Key:
    """1.50 is 1.5."""
    return value.rstrip(b"0").rstrip(b".") if b"." in value else value


def floating(value: bytes) -> Key:
    return b"0" if value == b"-0" else value


def padded(value: bytes) -> Key:
    """char(n): spaces at the end do not count."""
    return value.rstrip(b" ")


def number(value: bytes) -> Key:
    return int(value)


def decimal(value: bytes) -> Key:
    try:
        found = Decimal(value.decode())
    except InvalidOperation as error:
        raise ValueError(str(error)) from None
    if found.is_nan():
        raise ValueError("NaN has no place among keys")
    return found


def float_number(value: bytes) -> Key:
    found = float(value)
    if found != found:
        raise ValueError("NaN has no place among keys")
    return found


def date(value: bytes) -> Key:
    """Dates of four-digit years after Christ sort like their text."""
    if len(value) != 10 or value[4] != 45:
        raise ValueError("a date out of the ordinary")
    return value


def timestamp(value: bytes) -> Key:
    if value[10:11] != b" " or value[4] != 45 or value[-2:] == b"BC":
        raise ValueError("a time out of the ordinary")
    return value


def timestamp_utc(value: bytes) -> Key:
    """The replication session's zone is UTC."""
    if value[-3:] != b"+00" or value[10:11] != b" " or value[4] != 45:
        raise ValueError("a time out of the ordinary")
    return value[:-3]


TEXTS = frozenset({"text", "varchar", "name"})
INTEGERS = ("int2", "int4", "int8")
_ONE_TEXT = ("bool", *INTEGERS, "oid", "uuid", *TEXTS, "date", "time", "timestamp", "timestamptz", "bytea")

_EQUAL: dict[str, KeyFunction] = {
    **dict.fromkeys(_ONE_TEXT, same),
    "numeric": numeric,
    "float4": floating,
    "float8": floating,
    "bpchar": padded,
}
_ORDERED: dict[str, KeyFunction] = {
    **dict.fromkeys(INTEGERS, number),
    "numeric": decimal,
    "float4": float_number,
    "float8": float_number,
    "date": date,
    "time": same,
    "timestamp": timestamp,
    "timestamptz": timestamp_utc,
    "uuid": same,
    **dict.fromkeys(TEXTS, same),
}

# Casts after which the value has the same text as before: (from, to).
_KEEPS_TEXT = frozenset(
    {
        ("int2", "int4"),
        ("int2", "int8"),
        ("int4", "int8"),
        *((name, "numeric") for name in INTEGERS),
        *((name, text) for name in TEXTS for text in ("text", "varchar")),
        *((name, "text") for name in (*INTEGERS, "numeric", "uuid", "date", "time", "timestamp", "timestamptz")),
    }
)


def equality(kind: Type) -> KeyFunction | None:
    """The key function under which equal values of the type have equal keys."""
    if kind.array:
        return None
    return same if kind.enum is not None else _EQUAL.get(kind.name)


def element_equality(kind: Type) -> KeyFunction | None:
    """The same for the elements of an array type."""
    return same if kind.enum is not None else _EQUAL.get(kind.name)


def order(kind: Type) -> KeyFunction | None:
    """The key function whose keys sort as the type's values do."""
    return None if kind.array or kind.enum is not None else _ORDERED.get(kind.name)


def column_of(node: Expression) -> str | None:
    """The column whose text is the text of this expression's value, if there is one."""
    while isinstance(node, Call) and node.name in ("cast", "collate") and len(node.args) == 1:
        (inner,) = node.args
        before, after = inner.type, node.type
        if before.array or after.array or after.enum is not None:
            return None
        if before.enum is not None:
            if after.name not in ("text", "varchar"):
                return None
        elif before != after and (before.name, after.name) not in _KEEPS_TEXT:
            return None
        node = inner
    return node.name if isinstance(node, Column) else None


_CALM = frozenset({"=", "<", "<=", ">", ">=", "IS TRUE", "IS FALSE", "IS DISTINCT FROM", "@>", "<@", "&&", "= ANY"})


def may_fail(node: Expression) -> bool:
    """Whether there may be rows on which evaluating the expression raises an error."""
    match node:
        case And(args) | Or(args):
            return any(map(may_fail, args))
        case Not(arg) | IsNull(arg) | InList(arg):
            return may_fail(arg)
        case Call(_, "~~" | "~~*", (text, Const())):
            return may_fail(text)
        case Call(_, name, args):
            return column_of(node) is None and (name not in _CALM or any(map(may_fail, args)))
        case _:
            return False


MOST_BYTES = 1_000_000
"""Of an array that an index looks into; whole clauses are evaluated on others, or refused as too large."""

_ELEMENT = re.compile(rb'"((?:[^"\\]|\\.)*)"|([^,{}"\\]+)', re.DOTALL)
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)


def elements(value: bytes) -> list[bytes | None]:
    """All elements of an array's text, whatever its dimensions. Raises ValueError."""
    if len(value) > MOST_BYTES:
        raise ValueError("too large to be taken apart")
    if value[:1] == b"[":  # [0:2]={…}: lower bounds other than 1
        value = value[value.index(b"=") + 1 :]
    if value[:1] != b"{" or value[-1:] != b"}":
        raise ValueError("no array")
    if b'"' not in value and value.find(b"{", 1) < 0:
        inner = value[1:-1]
        return [None if item == b"NULL" else item for item in inner.split(b",")] if inner else []
    found: list[bytes | None] = []
    for match in _ELEMENT.finditer(value):
        quoted, plain = match.groups()
        if quoted is not None:
            found.append(_ESCAPE.sub(rb"\1", quoted))
        else:
            found.append(None if plain == b"NULL" else plain)
    return found
