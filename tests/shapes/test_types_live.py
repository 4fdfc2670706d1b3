"""Types that few tables have, by themselves and within domains, arrays and composites: as columns, keys and filters.

Whatever a column's type is, a shape has its values as Postgres' output function prints them, from snapshot and stream
alike, and a filter on it finds what Postgres finds or is refused when the shape is made.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest

from switchgear_shapes.postgres.session import DISPLAY_SETTINGS
from tests.shapes.server import Client
from tests.shapes.test_behind_subqueries import RowClient
from tests.shapes.world import World, running
from tests.support.postgres import Postgres

pytestmark = pytest.mark.pg

EXTENSIONS = "CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE EXTENSION ltree; CREATE EXTENSION isn"
SCHEMA = """
CREATE TYPE shade AS ENUM ('dark', 'a "b', 'ä,{}'); CREATE TYPE point3 AS (x int, y text, z citext);
CREATE TYPE span AS RANGE (subtype = text); CREATE TABLE other (id int PRIMARY KEY);
CREATE TABLE marks (id serial PRIMARY KEY)
"""
VALUES: dict[str, tuple[str, ...]] = {
    "citext": ("Ab", "aB", 'a/"b"', "", "ü"),
    "hstore": ('a=>1, "b c"=>NULL', "", '"q\\"uote"=>"/"'),
    "ltree": ("Top.a", "top.a", ""),
    "isbn": ("978-0-393-04002-9", "0-393-04002-X"),
    "inet": ("10.0.0.1", "10.0.0.1/32", "10.0.0.1/8", "::1", "2001:db8::/32"),
    "cidr": ("10.0.0.0/8", "10.0.0.1", "::/0"),
    "macaddr": ("08:00:2b:01:02:03", "08-00-2B-01-02-04"),
    "macaddr8": ("08:00:2b:01:02:03:04:05", "08002b:0102030406"),
    "money": ("0", "-1234567.89", "92233720368547758.07"),
    "xml": ("<a/>", '<?xml version="1.0" encoding="UTF-8"?><a b="/">ü &amp;</a>', "text", "<a> </a>"),
    "bit(3)": ("101", "000", "111"),
    "bit": ("1", "0"),
    "varbit": ("101", "", "1" * 70),
    "tsvector": ("'a':1A 'it''s':2,3B", "", "b a /"),
    "tsquery": ("'a' & !'b' | 'c d'", "", "a:*B <-> b"),
    "int4range": ("[1,5]", "empty", "(,)", "(3,]"),
    "numrange": ("[1.0,2.50)", "[1,2.5)", "(,0]"),
    "tstzrange": ("[-infinity,infinity]", "[0044-03-15 BC,2024-01-01 05:30+05:30)"),
    "daterange": ("[2024-01-01,2024-02-29]", "(,infinity]"),
    "int8multirange": ("{[1,2],[5,9]}", "{}", "{(,)}"),
    "datemultirange": ("{[2024-01-01,2024-01-02]}", "{}"),
    "span": ('["a,""b",c)', '["[x)",a/]', "(,)"),
    "point3": ('(1,"a ""b"" /",C)', "(,,)", "(2,,c)"),
    "shade": ("dark", 'a "b', "ä,{}"),
    "pg_lsn": ("0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"),
    "oid": ("0", "1", "4294967295"),
    "regclass": ("other", "pg_class", "0", "4294967295"),
    "regtype": ("int4", "shade", "citext[]"),
    "regproc": ("citextin", "int4in", "0"),
    "regprocedure": ("upper(text)", "citextin(cstring)"),
    "regoper": ("0", "4294967295"),
    "regrole": ("postgres", "0"),
    "regnamespace": ("public", "pg_catalog"),
    "regconfig": ("english", "simple"),
    '"char"': ("a", "", "/", '"'),
    "name": ("a", "a/b ", "A" * 63),
    "timestamptz": ("infinity", "-infinity", "0044-03-15 BC", "294276-12-31 23:59:59.999999", "2024-01-01 05:30+05:30"),
    "timestamp(0)": ("infinity", "-infinity", "4713-01-01 BC", "2024-01-01 00:00:00.6"),
    "date": ("infinity", "-infinity", "4713-01-01 BC", "5874897-12-31"),
    "timetz": ("10:00+00", "11:00+01", "24:00-15:59"),
    "interval": ("1 mon", "30 days", "-1 year 3 days -00:00:00.5", "0"),
    "interval day to second(2)": ("1 day 02:03:04.567", "1 mon"),
    "char(3)": ("a", "a  ", ""),
    '"bool"': ("t", "f"),
    "json": (' {"a" : "/\\u00e9"}', "null", "1.0"),
    "jsonb": ('{"a":1.00}', "null", '"/"'),
    "jsonpath": ("$.a[*] ? (@ > 1)", "strict $"),
    "bytea": ("\\x00ff", "", "a/b"),
    "point": ("(1,2)", "(-0,NaN)"),
    "box": ("(1,2),(3,4)", "(0,0),(0,0)"),
    "circle": ("<(1,2),3>", "<(0,0),0>"),
    "path": ("[(1,2),(3,4)]", "((0,0))"),
    "xid": ("0", "4294967295"),
    "xid8": ("0", "18446744073709551615"),
    "cid": ("0", "7"),
    "tid": ("(0,1)", "(4294967295,65535)"),
    "pg_snapshot": ("10:20:10,14", "1:1:"),
    "oidvector": ("1 2 3", ""),
    "int2vector": ("1 2 3", ""),
    "refcursor": ("a/b", ""),
    "float8": ("NaN", "-0", "1e23", "5e-324"),
    "numeric": ("NaN", "-0", "1.00", "1e30", "-Infinity"),
}

# Each of another sort; the others are tried by `make test-long`.
OFTEN = {"citext", "money", "varbit", "numrange", "point3", "shade", '"char"', "timestamptz"}
KINDS = [pytest.param(kind, marks=[] if kind in OFTEN else pytest.mark.long) for kind in VALUES]
COLUMNS = ("plain", "domain", "list", "domains", "domain_list", "pair", "pairs")
FORMS = (
    *("{c} IS NULL", "{c} IS NOT NULL", "{c} = {a}", "{c} <> {a}", "{c} < {a}", "{c} IN ({a}, {b})"),
    *("{c} IS DISTINCT FROM {a}", "{c} = {c}", "{c}::text = {a}", "{c}::text LIKE {a}", "NOT {c} = {a} AND id > 1"),
    *("{c} IN (SELECT {c} FROM {t} WHERE id < 2)", "lower({c}) = lower({a})", "concat({c}) = {a}", "{c} || 'x' = {a}"),
    *("{c} = ANY({a})", "{a} = ANY({c})", "{c} @> {a}", "{c} && {a}", "coalesce({c}, {a}) = {a}", "{c} LIKE {a}"),
    *("({c})[1] = {a}", "{c} BETWEEN {a} AND {b}", "{c} -> 'a' IS NULL", "({c}).a = {a}", "{c} = $1", "{c}::text = $1"),
)


# Of the derived types only these: an error there is one of typing, the same for all.
FEW = ("{c} IS NOT NULL", "{c} = {a}", "{c} < {a}", "{c} IN (SELECT {c} FROM {t} WHERE id < 2)", "{c}::text = {a}")
FEW += ("concat({c}) = {a}", "{a} = ANY({c})", "{c} @> {a}", "({c})[1] = {a}", "({c}).a = {a}")


@pytest.fixture(scope="module")
def world(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running(postgres, tmp_path_factory.mktemp("kinds"), ELECTRIC_LONG_POLL_TIMEOUT="2000") as world:
        for statement in (EXTENSIONS + ";" + SCHEMA).split(";"):
            world.database.execute(statement)
        Client(world.server, table="marks").sync()
        yield world


class Kind:
    """The tables of one type."""

    def __init__(self, world: World, kind: str) -> None:
        self.world = world
        self.name = f"k{uuid.uuid4().hex[:10]}"
        self.kind = kind
        self.values = VALUES[kind]
        if kind == "xml" and world.database.version == 18:
            pytest.skip("this Postgres was built without libxml")
        n = self.name
        world.database.execute(
            f"CREATE DOMAIN {n}_domain AS {kind}; CREATE DOMAIN {n}_list AS {kind}[];"
            f"CREATE TYPE {n}_pair AS (a {kind}, b {kind}[])"
        )
        self.types = (kind, f"{n}_domain", f"{kind}[]", f"{n}_domain[]", f"{n}_list", f"{n}_pair", f"{n}_pair[]")
        named = zip(COLUMNS, self.types, strict=True)
        self.columns = ", ".join(f"{column} {type_}" for column, type_ in named)

    def row(self, number: int) -> str:
        """The columns' values, of the value and its neighbour; NULLs behind the last one."""
        if number % (len(self.values) + 1) == len(self.values):
            return ", ".join(["NULL"] * len(COLUMNS))
        this, other = (quoted(self.values[at % len(self.values)]) for at in (number, number + 1))
        a, b = f"{this}::{self.kind}", f"{other}::{self.kind}"
        many = f"ARRAY[{a}, NULL, {b}]::{self.kind}[]"
        _, domain, _, domains, domain_list, pair, pairs = self.types
        return (
            f"{a}, {a}::{domain}, {many}, {many}::{domains}, {many}::{domain_list},"
            f" ROW({a}, {many})::{pair}, ARRAY[ROW({b}, NULL), NULL, ROW({a}, '{{}}')]::{pairs}"
        )

    def execute(self, *statements: str) -> None:
        with self.world.database.connect() as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def rows_of(self, table: str, others: tuple[str, ...]) -> list[dict[str, str | None]]:
        """The rows as Postgres prints them."""
        names = [*others, *COLUMNS]
        with self.world.database.connect() as connection:
            for name, value in DISPLAY_SETTINGS.items():
                connection.execute(f"SET {name} = {quoted(value)}".encode())
            texts = ", ".join(f"CASE WHEN num_nulls({name}) = 0 THEN concat({name}) END" for name in names)
            found = connection.execute(f"SELECT {texts} FROM public.{table}".encode()).fetchall()
        return [dict(zip(names, row, strict=True)) for row in found]

    def lsn(self) -> int:
        """What clients have to pass."""
        with self.world.database.connect() as connection:
            row = connection.execute(b"SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()
            connection.execute(b"INSERT INTO marks DEFAULT VALUES")  # a commit that is told, behind what we wait for
        assert row is not None
        return int(row[0])


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def canonical(rows: list[dict[str, str | None]]) -> list[list[tuple[str, str | None]]]:
    return sorted((sorted(row.items()) for row in rows), key=repr)


@pytest.mark.parametrize("kind", KINDS)
def test_as_columns(world: World, kind: str) -> None:
    tables = Kind(world, kind)
    name, count = tables.name, len(VALUES[kind])
    tables.execute(
        f"CREATE TABLE {name} (id int PRIMARY KEY, {tables.columns})",
        *(f"INSERT INTO {name} VALUES ({number}, {tables.row(number)})" for number in range(count + 1)),
    )
    clients = [Client(world.server, table=name), Client(world.server, table=name, replica="full")]
    columns = ",".join(("id", *COLUMNS))
    for client in clients:
        client.sync()
        assert canonical(list(client.rows.values())) == canonical(tables.rows_of(name, ("id",)))
    tables.execute(
        *(f"INSERT INTO {name} VALUES ({100 + number}, {tables.row(number)})" for number in range(count + 1)),
        *(
            f"UPDATE {name} SET ({', '.join(COLUMNS)}) = ({tables.row(number + step)}) WHERE id = {number}"
            for step in range(1, count + 2)
            for number in range(count + 1)
        ),
        f"UPDATE {name} SET plain = plain, id = -id WHERE id IN (0, 1, 100)",
        f"DELETE FROM {name} WHERE id > 100",
    )
    lsn = tables.lsn()
    fresh = Client(world.server, table=name, columns=columns, where="id < 1000")
    for client in (fresh, *clients):
        client.sync_past(lsn)
        assert client.restarts == 0
        assert canonical(list(client.rows.values())) == canonical(tables.rows_of(name, ("id",)))
        assert client.rows == fresh.rows


@pytest.mark.parametrize("kind", KINDS)
def test_as_keys(world: World, kind: str) -> None:
    tables = Kind(world, kind)
    name, count = tables.name, len(VALUES[kind])
    keys = f"PRIMARY KEY (n, {', '.join(COLUMNS)})"
    try:
        tables.execute(f"CREATE TABLE {name} (n int, {tables.columns}, {keys})")
    except psycopg.errors.UndefinedObject:
        keys = ""
        tables.execute(f"CREATE TABLE {name} (n int, {tables.columns}); ALTER TABLE {name} REPLICA IDENTITY FULL")
    tables.execute(*(f"INSERT INTO {name} VALUES ({number}, {tables.row(number)})" for number in range(count)))
    clients = [Client(world.server, table=name), Client(world.server, table=name, replica="full")]
    for client in clients:
        client.sync()
    tables.execute(
        *(f"INSERT INTO {name} VALUES ({100 + number}, {tables.row(number)})" for number in range(count + (not keys))),
        *(
            f"UPDATE {name} SET ({', '.join(COLUMNS)}) = ({tables.row(number + step)}) WHERE n = {number}"
            for step in range(1, count + 1)
            for number in range(count)
            if (number + step) % (count + 1) != count or not keys
        ),
        f"UPDATE {name} SET n = n + 1000 WHERE n = 0",
        f"DELETE FROM {name} WHERE n > 100 AND n < 1000",
    )
    lsn = tables.lsn()
    fresh = Client(world.server, table=name, where="n > -1")
    expected = tables.rows_of(name, ("n",))
    for client in (fresh, *clients):
        client.sync_past(lsn)
        assert client.restarts == 0
        assert canonical(list(client.rows.values())) == canonical(expected)
        assert set(client.rows) == {key(name, row) for row in expected}


def key(table: str, row: dict[str, str | None]) -> str:
    parts = ("/_" if value is None else '/"' + value.replace("/", "//") + '"' for value in row.values())
    return f'"public"."{table}"' + "".join(parts)


@pytest.mark.parametrize("kind", KINDS)
def test_as_filters(world: World, kind: str) -> None:
    tables = Kind(world, kind)
    name, count = tables.name, len(VALUES[kind])
    tables.execute(
        f"CREATE TABLE {name} (id int PRIMARY KEY, {tables.columns})",
        *(f"INSERT INTO {name} VALUES ({number}, {tables.row(number)})" for number in range(count + 1)),
    )
    texts = [row for row in tables.rows_of(name, ("id",)) if row["plain"] is not None]
    followed: dict[str, Client] = {}
    refused = 0
    for column in COLUMNS:
        first, second = str(texts[0][column]), str(texts[-1][column])
        for form in FORMS if column == "plain" else FEW:
            clause = form.format(c=column, t=name, a=quoted(first), b=quoted(second))
            params = {"params[1]": first} if "$1" in clause else {}
            client = RowClient(world.server, table=name, where=clause, **params)
            response = client.step()
            assert response.status_code in (200, 400), f"{clause}: {response.status_code} {response.text}"
            if response.status_code == 400:
                assert set(response.json()["errors"]) <= {"where", "params"}, clause
                refused += 1
                continue
            followed[form.replace("$1", "{a}").format(c=column, t=name, a=quoted(first), b=quoted(second))] = client
    assert refused
    tables.execute(
        *(f"INSERT INTO {name} VALUES ({100 + number}, {tables.row(number)})" for number in range(count + 1)),
        *(
            f"UPDATE {name} SET ({', '.join(COLUMNS)}) = ({tables.row(number + step)}) WHERE id = {number}"
            for step in range(1, count + 1)
            for number in range(count + 1)
        ),
        f"DELETE FROM {name} WHERE id > 101",
    )
    lsn, wrong = tables.lsn(), []
    with world.database.connect() as connection:
        connection.execute(b"SET IntervalStyle = iso_8601; SET DateStyle = 'ISO, DMY'; SET extra_float_digits = 1")
        for clause, client in followed.items():
            try:
                expected = {str(i) for (i,) in connection.execute(f"SELECT id FROM {name} WHERE {clause}".encode())}
            except psycopg.Error as error:
                wrong.append((clause, str(error)))
                continue
            client.sync_past(lsn)
            found = {row["id"] for row in client.rows.values()}
            if found != expected or client.restarts:
                wrong.append((clause, f"{found} instead of {expected}, {client.restarts} restarts"))
    assert not wrong, "\n".join(map(str, wrong))
