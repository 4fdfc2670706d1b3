"""A shape's initial rows: the SQL by which Postgres itself renders the log's lines, and what a snapshot can see.

The statements are pure text; running them is `creation`'s work. Invariant: for every type the rendered value is that
of the type's output function, the same that the replication stream carries, under the same display settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from switchgear_shapes.definition import Definition
from switchgear_shapes.identifiers import key_prefix, literal, quote, quote_relation
from switchgear_shapes.postgres.session import DISPLAY_SETTINGS, TRANSACTION_TIMEOUT_VERSION
from switchgear_shapes.relations import Column, Relation, stamp_expression

# Base types whose cast to text is their output function, and whose output needs no JSON escapes.
_PLAIN_NAMES = "int2 int4 int8 float4 float8 numeric oid uuid date time timetz timestamp timestamptz interval"
_PLAIN = frozenset(_PLAIN_NAMES.split())
# The same, but any character may occur.
_TEXT = frozenset({"text", "varchar", "json", "jsonb", "bytea"})

_HALF = 1 << 31
_MASK = (1 << 32) - 1


NOW = "SELECT pg_current_snapshot(), pg_current_wal_insert_lsn()"
"""What `SnapshotMark` tells, of a snapshot that is not used further."""


@dataclass(frozen=True, slots=True)
class SnapshotMark:
    """What a snapshot sees (`pg_current_snapshot`), with 64-bit transaction ids.

    `lsn` is where the write-ahead log ended after the snapshot was taken: no commit behind it can be visible. Within it
    transaction ids decide; they are compared in 32 bits as the stream has them, which is safe for ids so close in time.
    """

    xmin: int
    xmax: int
    xip: tuple[int, ...]
    lsn: int

    @classmethod
    def parse(cls, text: str, lsn: int) -> SnapshotMark:
        """From `xmin:xmax:xip,…`."""
        xmin, xmax, xip = text.split(":")
        return cls(int(xmin), int(xmax), tuple(int(xid) for xid in xip.split(",") if xid), lsn)

    def sees(self, xid: int, commit_lsn: int) -> bool:
        """Whether the committed transaction (32-bit `xid`, as in the stream) is part of the snapshot."""
        if commit_lsn >= self.lsn or ((xid - self.xmax) & _MASK) < _HALF:
            return False
        return all(xid != (other & _MASK) for other in self.xip)

    def to_json(self) -> list[Any]:
        return [self.xmin, self.xmax, list(self.xip), self.lsn]

    @classmethod
    def from_json(cls, data: list[Any]) -> SnapshotMark:
        return cls(data[0], data[1], tuple(data[2]), data[3])

    def control_line(self) -> bytes:
        """The `snapshot-end` message."""
        headers = {
            "control": "snapshot-end",
            "xmin": str(self.xmin),
            "xmax": str(self.xmax),
            "xip_list": [str(xid) for xid in self.xip],
        }
        return orjson.dumps({"headers": headers}) + b",\n"


COPY_OPTIONS = "FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02'"
"""CSV with control characters as quote and delimiter: they cannot occur in JSON, so that nothing is ever quoted or
escaped, and the bytes of the stream are the bytes of the file."""


_OWN_SETTINGS = DISPLAY_SETTINGS | {
    # With policies on its rows a snapshot would lack rows whose changes the stream tells all the same: fail instead.
    "row_security": "off",
    "idle_in_transaction_session_timeout": "0",
}


_MOMENT = "pg_current_snapshot(), pg_current_wal_insert_lsn()"
_FLUSHED = "pg_current_wal_flush_lsn()"


def begin_statements(definition: Definition, relation: Relation, lock_seconds: int, statement_seconds: int = 0) -> str:
    """Open the transaction and hold the table's schema still before the snapshot is taken.

    `statement_seconds` bounds each statement that follows, the reader's pace included; 0 for no limit.
    """
    return begin_text(relation, table_sql(definition), lock_seconds, statement_seconds)


def begin_text(relation: Relation, table: str, lock_seconds: int, statement_seconds: int = 0) -> str:
    """`begin_statements` for any table; `table` as `table_sql` has it."""
    own = _OWN_SETTINGS | {"lock_timeout": f"{lock_seconds}s", "statement_timeout": f"{statement_seconds}s"}
    if relation.server_version >= TRANSACTION_TIMEOUT_VERSION:
        own["transaction_timeout"] = "0"
    settings = "".join(f"SET LOCAL {name} = {literal(value)};" for name, value in own.items())
    begin = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;{settings}"
    stamp = stamp_expression(str(relation.oid))
    if relation.whole or relation.kind == "p":
        locked = f"LOCK TABLE {table} IN ACCESS SHARE MODE;"
        return f"{begin}{locked}SELECT {_MOMENT}, {stamp}, {_FLUSHED}"
    # Postgres lets nobody lock a table who may read some columns only, but a query locks it as well: after the snapshot
    # was taken. The functions see what was committed before the lock: was it rewritten in between, or another table
    # given its name, there is no stamp. A rewritten table would look empty.
    name = literal(quote_relation(relation.schema, relation.name))
    return (
        f"{begin}SELECT {_MOMENT},"  # noqa: S608 - names are quoted
        f" CASE WHEN pg_relation_filenode(t.oid) = t.relfilenode AND to_regclass({name}) = t.oid THEN {stamp} END,"
        f" {_FLUSHED}"
        f" FROM (SELECT count(*) FROM (SELECT FROM {table} LIMIT 0) rows) locked"
        f" LEFT JOIN pg_class t ON t.oid = {relation.oid:d}"
    )


def copy_statement(definition: Definition, relation: Relation, fields: str | None = None) -> str:
    """COPY with one line of the log per row of the shape. `fields`: see `copy_query`."""
    return copy_query(definition, relation, {}, _conditions(definition), fields)


def subset_statement(
    definition: Definition,
    relation: Relation,
    mark: int,
    condition: str | None,
    order_by: str | None,
    limit: int | None,
    offset: int | None,
    fields: str | None = None,
) -> str:
    """COPY with one message per row of a subset; the texts are canonical SQL, never a client's own."""
    tail = _conditions(definition, condition)
    if order_by is not None:
        tail += f" ORDER BY {order_by}"
    if limit is not None:
        tail += f" LIMIT {limit:d}"
    if offset is not None:
        tail += f" OFFSET {offset:d}"
    return copy_query(definition, relation, {"snapshot_mark": mark}, tail, fields)


