"""What the catalogue says of a table: columns, types, key; and the `electric-schema` header made from it. Pure.

The catalogue query is here beside the code that reads its rows; running it is the caller's work.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from switchgear_shapes.identifiers import literal, quote_relation
from switchgear_shapes.postgres.session import Row

_FIRST_USER_OID = 16_384
"""Below are the objects that initdb makes: tables of which Postgres publishes none, and types that never change."""


@dataclass(frozen=True, slots=True)
class Collation:
    """What decides how a column's text compares, the database's default looked through."""

    name: str
    provider: str
    """`c` libc, `i` ICU, `b` built in."""
    locale: str
    """For libc LC_COLLATE; else the locale's name."""
    ctype: str
    """For libc LC_CTYPE; else the locale's name."""
    deterministic: bool
    encoding: str
    """Of the database, as Postgres names it."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column as `pg_attribute` has it. `pk_position` is its place in the primary key, or None."""

    name: str
    number: int
    type_oid: int
    type_name: str
    type_kind: str
    """`pg_type.typtype`: b base, c composite, d domain, e enum, r range, m multirange."""
    type_modifier: int
    dimensions: int
    element_type: str | None
    """For arrays, the element's type name."""
    not_null: bool
    pk_position: int | None
    generated: str
    """`''`, `s` (stored) or `v` (virtual)."""
    base_type: str | None = None
    """The type's name with domains looked through, for arrays the element's; None if it is none of Postgres' own."""
    base_array: bool = False
    enum_labels: tuple[str, ...] | None = None
    """Of enums and arrays of them, in their order."""
    enum_schema: str = ""
    """Of the same, the schema that the enum is in."""
    collation: Collation | None = None
    attributes: str = ""
    """What the text of its values depends on in composite types, those within others included; empty if in none."""
    labels: tuple[tuple[int, str], ...] = ()
    """The same of enums: (`pg_enum`'s OID, label), the first one made first."""
    version: int = 0
    """The transaction that last changed what `pg_attribute` has of it."""


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, its columns in table order."""

    oid: int
    schema: str
    name: str
    kind: str
    """`pg_class.relkind`: r ordinary, p partitioned; by name also v, m, f, S, which have no shapes."""
    replica_identity: str
    columns: tuple[Column, ...]
    pk: tuple[str, ...] = field(default=())
    """Primary key columns in key order; empty without one."""
    persistence: str = "p"
    """`pg_class.relpersistence`: p permanent, u unlogged, t temporary."""
    stamp: str = ""
    """What `stamp_expression` gives in Postgres for the table as it is here."""
    server_version: int = 0
    """Of the Postgres that said so, as `server_version_num` (150004)."""
    deferrable: bool = False
    """Whether the primary key may be violated within a transaction."""
    whole: bool = True
    """Whether our role may read all columns, and so may lock the table."""
    file: int = 0
    """The file with the rows, which is another one when they were all written anew; 0 for partitioned tables."""

    @property
    def signature(self) -> tuple[tuple[str, int], ...]:
        """(column, type OID) in table order: what must stay the same for rows to stay decodable."""
        return tuple((column.name, column.type_oid) for column in self.columns)


# What a type of somebody's own is made of: the attributes and labels of all types in it.
_PARTS = """
(WITH RECURSIVE parts(oid) AS (
   SELECT a.atttypid
   UNION
   SELECT p.oid FROM parts JOIN pg_catalog.pg_type y ON y.oid = parts.oid CROSS JOIN LATERAL (
     SELECT y.typbasetype UNION ALL SELECT y.typelem
     UNION ALL SELECT f.atttypid FROM pg_catalog.pg_attribute f WHERE y.typtype = 'c' AND f.attrelid = y.typrelid
       AND f.attnum > 0 AND NOT f.attisdropped
     UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE y.oid IN (r.rngtypid, r.rngmultitypid)) p(oid)
   WHERE p.oid >= {first_user_oid})
 SELECT pg_catalog.jsonb_build_array(
   (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(y.oid::int8, f.attnum, f.atttypid::int8, f.atttypmod)
      ORDER BY y.oid, f.attnum)
    FROM parts JOIN pg_catalog.pg_type y ON y.oid = parts.oid AND y.typtype = 'c'
    JOIN pg_catalog.pg_attribute f ON f.attrelid = y.typrelid AND f.attnum > 0 AND NOT f.attisdropped),
   (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(l.oid::int8, l.enumlabel) ORDER BY l.oid)
    FROM parts JOIN pg_catalog.pg_enum l ON l.enumtypid = parts.oid)))
