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
from switchgear_shapes.postgres.session import DISPLAY_SETTINGS
from switchgear_shapes.relations import Column, Relation, fingerprint_expression

# Base types whose cast to text is their output function, and whose output needs no JSON escapes.
_PLAIN_NAMES = "int2 int4 int8 float4 float8 numeric oid uuid date time timetz timestamp timestamptz interval"
_PLAIN = frozenset(_PLAIN_NAMES.split())
# The same, but any character may occur.
_TEXT = frozenset({"text", "varchar", "json", "jsonb", "bytea"})

_HALF = 1 << 31
_MASK = (1 << 32) - 1


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


def begin_statements(definition: Definition, lock_seconds: int, statement_seconds: int = 0) -> str:
    """Open the transaction and hold the table's schema still before the snapshot is taken.

    `statement_seconds` bounds each statement that follows, the reader's pace included; 0 for no limit.
    """
    return begin_text(definition.oid, table_sql(definition), lock_seconds, statement_seconds)


def begin_text(oid: int, table: str, lock_seconds: int, statement_seconds: int = 0) -> str:
    """`begin_statements` for any table; `table` as `table_sql` has it."""
    settings = "".join(f"SET LOCAL {name} = {literal(value)};" for name, value in DISPLAY_SETTINGS.items())
    return (
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
        f"{settings}SET LOCAL lock_timeout = '{lock_seconds}s';SET LOCAL statement_timeout = '{statement_seconds}s';"
        f"LOCK TABLE {table} IN ACCESS SHARE MODE;"
        f"SELECT pg_current_snapshot(), pg_current_wal_insert_lsn(), {fingerprint_expression(oid)}"
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
    columns = {column.name: column for column in relation.columns}
    all_headers = {"operation": "insert", "relation": [definition.schema, definition.table]} | headers
    opening = [literal('},"headers":{'), fields] if fields is not None else [literal('},"headers":{')]
    line = _concat(
        literal('{"key":'),
        key_sql(definition, columns),
        literal(',"value":{'),
        values_sql(columns, definition.columns),
        *opening,
        literal(orjson.dumps(all_headers).decode()[1:] + "},"),
    )
    query = f"SELECT {line} FROM {table_sql(definition)}{tail}"  # noqa: S608 - every name and value in it is quoted
    return f"COPY ({query}) TO STDOUT WITH ({COPY_OPTIONS})"


def values_sql(columns: dict[str, Column], names: Sequence[str]) -> str:
    """The inside of a JSON object with these columns' values."""
    parts = [_concat(literal(orjson.dumps(name).decode() + ":"), _json_value(columns[name])) for name in names]
    return " || ',' || ".join(parts) if parts else "''"


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


def _concat(*parts: str) -> str:
    return " || ".join(parts)


def _text(column: Column) -> str:
    """The value as its type's output function renders it; not NULL-safe."""
    name = quote(column.name)
    if column.type_kind == "b" and column.type_name in _PLAIN | _TEXT:
        return f"{name}::text"
    # concat() calls the output function, where a cast to text may call another (boolean, char(n), inet, name …).
    return f"concat({name})"


def _json_value(column: Column) -> str:
    name = quote(column.name)
    if column.type_kind == "b" and column.type_name in _PLAIN:
        rendered = f"'\"' || {name}::text || '\"'"
        return f"({rendered})" if column.not_null else f"coalesce({rendered}, 'null')"
    if column.type_kind == "b" and column.type_name == "bool":
        return f"CASE WHEN {name} THEN '\"t\"' WHEN NOT {name} THEN '\"f\"' ELSE 'null' END"
    rendered = f"to_json({_text(column)})::text"
    if column.type_kind == "b" and column.type_name in _TEXT:
        return rendered if column.not_null else f"coalesce({rendered}, 'null')"
    # A composite whose fields are all NULL "is null" in SQL, but has a text of its own.
    return f"CASE WHEN num_nulls({name}) = 1 THEN 'null' ELSE {rendered} END"


def key_sql(definition: Definition, columns: dict[str, Column]) -> str:
    """The row's key as a JSON string."""
    prefix = literal(key_prefix(definition.schema, definition.table))
    parts = [prefix, *(_key_part(columns[name]) for name in definition.key_columns)]
    if definition.hidden_columns:
        hidden = _concat(literal(definition.salt), *(_key_part(columns[name]) for name in definition.hidden_columns))
        parts.append(f"'/\"' || md5({hidden}) || '\"'")
    return f"to_json({_concat(*parts)})::text"


def _key_part(column: Column) -> str:
    rendered = f"'/\"' || replace({_text(column)}, '/', '//') || '\"'"
    if column.type_kind == "b" and column.type_name in _PLAIN:
        rendered = f"'/\"' || {_text(column)} || '\"'"
    if column.not_null:
        return rendered
    return f"CASE WHEN num_nulls({quote(column.name)}) = 1 THEN '/_' ELSE {rendered} END"