def copy_query(
    definition: Definition, relation: Relation, headers: dict[str, Any], tail: str, fields: str | None = None
) -> str:
    """COPY of the table's rows as messages with these additional headers; `tail` follows the table's name.

    `fields`: SQL for more of the headers, as JSON text, each with a comma behind it.
    """
    line = _line(definition, relation, headers, fields)
    query = f"SELECT {line} FROM {table_sql(definition)}{tail}"  # noqa: S608 - every name and value in it is quoted
    return f"COPY ({query}) TO STDOUT WITH ({COPY_OPTIONS})"


_LINES: dict[tuple[int, tuple[str, ...]], tuple[Relation, str]] = {}
_LINES_LIMIT = 1000


def _line(definition: Definition, relation: Relation, headers: dict[str, Any], fields: str | None) -> str:
    """SQL for one message. Most shapes are of few tables and columns: theirs is kept."""
    if headers or fields is not None or definition.hidden_columns:
        return _line_of(definition, relation, headers, fields)
    key = (id(relation), definition.columns)
    kept = _LINES.get(key)
    if kept is not None and kept[0] is relation:
        return kept[1]
    line = _line_of(definition, relation, headers, fields)
    if len(_LINES) >= _LINES_LIMIT:
        _LINES.clear()
    _LINES[key] = (relation, line)
    return line


def _line_of(definition: Definition, relation: Relation, headers: dict[str, Any], fields: str | None) -> str:
    columns = {column.name: column for column in relation.columns}
    all_headers = {"operation": "insert", "relation": [definition.schema, definition.table]} | headers
    return _concat(
        Constant('{"key":'),
        *_key_parts(definition, columns),
        Constant(',"value":{'),
        *_values_parts(columns, definition.columns),
        Constant('},"headers":{'),
        *([] if fields is None else [fields]),
        Constant(orjson.dumps(all_headers).decode()[1:] + "},"),
    )


class Constant(str):
    """A part of a line that is the same in every row; other parts are SQL."""

    __slots__ = ()


