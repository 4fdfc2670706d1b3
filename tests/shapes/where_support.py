"""A table with columns of every type and rows full of edge cases, and what Postgres says of expressions on it.

`Table.verdicts` asks Postgres for the value of many expressions on all rows in one round trip: for each expression a
text with one letter a row, t, f, n (NULL) or e (an error).
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg

from switchgear_shapes import relations
from switchgear_shapes.postgres.session import DISPLAY_SETTINGS
from switchgear_shapes.relations import Relation
from switchgear_shapes.where.evaluate import predicate
from switchgear_shapes.where.expression import Where
from tests.support.postgres import Database, Postgres, create_database, drop_database

TEXTS = [
    "",
    "a",
    "A",
    "ab",
    "Ab%",
    "a_b",
    "b\\",
    "äÖ",
    "ÄÖ",
    "Straße",
    "line\nbreak",
    "😀",
    "ΑΣ σς",
    "İI",
    "a  ",
    "'q'",
    "a%",
    "_b\\",
    "%_\\",
    '{"a": 1, "status": ["a"]}',
    "7",
]
DOCUMENTS = [
    "null",
    "true",
    "5",
    "1.0",
    '"a"',
    '""',
    "[]",
    "{}",
    '[1, 1.0, "a", null, [1, 2.50], {"b": 1}, true]',
    '["a", "b", "\\"q\\"", ["a"], [[]], {}]',
    '{"a": 1, "b": {"c": [1, {"d": null}]}, "status": "a"}',
    '{"a": 1.00, "b": {"b": 1}, "n": "5", "status": "b"}',
    '{"a": "5", "n": 5, "": "x", "ab": 1e3, "b": [{"b": 1}, {"c": 2, "b": 1.0}]}',
    '{"a": {"b": 1, "a": {"a": [0, -1.50, 1e-7]}}, "n": "x", "\\u00e4\\n\\"": "😀\\u0001\\t\\\\ , [{"}',
    '{"bb": 1, "a": null, "ab": "a", "a ,\\"": ["}", "]", "\\"", ","], "n": 9007199254740993.5}',
    '{"a": [1, 2, [3, "x"]], "n": true, "b": "Straße", "0": 7, "-1": 8, "c": 100000000000000000000}',
]
JSON = [
    *DOCUMENTS,
    ' { "a" : 1.0e1 , "b":[ 1 , "x\\u00e4" ,{ } ], "a" : {"b" : 2} } ',
    '{"a":{"b":1},"a":{"c":[1,2]},"status":"a","b":{"c":[ ]}}',
    "[ ]",
    ' "a" ',
    '{"n": "\\u0000", "a": 1}',
    '{"n": "\\ud800", "a": "b"}',
    '{"n": "\\ud83d\\ude00", "\\u0061": "b", "b": [[1], {"b": "x"}]}',
]
VALUES: dict[str, list[str]] = {
    "bool": ["t", "f"],
    "int2": ["0", "1", "-1", "5", "32767", "-32768"],
    "int4": ["0", "1", "-1", "5", "7", "2147483647", "-2147483648"],
    "int8": ["0", "1", "-1", "5", "9007199254740993", "9223372036854775807", "-9223372036854775808"],
    "float4": ["0", "-0", "1.1", "1.5", "-2.5", "3.4e38", "1e-40", "NaN", "Infinity", "-Infinity"],
    "float8": ["0", "-0", "1.1", "0.1", "2.5", "-1e300", "5e-324", "9007199254740992", "NaN", "Infinity", "-Infinity"],
    "numeric": ["0", "0.00", "1", "1.0", "1.10", "-2.5", "0.1", "1e30", "9007199254740993.5", "NaN", "Infinity"],
    "text": TEXTS,
    "varchar": TEXTS,
    "bpchar": ["", "a", "A", "ab", "a b", "äÖ"],
    "name": ["", "a", "A", "ab", "äÖ"],
    "uuid": [
        "00000000-0000-0000-0000-000000000000",
        "0b1e4a5c-1111-2222-3333-444455556666",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
    ],
    "date": ["2000-01-01", "2024-02-29", "1999-12-31", "0044-03-15 BC", "infinity", "-infinity", "12024-01-01"],
    "time": ["00:00:00", "12:34:56.789", "23:59:59.999999", "24:00:00", "00:00:00.000001"],
    "timestamp": [
        "2000-01-01 00:00:00",
        "2024-02-29 12:34:56.789",
        "2024-02-29 00:00:00",
        "0044-03-15 01:02:03 BC",
        "infinity",
        "-infinity",
        "12024-01-01 00:00:00",
    ],
    "timestamptz": [
        "2000-01-01 00:00:00+00",
        "2024-02-29 12:34:56.789+00",
        "0044-03-15 01:02:03+00 BC",
        "infinity",
        "-infinity",
        "1883-11-18 12:03:58+00",
    ],
    "interval": [
        "0",
        "1 mon",
        "30 days",
        "1 day",
        "24:00:00",
        "-1 year -2 mons +3 days -04:05:06.7",
        "00:00:00.000001",
    ],
    "mood": ["sad", "ok", "happy"],
    "jsonb": DOCUMENTS,
    "json": JSON,
    "int4[]": ["{}", "{1}", "{1,2,3}", "{1,NULL}", "{NULL}", "{{1,2},{3,4}}", "[0:1]={1,2}", "{5,5,-1}"],
    "text[]": ["{}", "{a}", "{a,b}", "{NULL,a}", '{"NULL","",  "a b"}', '{"q\\"x","b\\\\",äÖ}', "{{a},{b}}"],
    "numeric[]": ["{}", "{1.0}", "{1,2.50}", "{NaN,NULL}"],
    "mood[]": ["{}", "{sad}", "{ok,happy}", "{NULL}"],
}
COLUMN_TYPES = {"bpchar": "char(4)", "varchar": "varchar(40)"}
ROWS = 48


@contextlib.contextmanager
def displayed(postgres: Postgres, schema: str) -> Iterator[psycopg.Connection]:
    """A new database with this in it, on a connection that shows values as the server's own do."""
    database = create_database(postgres)
    with database.connect() as made:
        for setting, value in DISPLAY_SETTINGS.items():
            made.execute(f"SET {setting} = '{value}'".encode())
        made.execute(b"SET search_path = public")
        made.execute(schema.encode())
        yield made
    drop_database(database)


