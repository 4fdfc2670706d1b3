"""Every type in every clause that an index can find: the index, the evaluator and Postgres say the same of all rows.

The rows are what pgoutput writes of values that are spelled in many ways. Wrong here is not a slow shape but a shape
that misses a row, or has one too many.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import psycopg
import pytest

from switchgear_shapes.postgres.session import DISPLAY_SETTINGS
from switchgear_shapes.relations import Relation
from switchgear_shapes.replication.pgoutput import Insert, Values, decode
from switchgear_shapes.routing.index import Index
from switchgear_shapes.routing.router import evaluated
from switchgear_shapes.where.evaluate import predicate
from switchgear_shapes.where.expression import Where
from switchgear_shapes.where.parse import WhereError, parse_where
from tests.shapes.where_support import VERDICT, displayed, read_relation, verdicts
from tests.support.postgres import Postgres

pytestmark = pytest.mark.pg

TEXTS = ("", "a", "ab", "abc", "a ", "ab  ", "A", "b%", "b_x", "b\\", "NULL", "1", "1.0", "t", "ok", "ü", "{a}")
UUIDS = ("00000000-0000-0000-0000-00000000000a", "{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}", "F" * 32)
STAMPS = ("2024-01-01", "2024-01-01 00:00:00.5", "2024-01-01 00:00:00.25", "1999-12-31 24:00", "9999-12-31 23:59:59.9")
ODD_STAMPS = ("infinity", "-infinity", "0044-03-15 BC", "12024-01-01", "10000-01-01", "0001-01-01")
FLOATS = ("0", "-0", "1", "1.5", "0.1", "-2.5", "1e15", "123456.7", "1e-5", "NaN", "Infinity", "-Infinity", "1.10")
DOUBLES = ("1e23", "9.007199254740993e15", "5e-324", "1.7976931348623157e308", "2e-44", "9007199254740993")
SINGLES = ("3.4028235e38", "1e-45", "16777216", "8388608.5", "0.10000000149", "9.5367432e-07", "3.3554432e+07")
NUMERICS = ("0", "-0", "0.00", "1", "1.0", "1.00", "10", "100", "100.0", "1e2", "-2.50", "NaN", "Infinity", "-Infinity")
TINY = ("0.000001", "1e30", "123456789012345678901234567890.123")
SPANS = ("0", "1 mon", "30 days", "29 days 24:00", "1 day", "24:00", "-1 day", "1 year", "12 mons", "00:00:00.5")

TYPES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("text", "varchar(9)", "char(6)", "name", "words", 'text COLLATE "C"'), TEXTS),
    "mood": ("sad", "ok", "NULL", "a b", "A"),
    **dict.fromkeys(('public."float8"', 'public."interval"', 'public."bool"'), ("day", "-0", "f")),
    **dict.fromkeys(('public."float8"[]', 'public."bool"[]'), ("{}", "{day,-0}", "{f,NULL}")),
    "int2": ("0", "-1", "1", "10", "32767", "-32768"),
    "int4": ("0", "-1", "1", "10", "2147483647", "-2147483648"),
    "int8": ("0", "-1", "1", "10", "2147483648", "9223372036854775807", "-9223372036854775808"),
    "count": ("0", "1", "10"),
    "numeric": NUMERICS + TINY,
    "numeric(6,2)": ("0", "1", "1.0", "-2.5", "100", "NaN", "1.005"),
    "float8": FLOATS + DOUBLES,
    "float4": FLOATS + SINGLES,
    "bool": ("t", "f", "yes", "off"),
    "uuid": UUIDS,
    "date": ("2024-01-01", "2024-02-29", *ODD_STAMPS),
    "timestamp": STAMPS + ODD_STAMPS,
    "timestamptz": (*STAMPS, *ODD_STAMPS, "2024-01-01 05:30+05:30", "2023-12-31 19:00:00.5-05", "1883-11-18 12:00+01"),
    "time": ("10:00", "10:00:00.5", "10:00:00.25", "24:00", "00:00", "09:59:60"),
    "timetz": ("10:00+00", "11:00+01", "10:00-05"),
    "interval": SPANS,
    "jsonb": ('"a"', "1", "1.0", '{"a": 1, "b": 2}', '{"b":2,"a":1.00}', "null", "[]", '"1"'),
    "json": ('"a"', " 1", "null"),
    "bytea": ("", "\\x00ff", "\\\\", "abc", "\\000\\377"),
    "oid": ("1", "4294967295"),
    "inet": ("1.1.1.1", "1.1.1.1/32", "::1"),
    "macaddr": ("08:00:2b:01:02:03",),
    '"char"': ("a", "", "\\377"),
    "text[]": (
        *("{}", "{a}", '{a,"a ",ab}', "{NULL,a}", '{"NULL"}', "{null}", '{""}', '{"a\\"b","\\\\","{x}",","}'),
        *("{{a,b},{c,NULL}}", "[0:1]={a,1}", "[-2147483648:-2147483647]={a,b}"),
    ),
    "varchar(9)[]": ("{}", "{a}", '{"a ",NULL}', "[2:2]={1}"),
    "char(3)[]": ("{}", "{a}", '{"a ",b}', "{ab,NULL}", '{""}'),
    "name[]": ("{}", "{a}", '{"a ",NULL}'),
    "words[]": ("{}", "{a}"),
    "mood[]": ("{}", "{sad}", "{ok,NULL}", '{"NULL"}', '{"a b",sad}', "{A}"),
    "int2[]": ("{}", "{1}", "{1,NULL}", "[-1:0]={1,0}"),
    "int4[]": ("{}", "{1}", "{1,NULL}", "[-1:0]={1,0}", "{{1,2},{0,-1}}", "{NULL}", "{ 1 , 10 }"),
    "int8[]": ("{}", "{1}", "{9223372036854775807,NULL}", "{+1,01}"),
    "numeric[]": ("{}", "{1.0}", "{1,NULL}", "{1.00,0.0}", "{NaN,-0}", "{Infinity}", "{1e2,100}"),
    "float8[]": ("{}", "{0}", "{-0,1}", "{NaN}", "{1e23,NULL}", "{1.10,Infinity}"),
    "float4[]": ("{}", "{0}", "{-0,1}", "{NaN}", "{0.1,NULL}", "{0.10000000149}", "{16777216}"),
    "bool[]": ("{}", "{t}", "{f,NULL}", "{yes,no}"),
    "uuid[]": ("{}", f'{{"{UUIDS[1]}"}}', f"{{{UUIDS[0]},NULL}}", f"{{{UUIDS[2]}}}"),
    "date[]": ("{}", "{2024-01-01}", "{infinity,NULL}", '{"0044-03-15 BC"}'),
    "timestamp[]": ("{}", "{2024-01-01}", '{"2024-01-01 00:00:00.50",NULL}', "{-infinity}"),
    "timestamptz[]": ("{}", "{2024-01-01 00:00+00}", '{"2024-01-01 05:30+05:30",NULL}', "{-infinity}"),
    "time[]": ("{}", "{10:00}", "{10:00:00.50,NULL}", "{24:00}"),
    "interval[]": ("{}", "{1 mon}", "{30 days,NULL}", "{24:00,1 day}"),
    "jsonb[]": ("{}", '{"1"}', '{"1.0",NULL}', '{"{\\"a\\": 1}"}'),
    "bytea[]": ("{}", '{"\\\\x00"}', "{a,NULL}"),
}  # fmt: skip
SCALARS = (
    *(f"{{c}} {operator} {{a}}" for operator in ("=", "<>", "<", "<=", ">", ">=")),
    *("{a} = {c}", "{a} <= {c}", "{c} BETWEEN {a} AND {b}", "NOT {c} BETWEEN {b} AND {a}", "{c} > {a} AND {c} < {b}"),
    *("{c} IN ({a}, {b})", "{c} NOT IN ({a}, {b})", "{c} IN ({a}, NULL)", "{c} = ANY(ARRAY[{a}, {b}])"),
    *("{c} IS NULL", "{c} IS NOT NULL", "{c} IS DISTINCT FROM {a}", "NOT ({c} = {a} OR {c} IS NULL)"),
    *("({c} = {a}) IS TRUE", "({c} < {a}) IS FALSE", "({c} = {a}) IS NOT TRUE", "NOT ({c} <> {a})", "NOT ({c} >= {a})"),
    *("{c}::text = {a}", "{c}::text IN ({a}, {b})", "{c}::text LIKE 'a%'", '({c}::text COLLATE "C") < {a}'),
    *("{c}::numeric = {a}", "{c}::float8 = {a}", "{c}::varchar = {a}", "{c}::numeric > {a}", "{c}::int8 = {a}"),
    # Of text that is no number: an error, unless what comes before it decides.
    *("{c} IS NOT NULL AND {c}::numeric = {a} OR id >= 0", "id >= 5 OR {c} IS NOT NULL AND {c}::float8 = {a}"),
    "NOT (({c} IS NULL OR {c}::numeric = {a}) AND id < 0)",
)
LIKES = tuple(
    f"{{c}} {operator} '{pattern}'"
    for operator in ("LIKE", "NOT LIKE", "ILIKE")
    for pattern in ("a%", "ab%", "a", "", "%", "a_%", "b\\%", "b\\_%", "b\\\\", "%b%", "ü%", "b%%")
)
ARRAYS = (
    *("{c} = {a}", "{c} <> {a}", "{c} @> {a}", "{c} <@ {a}", "{c} && {a}", "{a} @> {c}", "{a} <@ {c}", "{a} && {c}"),
    *("NOT {c} @> {a}", "NOT ({c} && {a})", "{c} @> {a} AND {c} && {b}", "{c} @> {a} OR {c} <@ {b}", "{c} IS NULL"),
    *("({c} @> {a}) IS TRUE", "{c} IS NOT NULL", "{c} IN ({a}, {b})"),
)
ELEMENTS = ("{a} = ANY({c})", "NOT {a} = ANY({c})", "{a} <> ALL({c})", "{c} @> ARRAY[{a}]", "{c} && ARRAY[{a}, {b}]")
COMBINATIONS = (
    *("{a} AND {b}", "{a} OR {b}", "({a} OR {b}) AND {c}", "NOT ({a} OR {b})", "NOT ({a} AND {b}) AND {c}"),
    *("{a} AND NOT {b} OR {c}", "({a} AND {b} OR {c}) IS TRUE", "{a} OR ({b} OR {c}) IS FALSE"),
)
COMBINED = 400
SCHEMA = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'NULL', 'a b', 'A'); CREATE DOMAIN words AS text; CREATE DOMAIN count AS int4;
CREATE TYPE public."float8" AS ENUM ('day', '-0', 'f'); CREATE TYPE public."interval" AS ENUM ('day', '-0', 'f');
CREATE TYPE public."bool" AS ENUM ('day', '-0', 'f')
"""