def _concat(*parts: str) -> str:
    """SQL that puts the parts together, none of them NULL. Each `||` costs Postgres, so constants are joined here."""
    found: list[str] = []
    constant = ""
    for part in parts:
        if isinstance(part, Constant):
            constant += part
            continue
        if constant:
            found.append(literal(constant))
            constant = ""
        found.append(part)
    if constant or not found:
        found.append(literal(constant))
    return " || ".join(found)


def values_sql(columns: dict[str, Column], names: Sequence[str]) -> str:
    """The inside of a JSON object with these columns' values."""
    return _concat(*_values_parts(columns, names))


def _values_parts(columns: dict[str, Column], names: Sequence[str]) -> list[str]:
    parts: list[str] = []
    for name in names:
        comma = "," if parts else ""
        parts += [Constant(comma + orjson.dumps(name).decode() + ":"), *_value_parts(columns[name])]
    return parts


def table_sql(definition: Definition) -> str:
    """The table without those that inherit from it; a partitioned one has no rows of its own."""
    relation = quote_relation(definition.schema, definition.table)
    return relation if definition.partitioned else f"ONLY {relation}"


def _conditions(definition: Definition, condition: str | None = None) -> str:
    """The shape's filter and another one, each in parentheses: an OR in one must not swallow the other."""
    given = [] if definition.where is None else [definition.where.sql]
    if condition is not None:
        given.append(condition)
    return " WHERE " + " AND ".join(f"({sql})" for sql in given) if given else ""


def _text(column: Column) -> str:
    """The value as its type's output function renders it; not NULL-safe."""
    name = quote(column.name)
    if column.type_kind == "b" and column.type_name in _PLAIN | _TEXT:
        return f"{name}::text"
    # concat() calls the output function, where a cast to text may call another (boolean, char(n), inet, name …).
    return f"concat({name})"


def _value_parts(column: Column) -> list[str]:
    """A column's value as JSON."""
    name = quote(column.name)
    base = column.type_kind == "b"
    if base and column.type_name in _PLAIN:
        if column.not_null:
            return [Constant('"'), f"{name}::text", Constant('"')]
        return [f"coalesce('\"' || {name}::text || '\"', 'null')"]
    if base and column.type_name == "bool":
        return [f"CASE WHEN {name} THEN '\"t\"' WHEN NOT {name} THEN '\"f\"' ELSE 'null' END"]
    rendered = f"to_json({_text(column)})::text"
    if base and column.type_name in _TEXT:
        return [rendered if column.not_null else f"coalesce({rendered}, 'null')"]
    # A composite whose fields are all NULL "is null" in SQL, but has a text of its own.
    return [f"CASE WHEN num_nulls({name}) = 1 THEN 'null' ELSE {rendered} END"]


def key_sql(definition: Definition, columns: dict[str, Column]) -> str:
    """The row's key as a JSON string."""
    return _concat(*_key_parts(definition, columns))


def _key_parts(definition: Definition, columns: dict[str, Column]) -> list[str]:
    prefix = key_prefix(definition.schema, definition.table)
    keys = [columns[name] for name in definition.key_columns]
    if not definition.hidden_columns and all(_is_plain(column) and column.not_null for column in keys):
        # Nothing in it that JSON would escape, apart from the constants.
        parts: list[str] = [Constant('"' + _escaped(prefix))]
        for column in keys:
            parts += [Constant(_escaped('/"')), f"{quote(column.name)}::text", Constant(_escaped('"'))]
        return [*parts, Constant('"')]
    parts = [Constant(prefix), *(part for column in keys for part in _key_part(column))]
    if definition.hidden_columns:
        hidden = _concat(
            Constant(definition.salt),
            *(part for name in definition.hidden_columns for part in _key_part(columns[name])),
        )
        parts.append(f"'/\"' || md5({hidden}) || '\"'")
    return [f"to_json({_concat(*parts)})::text"]


def _is_plain(column: Column) -> bool:
    return column.type_kind == "b" and column.type_name in _PLAIN


def _escaped(text: str) -> str:
    """As it stands within a JSON string."""
    return orjson.dumps(text).decode()[1:-1]


def _key_part(column: Column) -> list[str]:
    rendered = _text(column) if _is_plain(column) else f"replace({_text(column)}, '/', '//')"
    if column.not_null:
        return [Constant('/"'), rendered, Constant('"')]
    return [f"CASE WHEN num_nulls({quote(column.name)}) = 1 THEN '/_' ELSE '/\"' || {rendered} || '\"' END"]