@dataclass
class Table:
    """`relation` as the server sees it, `rows` as the stream would carry them."""

    connection: psycopg.Connection
    relation: Relation
    rows: list[list[bytes | None]]

    @classmethod
    def create(cls, database: Database, name: str = "items", seed: int = 4, options: str = "") -> Table:
        connection = database.connect()
        for setting, value in DISPLAY_SETTINGS.items():
            connection.execute(f"SET {setting} = '{value}'".encode())
        connection.execute(b"RESET search_path")
        kinds = list(VALUES)
        connection.execute("CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')")
        columns = [
            f'"{column_name(kind)}{n}" {COLUMN_TYPES.get(kind, kind)} {options if _is_text(kind) else ""}'
            for kind in kinds
            for n in (1, 2)
        ]
        connection.execute(f"CREATE TABLE {name} (id int4 PRIMARY KEY, {', '.join(columns)})".encode())
        chooser = random.Random(seed)
        pools = [VALUES[kind] for kind in kinds for _ in (1, 2)]
        for row in range(ROWS):
            chosen = [None if chooser.random() < 0.12 else chooser.choice(pool) for pool in pools]
            marks = ", ".join(["%s"] * (len(chosen) + 1))
            types = ["int4", *(kind for kind in kinds for _ in (1, 2))]
            marks = ", ".join(f"%s::text::{kind}" for kind in types)
            connection.execute(f"INSERT INTO {name} VALUES ({marks})".encode(), [str(row), *chosen])
        connection.execute(VERDICT.format(name=name).encode())
        return cls(connection, read_relation(connection, name), read_rows(connection, name))

    @property
    def positions(self) -> dict[str, int]:
        return {column.name: index for index, column in enumerate(self.relation.columns)}

    def verdicts(self, conditions: list[str], search_path: str = "public") -> list[str]:
        self.connection.execute(f"SET search_path = {search_path}".encode())
        return verdicts(self.connection, conditions)

    def ours(self, where: Where) -> str:
        test = predicate(where.expression, self.positions)
        return "".join({True: "t", False: "f", None: "n"}[test(list(row))] for row in self.rows)


def column_name(kind: str) -> str:
    return kind.replace("[]", "s")


def _is_text(kind: str) -> bool:
    return kind in ("text", "varchar", "bpchar")


def verdicts(connection: psycopg.Connection, conditions: list[str]) -> list[str]:
    """What Postgres says of each condition, a letter for each row; `VERDICT` must have been executed."""
    found = connection.execute(
        "SELECT public.verdict(c) FROM unnest(%s::text[]) WITH ORDINALITY u(c, n) ORDER BY n", [conditions]
    ).fetchall()
    return [row[0] for row in found]


VERDICT = """
CREATE FUNCTION verdict(condition text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  found text; one text; r int4;
  tested text := '(' || condition || E'\\n)';
  shown text := 'CASE WHEN ' || tested || ' THEN ''t'' WHEN NOT ' || tested || ' THEN ''f'' ELSE ''n'' END';
BEGIN
  BEGIN
    EXECUTE 'SELECT string_agg(' || shown || ', '''' ORDER BY id) FROM public.{name}' INTO found;
    RETURN found;
  EXCEPTION WHEN OTHERS THEN found := '';
  END;
  FOR r IN SELECT id FROM public.{name} ORDER BY id LOOP
    BEGIN
      EXECUTE 'SELECT ' || shown || ' FROM public.{name} WHERE id = ' || r INTO one;
      found := found || one;
    EXCEPTION WHEN OTHERS THEN found := found || 'e';
    END;
  END LOOP;
  RETURN found;
END $$
"""


def read_relation(connection: psycopg.Connection, table: str, schema: str = "public") -> Relation:
    result = connection.pgconn.exec_(relations.query_by_name(schema, table).encode())
    assert result.error_message == b"", result.error_message
    rows = []
    for index in range(result.ntuples):
        values = [result.get_value(index, column) for column in range(result.nfields)]
        rows.append(tuple(None if value is None else value.decode() for value in values))
    return relations.from_rows(rows)[0]


def read_rows(connection: psycopg.Connection, table: str) -> list[list[bytes | None]]:
    """The rows as the types' output functions print them."""
    result = connection.pgconn.exec_(f"SELECT * FROM {table} ORDER BY 1".encode())
    return [[result.get_value(row, column) for column in range(result.nfields)] for row in range(result.ntuples)]


def agrees(ours: str, theirs: str) -> bool:
    """Whether both give TRUE on the same rows, and differ elsewhere only where Postgres has an error."""
    return len(ours) == len(theirs) and all(
        a == b or (b == "e" and a != "t") for a, b in zip(ours, theirs, strict=True)
    )
