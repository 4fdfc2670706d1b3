"""Every type that a column can have, in every form of a clause, by itself and beside text and numbers.

What we take, Postgres takes: else a shape is answered 500. And both say the same of the rows: a clause that raises on
the stream what nothing may raise there ends the server.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from switchgear_shapes.postgres.session import DISPLAY_SETTINGS
from switchgear_shapes.where.evaluate import predicate
from switchgear_shapes.where.parse import WhereError, parse_where
from tests.shapes.server import one_version
from tests.shapes.where_support import agrees, displayed, read_relation, read_rows
from tests.support.postgres import Postgres

pytestmark = pytest.mark.pg

TYPES: dict[str, tuple[str, str, str]] = {
    **dict.fromkeys(("text", "varchar", "varchar(3)", "char(3)", "name", "words"), ("a", "b ", "1")),
    **dict.fromkeys(("mood", "feeling"), ("sad", "ok", "ok")),
    **dict.fromkeys(("int2", "int4", "int8", "count", "oid"), ("1", "2", "3")),
    **dict.fromkeys(("numeric", "numeric(5,2)", "float4", "float8", "money"), ("1", "2.50", "0.1")),
    "bool": ("t", "f", "t"),
    "uuid": ("00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002", "0" * 32),
    **dict.fromkeys(("date", "timestamp", "timestamptz"), ("2024-01-01", "2024-01-02", "infinity")),
    **dict.fromkeys(("time", "timetz"), ("10:00+00", "11:00+00", "10:00+00")),
    "interval": ("1 day", "24:00", "1 mon"),
    **dict.fromkeys(("jsonb", "json"), ('"a"', "1", '{"a": 1}')),
    "bytea": ("a", "b", "\\\\x00ff"),
    "inet": ("1.1.1.1", "2.2.2.2", "::1"),
    "bit(3)": ("101", "111", "000"),
    "int4range": ("[1,2)", "[2,3)", "empty"),
    "point": ("(1,2)", "(0,0)", "(-1,0)"),
    **dict.fromkeys(
        ("text[]", "varchar[]", "varchar(3)[]", "char(3)[]", "name[]", "bytea[]"), ("{a}", "{b,NULL}", "{}")
    ),
    **dict.fromkeys(("list", "words[]"), ("{a}", "{b,NULL}", "{}")),
    "mood[]": ("{sad}", "{ok,NULL}", "{}"),
    **dict.fromkeys(("int2[]", "int4[]", "int8[]", "float4[]", "float8[]", "count[]"), ("{1}", "{2,NULL}", "{}")),
    **dict.fromkeys(("numeric[]", "jsonb[]"), ("{1.0}", "{2,NULL}", "{}")),
    "bool[]": ("{t}", "{f,NULL}", "{}"),
    "uuid[]": ("{00000000-0000-0000-0000-000000000001}", "{}", "{NULL}"),
    **dict.fromkeys(("date[]", "timestamptz[]"), ("{2024-01-01}", "{}", "{NULL}")),
    **dict.fromkeys(("interval[]", "time[]"), ("{24:00}", "{}", "{NULL}")),
}
OPERATORS = (
    *("=", "<>", "<", "@>", "<@", "&&", "||", "+", "-", "*", "/", "%", "~~", "~~*", "->", "->>", "#>", "#>>", "?", "&"),
)
FORMS = (
    *(f"{{a}} {name} {{b}}" for name in OPERATORS),
    *(f"({{a}} {name} {{b}}) IS NULL" for name in OPERATORS),
    *("{a} IN ({b}, {a})", "{a} = ANY({b})", "{a} <> ALL({b})", "{a} < ANY({b})", "{a} IS DISTINCT FROM {b}"),
    *("nullif({a}, {b}) IS NULL", "coalesce({a}, {b}) = {a}", "greatest({a}, {b}) = {b}", "concat({a}, {b}) = 'x'"),
    *("{a} BETWEEN {b} AND {b}", "array_append({a}, {b}) = {a}", "array_prepend({b}, {a}) = {a}"),
    *("array_cat({a}, {b}) = {a}", "ARRAY[{a},{b}] = ARRAY[{b},{a}]", "{a} = ({b})[1]", "({a})[1:1] = {b}"),
    *("{a} @> ARRAY[{b}]", "ARRAY[{b}] <@ {a}", "{a} = ARRAY[{b}]", "({a} || {b}) = {a}", "({a} || {b}) = {b}"),
    *("({a})::text = ({b})::text", "lower({a}) = {b}", '{a} COLLATE "C" = {b}', "{a} = '1'", "{a} IN ('a', 'sad')"),
    *(f"({{a}})::{kind} IS NULL" for kind in ("int4", "numeric", "text", "char(3)", "bool", "date", "jsonb", "text[]")),
)
SCHEMA = """
CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN feeling AS mood; CREATE DOMAIN words AS text;
CREATE DOMAIN count AS int4; CREATE DOMAIN list AS text[]
"""


@pytest.fixture
def connection(postgres: Postgres) -> Iterator[psycopg.Connection]:
    with displayed(postgres, SCHEMA) as made:
        yield made


@one_version
def test_every_type_in_every_form(connection: psycopg.Connection) -> None:
    columns = ", ".join(f"c{number} {kind}" for number, kind in enumerate(TYPES))
    connection.execute(f"CREATE TABLE t (id int PRIMARY KEY, {columns})".encode())
    marks = ", ".join(f"%s::text::{kind}" for kind in TYPES)
    for row in range(3):
        values = [shown[row] for shown in TYPES.values()]
        connection.execute(f"INSERT INTO t VALUES ({row}, {marks})".encode(), values)
    connection.execute(b"INSERT INTO t VALUES (3)")
    relation, rows = read_relation(connection, "t"), read_rows(connection, "t")
    positions = {column.name: index for index, column in enumerate(relation.columns)}
    connection.execute(f"SET search_path = {DISPLAY_SETTINGS['search_path']}".encode())
    named = {kind: f"c{number}" for number, kind in enumerate(TYPES)}
    text, texts = named["text"], named["text[]"]
    pairs = [pair for name in named.values() for pair in ((name, name), (name, text), (text, name), (name, texts))]
    taken, wrong = 0, []
    for first, second in pairs:
        for form in FORMS:
            clause = form.format(a=first, b=second)
            try:
                where = parse_where(clause, relation)
            except WhereError:
                continue
            taken += 1
            test = predicate(where.expression, positions)
            ours = "".join({True: "t", False: "f", None: "n"}[test(list(row))] for row in rows)
            theirs = said_by(connection, where.sql)
            if theirs is not None and not agrees(ours, theirs):
                wrong.append(
                    (text, [relation.columns[positions[name]].type_name for name in (first, second)], ours, theirs)
                )
    assert wrong == []
    assert taken > 1000


def said_by(connection: psycopg.Connection, clause: str) -> str | None:
    """What Postgres says of the rows; None where it fails on one of them."""
    try:
        found = connection.execute(f"SELECT ({clause}) FROM public.t ORDER BY id".encode()).fetchall()
    except psycopg.DataError:
        return None
    except psycopg.ProgrammingError as error:
        return str(error)
    return "".join({True: "t", False: "f", None: "n"}[row[0]] for row in found)