class Member:
    """A shape, as the index sees it."""

    def __init__(self, clause: str, where: Where) -> None:
        self.clause = clause
        self.where = where


@pytest.fixture
def connection(postgres: Postgres) -> Iterator[psycopg.Connection]:
    with displayed(postgres, SCHEMA) as made:
        yield made


def streamed(connection: psycopg.Connection) -> list[Values]:
    """The rows of the table as pgoutput writes them, NULLs only at the end."""
    columns = ", ".join(f"c{number} {kind}" for number, kind in enumerate(TYPES))
    connection.execute(f"CREATE TABLE t (id int PRIMARY KEY, {columns})".encode())
    connection.execute(b"CREATE PUBLICATION p FOR TABLE t")
    connection.execute(b"SELECT pg_create_logical_replication_slot('routing', 'pgoutput', true)")
    marks = ", ".join(f"%s::text::{kind.partition(' COLLATE')[0]}" for kind in TYPES)
    count = max(map(len, TYPES.values()))
    for row in range(count):
        values = [pool[row % len(pool)] for pool in TYPES.values()]
        connection.execute(f"INSERT INTO t VALUES ({row}, {marks})".encode(), values)
    connection.execute(f"INSERT INTO t VALUES ({count})".encode())
    found = connection.execute(
        b"SELECT data FROM pg_logical_slot_get_binary_changes('routing', NULL, NULL,"
        b" 'proto_version', '1', 'publication_names', 'p')"
    ).fetchall()
    messages = [decode(bytes(data)) for (data,) in found]
    return [message.new for message in messages if isinstance(message, Insert)]