"""

# The stamp is on a table's first row only: of 1,600 columns it is a long text.
_COLUMNS_QUERY = """
SELECT c.oid::int8, n.nspname, c.relname, c.relkind, c.relreplident,
       a.attname, a.attnum, a.atttypid::int8, t.typname, t.typtype, a.atttypmod,
       CASE WHEN e.oid IS NOT NULL THEN greatest(a.attndims, 1) ELSE 0 END,
       e.typname,
       a.attnotnull AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint n WHERE n.conrelid = c.oid
         AND n.contype = 'n' AND NOT n.convalidated AND n.conkey = ARRAY[a.attnum]),
       CASE WHEN k.position < i.indnkeyatts THEN k.position END,
       a.attgenerated,
       pg_catalog.jsonb_build_array(
         CASE WHEN coalesce(ue.typnamespace, u.typnamespace) = 'pg_catalog'::regnamespace
           THEN coalesce(ue.typname, u.typname) END,
         ue.oid IS NOT NULL,
         CASE WHEN coalesce(ue.typtype, u.typtype) = 'e' THEN
           (SELECT pg_catalog.jsonb_agg(l.enumlabel ORDER BY l.enumsortorder) FROM pg_catalog.pg_enum l
            WHERE l.enumtypid = coalesce(ue.oid, u.oid)) END,
         (SELECT pg_catalog.jsonb_build_array(o.collname,
            CASE o.collprovider WHEN 'd' THEN coalesce(b.data ->> 'datlocprovider', 'c')
              ELSE o.collprovider::text END,
            CASE WHEN o.collprovider = 'd'
              THEN coalesce(b.data ->> 'datlocale', b.data ->> 'daticulocale', b.datcollate::text)
              ELSE coalesce(o.data ->> 'colllocale', o.data ->> 'colliculocale', o.collcollate::text) END,
            CASE WHEN o.collprovider = 'd'
              THEN coalesce(b.data ->> 'datlocale', b.data ->> 'daticulocale', b.datctype::text)
              ELSE coalesce(o.data ->> 'colllocale', o.data ->> 'colliculocale', o.collctype::text) END,
            o.collisdeterministic, pg_encoding_to_char(b.encoding))
          FROM (SELECT *, pg_catalog.to_jsonb(f) AS data FROM pg_catalog.pg_collation f) o,
            (SELECT *, pg_catalog.to_jsonb(f) AS data FROM pg_catalog.pg_database f) b
          WHERE o.oid = a.attcollation AND b.datname = current_database()),
         CASE WHEN a.atttypid >= {first_user_oid} THEN {parts} END,
         (SELECT s.nspname FROM pg_catalog.pg_namespace s WHERE coalesce(ue.typtype, u.typtype) = 'e'
            AND s.oid = coalesce(ue.typnamespace, u.typnamespace))),
       c.relpersistence,
       CASE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_attribute p WHERE p.attrelid = c.oid AND p.attnum > 0
         AND p.attnum < a.attnum AND NOT p.attisdropped) THEN {stamp} END,
       current_setting('server_version_num'),
       c.relfilenode::int8, a.xmin::text, NOT i.indimmediate, has_table_privilege(c.oid, 'SELECT')
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
  AND t.typname NOT IN ('oidvector', 'int2vector')
LEFT JOIN LATERAL (
  WITH RECURSIVE domains(oid) AS (
    SELECT a.atttypid
    UNION ALL
    SELECT d.typbasetype FROM domains JOIN pg_catalog.pg_type d ON d.oid = domains.oid AND d.typtype = 'd')
  SELECT d.* FROM domains JOIN pg_catalog.pg_type d ON d.oid = domains.oid AND d.typtype <> 'd') u ON true
