"""The types that clauses may use: their category, casts and names. Pure tables of facts about Postgres.

A type that is not here can only be asked whether it is NULL.
"""

from __future__ import annotations

from typing import Final

from switchgear_shapes.where.expression import Type

UNKNOWN: Final = Type("unknown")
"""A quoted literal, a parameter or NULL before the context gives it a type."""

BOOL: Final = Type("bool")
INT2: Final = Type("int2")
INT4: Final = Type("int4")
INT8: Final = Type("int8")
FLOAT4: Final = Type("float4")
FLOAT8: Final = Type("float8")
NUMERIC: Final = Type("numeric")
TEXT: Final = Type("text")
VARCHAR: Final = Type("varchar")
BPCHAR: Final = Type("bpchar")
NAME: Final = Type("name")
UUID: Final = Type("uuid")
DATE: Final = Type("date")
TIME: Final = Type("time")
TIMESTAMP: Final = Type("timestamp")
TIMESTAMPTZ: Final = Type("timestamptz")
INTERVAL: Final = Type("interval")
JSON: Final = Type("json")
JSONB: Final = Type("jsonb")
BYTEA: Final = Type("bytea")

INTEGERS: Final = {"int2": (-(1 << 15), (1 << 15) - 1), "int4": (-(1 << 31), (1 << 31) - 1)} | {
    "int8": (-(1 << 63), (1 << 63) - 1)
}
FLOATS: Final = frozenset({"float4", "float8"})
STRINGS: Final = frozenset({"text", "varchar", "bpchar", "name"})

CATEGORY: Final = {
    "bool": "B",
    "int2": "N",
    "int4": "N",
    "int8": "N",
    "float4": "N",
    "float8": "N",
    "numeric": "N",
    "text": "S",
    "varchar": "S",
    "bpchar": "S",
    "name": "S",
    "uuid": "U",
    "jsonb": "U",
    "bytea": "U",
    "date": "D",
    "time": "D",
    "timestamp": "D",
    "timestamptz": "D",
    "interval": "T",
    "unknown": "X",
}
PREFERRED: Final = frozenset({"bool", "float8", "text", "timestamptz", "interval"})

IMPLICIT: Final = {
    "int2": ("int4", "int8", "float4", "float8", "numeric"),
    "int4": ("int8", "float4", "float8", "numeric"),
    "int8": ("float4", "float8", "numeric"),
    "numeric": ("float4", "float8"),
    "float4": ("float8",),
    "date": ("timestamp",),
    "time": ("interval",),
    "varchar": ("text", "bpchar"),
    "text": ("varchar", "bpchar"),
    "bpchar": ("text", "varchar"),
    "name": ("text",),
}
"""Casts that happen by themselves. Those that depend on the session's time zone are left out on purpose."""

EXPLICIT: Final = {
    "bool": ("int4",),
    "int2": ("float4", "float8", "numeric"),
    "int4": ("bool", "int2"),
    "int8": ("int2", "int4"),
    "float4": ("int2", "int4", "int8", "numeric"),
    "float8": ("int2", "int4", "int8", "float4", "numeric"),
    "numeric": ("int2", "int4", "int8"),
    "timestamp": ("date", "time"),
    "interval": ("time",),
    "text": ("name",),
    "varchar": ("name",),
    "bpchar": ("name",),
    "name": ("varchar", "bpchar"),
    "jsonb": ("bool", "int2", "int4", "int8", "float4", "float8", "numeric"),
}
"""Casts that must be written, besides those through text (any type → text and back)."""

_CASTABLE_NAMES = (
    "bool date float4 float8 int2 int4 int8 jsonb text time timestamp timestamptz uuid varchar interval numeric"
    " bpchar name"
)
CASTABLE: Final = frozenset(_CASTABLE_NAMES.split())
"""What `::type` may name."""

SYNONYMS: Final = {
    "boolean": "bool",
    "smallint": "int2",
    "int": "int4",
    "integer": "int4",
    "bigint": "int8",
    "real": "float4",
    "decimal": "numeric",
}
"""The grammar itself replaces most of these; the rest are written with quotes or as function names."""


def usable(kind: Type) -> bool:
    """Whether values of the type can be compared at all."""
    return kind.enum is not None or (kind.name in CATEGORY and kind.name != "unknown")


def is_domain_over_enum(kind: Type) -> bool:
    """Such a domain has no comparisons in Postgres. It has no schema here, so that it never is its enum."""
    return kind.enum is not None and not kind.schema and not kind.array


def category(kind: Type) -> str:
    if kind.array:
        return "A"
    return "E" if kind.enum is not None else CATEGORY.get(kind.name, "U")


def implicit(source: Type, target: Type) -> bool:
    """Whether a value of `source` becomes one of `target` by itself."""
    if source == target:
        return True
    if source.array or target.array or source.enum is not None or target.enum is not None:
        return False
    return target.name in IMPLICIT.get(source.name, ())


def shown(kind: Type) -> str:
    """A type's name in messages and, unless it is an enum, in SQL."""
    name = kind.name.rstrip(" ")  # see `coercion`: somebody's own type that has the name of one of Postgres'
    return f"{name}[]" if kind.array else name