def clauses(kind: str, name: str) -> Iterator[str]:
    """Each form with some constants of the type, and each constant in some forms."""
    pool, array = [f"'{text}'" for text in TYPES[kind]], kind.endswith("[]")
    forms = [(form, pool) for form in (ARRAYS if array else (*SCALARS, *LIKES))]
    if array:
        items = [f"'{text}'" for text in TYPES.get(kind[:-2], ("a", "b"))]
        forms += [(form, items) for form in ELEMENTS]
    for place, (form, constants) in enumerate(forms):
        for number, first in enumerate(constants):
            if (place + number) % (2 if array else 4) == 0:
                yield form.format(c=name, a=first, b=constants[number - 1])


def taken(relation: Relation) -> list[Member]:
    """Those clauses that are no refusal, alone and together."""
    members = []
    for clause in dict.fromkeys(clause for number, kind in enumerate(TYPES) for clause in clauses(kind, f"c{number}")):
        try:
            members.append(Member(clause, parse_where(clause, relation)))
        except WhereError:
            continue
    rng = random.Random(7)
    for _ in range(COMBINED):
        a, b, c = (f"({member.clause})" for member in rng.sample(members, 3))
        clause = rng.choice(COMBINATIONS).format(a=a, b=b, c=c)
        members.append(Member(clause, parse_where(clause, relation)))
    rng.shuffle(members)
    return members