LEFT JOIN pg_catalog.pg_type ue ON ue.oid = u.typelem AND ue.typarray = u.oid
LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary
LEFT JOIN LATERAL (SELECT pg_catalog.array_position(i.indkey, a.attnum) AS position) k ON true
WHERE c.relkind IN ({kinds}) AND {condition}
ORDER BY c.oid, a.attnum
"""


_TABLE_KINDS = "'r', 'p'"
_NAMED_KINDS = "'r', 'p', 'v', 'm', 'f', 'S'"


def query_by_name(schema: str, table: str) -> str:
    """Whatever has the name, so that a refusal can say what it is: see `obstacle`."""
    condition = f"n.nspname = {literal(schema)} AND c.relname = {literal(table)}"
    return _query(_NAMED_KINDS, condition)


def query_by_oids(oids: list[int]) -> str:
    """Tables only."""
    return _query(_TABLE_KINDS, f"c.oid IN ({','.join(map(str, oids))})")


def _query(kinds: str, condition: str) -> str:
    return _COLUMNS_QUERY.format(
        kinds=kinds,
        condition=condition,
        stamp=stamp_expression("c.oid"),
        parts=_PARTS.format(first_user_oid=_FIRST_USER_OID),
        first_user_oid=_FIRST_USER_OID,
    )


_TABLES_INSTEAD = "ask for a shape of the tables behind it"
_OTHER_KINDS = {
    "v": ("a view", _TABLES_INSTEAD),
    "m": ("a materialized view", _TABLES_INSTEAD),
    "f": ("a foreign table", "connect a sync server to the database that holds its rows"),
    "S": ("a sequence", "ask for a shape of the table that uses it"),
}


def obstacle(relation: Relation) -> str | None:
    """Why Postgres replicates no changes of the relation, and the way out; None for a table that can be published."""
    return obstacle_of(relation.oid, relation.schema, relation.name, relation.kind, relation.persistence)


def obstacle_of(oid: int, schema: str, table: str, kind: str, persistence: str) -> str | None:
    """The same of what `pg_class` has."""
    name = quote_relation(schema, table)
    if oid < _FIRST_USER_OID:
        what = "a view of the system catalog" if kind == "v" else "a table of the system catalog"
        instead = "copy what is needed into a table of your own"
    elif kind in _OTHER_KINDS:
        what, instead = _OTHER_KINDS[kind]
    elif persistence == "u":
        what, instead = "an unlogged table", f"run ALTER TABLE {name} SET LOGGED"
    elif persistence == "t":
        what, instead = "a temporary table", "use a permanent table"
    else:
        return None
    return f"{name} is {what}, whose changes Postgres does not replicate: {instead}"


def stamp_expression(oid: str) -> str:
    """SQL for a text that changes when anything about the table that a snapshot relies on changes.

    The transaction ids that made the rows of `pg_attribute` stand for these rows: one small scan, where comparing the
    columns themselves costs Postgres as much as a snapshot of 100 rows. It may change for less (a column's privileges):
    then the table is looked at again.
    """
    rows = f"FROM pg_catalog.pg_attribute s WHERE s.attrelid = {oid} AND s.attnum > 0 AND NOT s.attisdropped"
    key = f"FROM pg_catalog.pg_index s WHERE s.indrelid = {oid} AND s.indisprimary"
    return (
        "(SELECT pg_catalog.concat_ws(' ', k.relnamespace::pg_catalog.regnamespace, k.relname,"  # noqa: S608
        f" (SELECT pg_catalog.string_agg(s.xmin::text, ',' ORDER BY s.attnum) {rows}),"
        f" (SELECT pg_catalog.string_agg(s.indexrelid::text, ',') {key}))"
        f" FROM pg_catalog.pg_class k WHERE k.oid = {oid})"
    )


def from_rows(rows: list[Row]) -> list[Relation]:
    """Relations from the rows of either query."""
    grouped: dict[int, list[Row]] = {}
    for row in rows:
        grouped.setdefault(int(row[0] or 0), []).append(row)
    return [_relation(oid, group) for oid, group in grouped.items()]


def _relation(oid: int, rows: list[Row]) -> Relation:
    columns = tuple(_column(row) for row in rows if row[5] is not None)
    keyed = sorted((c.pk_position, c.name) for c in columns if c.pk_position is not None)
    first = rows[0]
    return Relation(
        oid=oid,
        schema=first[1] or "",
        name=first[2] or "",
        kind=first[3] or "",
        replica_identity=first[4] or "",
        columns=columns,
        pk=tuple(name for _, name in keyed),
        persistence=first[17] or "",
        stamp=first[18] or "",
        server_version=int(first[19] or 0),
        deferrable=first[22] == "t",
        whole=first[23] == "t",
        file=int(first[20] or 0),
    )


def _column(row: Row) -> Column:
    found = json.loads(row[16] or "[null, false, null, null, null, null]")
    base_type, base_array, enum_labels, collation, parts, enum_schema = found
    attributes, labels = parts or (None, None)
    return Column(
        name=row[5] or "",
        number=int(row[6] or 0),
        type_oid=int(row[7] or 0),
        type_name=row[8] or "",
        type_kind=row[9] or "",
        type_modifier=-1 if row[10] is None else int(row[10]),
        dimensions=int(row[11] or 0),
        element_type=row[12],
        not_null=row[13] == "t",
        pk_position=None if row[14] is None else int(row[14]),
        generated=row[15] or "",
        base_type=base_type,
        base_array=base_array,
        enum_labels=None if enum_labels is None else tuple(enum_labels),
        enum_schema=enum_schema or "",
        collation=None if collation is None else Collation(*collation),
        attributes=json.dumps(attributes) if attributes else "",
        labels=tuple((oid, label) for oid, label in labels or ()),
        version=int(row[21] or 0),
    )


_HEADERS: dict[tuple[int, tuple[str, ...]], tuple[Relation, bytes]] = {}
_HEADERS_LIMIT = 1000


def schema_header(relation: Relation, selected: tuple[str, ...]) -> bytes:
    """The `electric-schema` value for the selected columns. ASCII only, so that it is a valid header."""
    key = (id(relation), selected)
    kept = _HEADERS.get(key)
    if kept is not None and kept[0] is relation:
        return kept[1]
    header = _schema_header(relation, selected)
    if len(_HEADERS) >= _HEADERS_LIMIT:
        _HEADERS.clear()
    _HEADERS[key] = (relation, header)
    return header


def _schema_header(relation: Relation, selected: tuple[str, ...]) -> bytes:
    wanted = set(selected)
    schema = {column.name: _column_schema(column) for column in relation.columns if column.name in wanted}
    return json.dumps(schema, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _column_schema(column: Column) -> dict[str, Any]:
    is_array = column.dimensions > 0 and column.element_type is not None
    type_name = column.element_type if is_array and column.element_type is not None else column.type_name
    made: dict[str, Any] = {"type": type_name}
    if is_array:
        made["dims"] = column.dimensions
    if column.pk_position is not None:
        made["pk_index"] = column.pk_position
    if column.not_null:
        made["not_null"] = True
    if column.type_modifier >= 0:
        made |= _modifier(type_name, column.type_modifier)
    return made


_INTERVAL_BITS = (("YEAR", 2), ("MONTH", 1), ("DAY", 3), ("HOUR", 10), ("MINUTE", 11), ("SECOND", 12))


def _modifier(type_name: str, typmod: int) -> dict[str, Any]:
    match type_name:
        case "varchar" | "text":
            return {"max_length": typmod - 4}
        case "bpchar":
            return {"length": typmod - 4}
        case "bit" | "varbit":
            return {"length": typmod}
        case "numeric":
            scale = (typmod - 4) & 0x7FF
            return {"precision": ((typmod - 4) >> 16) & 0xFFFF, "scale": scale - 2048 if scale > 1023 else scale}
        case "time" | "timetz" | "timestamp" | "timestamptz":
            return {"precision": typmod}
        case "interval":
            return _interval_modifier(typmod)
        case _:
            return {"type_mod": typmod}


def _interval_modifier(typmod: int) -> dict[str, Any]:
    made: dict[str, Any] = {}
    precision, fields = typmod & 0xFFFF, (typmod >> 16) & 0x7FFF
    if precision != 0xFFFF:
        made["precision"] = precision
    if fields != 0x7FFF:
        named = [name for name, bit in _INTERVAL_BITS if fields & (1 << bit)]
        if named:
            made["fields"] = named[0] if len(named) == 1 else f"{named[0]} TO {named[-1]}"
    return made
