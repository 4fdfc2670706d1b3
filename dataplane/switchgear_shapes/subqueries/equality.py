"""When two values are equal, in Python and in SQL: one text for equal values. Pure.

`IN (SELECT …)` is followed by comparing texts of the replication stream, which is right only for types where a
normal form is known. The two functions of a type must agree byte for byte: tags are hashed from what they make.
"""

from __future__ import annotations

from collections.abc import Callable

from switchgear_shapes.where.expression import Type

Key = tuple[bytes | None, ...]
"""A row of values in their normal form; None is NULL."""
Normal = Callable[[bytes], bytes]


def _same(value: bytes) -> bytes:
    return value


def _numeric(value: bytes) -> bytes:
    return value.rstrip(b"0").rstrip(b".") if b"." in value else value


def _float(value: bytes) -> bytes:
    return b"0" if value == b"-0" else value


def _padded(value: bytes) -> bytes:
    return value.rstrip(b" ")


_AS_TEXT = "int2 int4 int8 oid uuid text varchar date time timestamp timestamptz bytea"
_NORMAL: dict[str, tuple[Normal, str]] = {
    **dict.fromkeys(_AS_TEXT.split(), (_same, "{0}::text")),
    "name": (_same, "concat({0})"),
    "bool": (_same, "CASE WHEN {0} THEN 't' ELSE 'f' END"),
    "numeric": (_numeric, "trim_scale({0})::text"),
    "float4": (_float, "CASE WHEN {0} = 0 THEN '0' ELSE {0}::text END"),
    "float8": (_float, "CASE WHEN {0} = 0 THEN '0' ELSE {0}::text END"),
    "bpchar": (_padded, "rtrim({0}::text, ' ')"),
}


def comparable(kind: Type) -> bool:
    """Whether equal values of the type have one normal form."""
    return not kind.array and (kind.enum is not None or kind.name in _NORMAL)


def normal(kind: Type) -> Normal:
    """The normal form of a value as the stream has it."""
    return _same if kind.enum is not None else _NORMAL[kind.name][0]


def normal_sql(kind: Type, name: str) -> str:
    """SQL for the normal form, as text; `name` is the quoted column. Not for NULL."""
    return f"concat({name})" if kind.enum is not None else _NORMAL[kind.name][1].format(name)