def found_by_index(members: list[Member], relation: Relation, rows: list[Values]) -> dict[Member, str]:
    """For each member the rows that the index finds it for, as `t`; all other rows as `f`."""
    index: Index[Member] = Index([column.name for column in relation.columns], evaluated)
    for member in members:
        index.add(member)
    found = []
    for row in rows:
        wanting = index.match(row)
        assert len(wanting) == len(set(wanting)), "a member was found twice"
        found.append(set(wanting))
    for (old, olds), (new, news) in itertools.product(zip(rows[::9], found[::9], strict=True), repeat=2):
        both = index.match_both(old, new)
        assert (set(both[0]), set(both[1])) == (olds, news)
    assert index.undecided == []
    for member in members:
        index.remove(member)
    assert list(index) == []
    return {member: "".join("ft"[member in wanting] for wanting in found) for member in members}


def test_every_type_in_every_index(connection: psycopg.Connection) -> None:
    rows, relation = streamed(connection), read_relation(connection, "t")
    positions = {column.name: place for place, column in enumerate(relation.columns)}
    members = taken(relation)
    assert len(members) > 2000
    by_index = found_by_index(members, relation, rows)
    connection.execute(VERDICT.format(name="t").encode())
    connection.execute(f"SET search_path = {DISPLAY_SETTINGS['search_path']}".encode())
    theirs = verdicts(connection, [member.where.sql for member in members])
    wrong = []
    for member, said in zip(members, theirs, strict=True):
        test = predicate(member.where.expression, positions)
        ours = "".join("ft"[test(row) is True] for row in rows)
        # The last row is all NULLs: an error there is one of the statement.
        if not by_index[member] == ours == "".join("ft"[truth == "t"] for truth in said) or said[-1] == "e":
            wrong.append((member.clause, by_index[member], ours, said))
    assert wrong == []
