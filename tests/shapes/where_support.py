"""A table with columns of every type and rows full of edge cases, its expressions, and what Postgres says of them.

`Table.verdicts` asks Postgres for the value of many expressions on all rows in one round trip: for each expression a
text with one letter a row, t, f, n (NULL) or e (an error).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import psycopg
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from switchgear_shapes import relations
from switchgear_shapes.postgres.session import DISPLAY_SETTINGS
from switchgear_shapes.relations import Relation
from switchgear_shapes.where.evaluate import predicate
from switchgear_shapes.where.expression import Where
from tests.support.postgres import Database

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
    "int4[]": ["{}", "{1}", "{1,2,3}", "{1,NULL}", "{NULL}", "{{1,2},{3,4}}", "[0:1]={1,2}", "{5,5,-1}"],
    "text[]": ["{}", "{a}", "{a,b}", "{NULL,a}", '{"NULL","",  "a b"}', '{"q\\"x","b\\\\",äÖ}', "{{a},{b}}"],
    "numeric[]": ["{}", "{1.0}", "{1,2.50}", "{NaN,NULL}"],
    "mood[]": ["{}", "{sad}", "{ok,happy}", "{NULL}"],
}
COLUMN_TYPES = {"bpchar": "char(4)", "varchar": "varchar(40)"}
ROWS = 48


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
        connection.execute(_VERDICT.format(name=name).encode())
        return cls(connection, read_relation(connection, name), read_rows(connection, name))

    @property
    def positions(self) -> dict[str, int]:
        return {column.name: index for index, column in enumerate(self.relation.columns)}

    def verdicts(self, conditions: list[str]) -> list[str]:
        found = self.connection.execute(
            "SELECT verdict(c) FROM unnest(%s::text[]) WITH ORDINALITY u(c, n) ORDER BY n", [conditions]
        ).fetchall()
        return [row[0] for row in found]

    def ours(self, where: Where) -> str:
        test = predicate(where.expression, self.positions)
        return "".join({True: "t", False: "f", None: "n"}[test(list(row))] for row in self.rows)


def column_name(kind: str) -> str:
    return kind.replace("[]", "s")


def _is_text(kind: str) -> bool:
    return kind in ("text", "varchar", "bpchar")


_VERDICT = """
CREATE FUNCTION verdict(condition text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  found text; one text; r int4;
  tested text := '(' || condition || E'\\n)';
  shown text := 'CASE WHEN ' || tested || ' THEN ''t'' WHEN NOT ' || tested || ' THEN ''f'' ELSE ''n'' END';
BEGIN
  BEGIN
    EXECUTE 'SELECT string_agg(' || shown || ', '''' ORDER BY id) FROM {name}' INTO found;
    RETURN found;
  EXCEPTION WHEN OTHERS THEN found := '';
  END;
  FOR r IN SELECT id FROM {name} ORDER BY id LOOP
    BEGIN
      EXECUTE 'SELECT ' || shown || ' FROM {name} WHERE id = ' || r INTO one;
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


# -- expressions --

COMPARISONS = ["=", "<>", "<", "<=", ">", ">="]
KINDS = [kind for kind in VALUES if kind not in ("mood", "jsonb") and not kind.endswith("]")]
ARRAYS = [kind for kind in VALUES if kind.endswith("]")]
_BYTEWISE = ("text", "varchar")


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def literals(kind: str) -> SearchStrategy[str]:
    known = st.sampled_from(VALUES[kind]).map(quoted)
    match kind:
        case "int2" | "int4" | "int8":
            return known | st.integers(-10, 40_000).map(str) | st.just("NULL")
        case "numeric" | "float4" | "float8":
            return (
                known | st.sampled_from(["1", "1.1", "0.5", "-3", "1e3", "1.10"]) | known.map(lambda x: f"{x}::{kind}")
            )
        case "bool":
            return known | st.sampled_from(["true", "false", "NULL"])
        case "text" | "varchar" | "bpchar" | "name":
            return known | st.text("abAB%_ äÄ\\'", max_size=4).map(quoted)
        case _:
            return known | known.map(lambda x: f"{x}::{kind}")


def columns(kind: str) -> SearchStrategy[str]:
    return st.sampled_from([f"{column_name(kind)}1", f"{column_name(kind)}2"])


def operands(kind: str) -> SearchStrategy[str]:
    return columns(kind) | literals(kind)


@st.composite
def comparisons(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from([*KINDS, "mood"]))
    other = kind
    if kind in ("int2", "int4", "int8", "numeric", "float4", "float8") and draw(st.booleans()):
        other = draw(st.sampled_from(["int2", "int4", "int8", "numeric", "float4", "float8"]))
    elif kind in ("date", "timestamp") and draw(st.booleans()):
        other = draw(st.sampled_from(["date", "timestamp"]))
    operators = COMPARISONS if kind != "mood" else ["=", "<>"]
    left = draw(columns(kind))
    if draw(st.integers(0, 3)) == 0 and kind in _BYTEWISE:
        left += ' COLLATE "C"'
    match draw(st.integers(0, 7)):
        case 0:
            items = draw(st.lists(literals(other), min_size=1, max_size=4))
            return f"{left} {draw(st.sampled_from(['IN', 'NOT IN']))} ({', '.join(items)})"
        case 1 if kind != "mood":
            word = draw(st.sampled_from(["BETWEEN", "NOT BETWEEN", "BETWEEN SYMMETRIC"]))
            return f"{left} {word} {draw(operands(other))} AND {draw(operands(other))}"
        case 2:
            word = draw(st.sampled_from(["IS DISTINCT FROM", "IS NOT DISTINCT FROM"]))
            return f"{left} {word} {draw(operands(other))}"
        case 3:
            return f"{draw(literals(other))} {draw(st.sampled_from(operators))} {left}"
        case _:
            return f"{left} {draw(st.sampled_from(operators))} {draw(operands(other))}"


@st.composite
def tests(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from([*KINDS, "mood", "jsonb", *ARRAYS]))
    match draw(st.integers(0, 2)):
        case 0:
            return f"{draw(columns(kind))} IS {draw(st.sampled_from(['', 'NOT ']))}NULL"
        case 1:
            word = draw(st.sampled_from(["TRUE", "FALSE", "UNKNOWN", "NOT TRUE", "NOT FALSE", "NOT UNKNOWN"]))
            return f"{draw(columns('bool'))} IS {word}"
        case _:
            return draw(columns("bool"))


_PATTERNS = st.text("aAbB%_ äÄ\\ßΣ", max_size=5).filter(lambda text: (len(text) - len(text.rstrip("\\"))) % 2 == 0)


@st.composite
def likes(draw: st.DrawFn) -> str:
    left = draw(columns(draw(st.sampled_from(["text", "varchar", "bpchar"]))))
    word = draw(st.sampled_from(["LIKE", "ILIKE", "NOT LIKE", "NOT ILIKE"]))
    return f"{left} {word} {quoted(draw(_PATTERNS))}"


@st.composite
def array_tests(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(ARRAYS))
    item = kind.removesuffix("[]")
    column = draw(columns(kind))
    whole = columns(kind) | st.sampled_from(VALUES[kind]).map(quoted)
    built = st.lists(operands(item), min_size=1, max_size=3).map(lambda items: f"ARRAY[{', '.join(items)}]::{kind}")
    match draw(st.integers(0, 5)):
        case 0:
            word = draw(st.sampled_from(["= ANY", "<> ALL", "<> ANY", "= ALL"]))
            return f"{draw(operands(item))} {word} ({column})"
        case 1:
            word = draw(st.sampled_from(["= ANY", "<> ALL", "<> ANY", "= ALL"]))
            return f"{draw(columns(item))} {word} ({draw(st.sampled_from(VALUES[kind]).map(quoted))}::{kind})"
        case 2 if item == "int4":
            return f"{column}[{draw(st.integers(-1, 3) | columns('int4'))}] {draw(st.sampled_from(COMPARISONS))} 1"
        case 3 if kind != "mood[]":
            joined = draw(st.sampled_from([f"{column} || {column}", f"{column} || {item}1", f"{item}1 || {column}"]))
            return f"({joined}) = {draw(whole)}"
        case 4:
            return f"{column} {draw(st.sampled_from(['@>', '<@', '&&']))} {draw(built)}"
        case _:
            return f"{column} {draw(st.sampled_from(['=', '<>', '@>', '<@', '&&']))} {draw(whole)}"


_KEYS = st.sampled_from(["a", "b", "n", "status", "", "ab", "bb", "c", "0", 'ä\n"', 'a ,"'])
_INDEXES = st.integers(-3, 6)
_PATHS = st.sampled_from(
    ["{}", "{a}", "{b,c}", "{b,0,b}", "{b,c,1,d}", "{a,-1}", "{a,2,1}", "{-1}", "{NULL}", "{0}", "{a, +1}", "{a,1x}"]
)
_PARTS = [*DOCUMENTS, '{"b": 1}', "[1]", '["a"]', "1", "1.00", "[[1]]", "[{}]", '{"b": {}}', '{"a": 1.0}', "[[]]"]
_PARTS += ['{"b": [{"b": 1}]}', '{"a": {"a": {}}}', "1e3", "-0", '{"a": 2, "a" : 1}', '[ "b","a" ]', '"\\u0061"']


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Something of type jsonb."""
    made = draw(columns("jsonb"))
    for _ in range(draw(st.integers(0, 2))):
        match draw(st.integers(0, 4)):
            case 0 | 1:
                made = f"({made} -> {quoted(draw(_KEYS))})"
            case 2:
                made = f"({made} -> {draw(_INDEXES)})"
            case 3:
                made = f"({made} #> {quoted(draw(_PATHS))})"
            case _:
                made = f"({made} -> {draw(columns(draw(st.sampled_from(['text', 'varchar', 'int2', 'int4']))))})"
    return made


@st.composite
def json_texts(draw: st.DrawFn) -> str:
    document = draw(documents())
    match draw(st.integers(0, 4)):
        case 0 | 1:
            return f"({document} ->> {quoted(draw(_KEYS))})"
        case 2:
            return f"({document} ->> {draw(_INDEXES | columns('text') | columns('int4'))})"
        case 3:
            return f"({document} #>> {quoted(draw(_PATHS)) if draw(st.booleans()) else draw(columns('text[]'))})"
        case _:
            return f"({document})::text"


@st.composite
def json_tests(draw: st.DrawFn) -> str:
    document = draw(documents())
    part = documents() | st.sampled_from(_PARTS).map(quoted) | st.sampled_from(_PARTS).map(lambda x: f"'{x}'::jsonb")
    texts = st.sampled_from(["a", "b", "5", "", "x", "1.0", "[]", "{}", '{"b": 1}', "true", "😀"]).map(quoted)
    match draw(st.integers(0, 9)):
        case 0 | 1:
            return f"{document} {draw(st.sampled_from(['@>', '<@']))} {draw(part)}"
        case 2:
            word = draw(st.sampled_from(["=", "<>", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"]))
            return f"{document} {word} {draw(part)}"
        case 3:
            items = draw(st.lists(st.sampled_from(_PARTS).map(quoted), min_size=1, max_size=3))
            return f"{document} {draw(st.sampled_from(['IN', 'NOT IN']))} ({', '.join(items)})"
        case 4:
            return f"{document} ? {draw(_KEYS.map(quoted) | columns('text'))}"
        case 5:
            names = draw(st.lists(_KEYS.map(quoted) | st.just("NULL"), max_size=3))
            array = draw(st.sampled_from([f"ARRAY[{', '.join(names)}]::text[]", "texts1", "'{a,b}'", "'{}'"]))
            return f"{document} {draw(st.sampled_from(['?|', '?&']))} {array}"
        case 6:
            kind = draw(st.sampled_from(["int4", "int8", "numeric", "float8", "bool"]))
            compare = draw(st.sampled_from(COMPARISONS))
            return f"{draw(json_texts())}::{kind} {compare} {draw(literals(kind))}"
        case 7:
            items = draw(st.lists(texts, min_size=1, max_size=3))
            return f"{draw(json_texts())} {draw(st.sampled_from(['IN', 'NOT IN']))} ({', '.join(items)})"
        case 8:
            text = draw(json_texts())
            word = draw(st.sampled_from(["LIKE '%a%'", "ILIKE '%S%'", "IS NULL", "IS NOT NULL", "= text1"]))
            return f"{text} {word}"
        case _:
            compare = draw(st.sampled_from(COMPARISONS))
            return f'{draw(json_texts())} COLLATE "C" {compare} {draw(texts | columns("text"))}'


_TIMES = ["date", "time", "timestamp", "timestamptz", "interval"]


@st.composite
def computations(draw: st.DrawFn) -> str:
    """Arithmetic and functions, compared with something."""
    numbers = st.sampled_from(["int2", "int4", "int8", "numeric", "float4", "float8"])
    compare = draw(st.sampled_from(COMPARISONS))
    match draw(st.integers(0, 8)):
        case 0 | 1:
            left, right = draw(numbers), draw(numbers)
            name = draw(st.sampled_from(["+", "-", "*", "/", "%", "&", "|", "#"]))
            return f"{draw(columns(left))} {name} {draw(operands(right))} {compare} {draw(operands(draw(numbers)))}"
        case 2:
            kind = draw(numbers)
            sign = draw(st.sampled_from(["-", "+", "@", "~", "|/"]))
            return f"{sign} {draw(columns(kind))} {compare} {draw(operands(kind))}"
        case 3 | 4:
            left, right, result = (draw(st.sampled_from([*_TIMES, "int4"])) for _ in range(3))
            sign = draw(st.sampled_from("+-"))
            return f"{draw(columns(left))} {sign} {draw(columns(right))} {compare} {draw(operands(result))}"
        case 5:
            kind = draw(st.sampled_from(["text", "varchar", "bpchar"]))
            call = draw(
                st.sampled_from(["lower({0})", "upper({0})", "{0} || {1}", "{0} || 'a'", "concat({0}, 'x', {2})"])
            )
            made = call.format(draw(columns(kind)), draw(columns("text")), draw(columns(draw(st.sampled_from(KINDS)))))
            return f"({made}) {compare} {draw(operands('text'))}"
        case 6:
            kind = draw(st.sampled_from(KINDS))
            name = draw(st.sampled_from(["coalesce", "greatest", "least"]))
            return f"{name}({kind}1, {kind}2, {draw(literals(kind))}) {compare} {draw(operands(kind))}"
        case 7:
            kind, other = draw(st.sampled_from(KINDS)), draw(st.sampled_from(KINDS))
            return f"{draw(columns(kind))}::{other} {compare} {draw(literals(other))}"
        case _:
            call = draw(st.sampled_from(["justify_days", "justify_hours", "-"]))
            return f"{call}({draw(columns('interval'))}) {compare} {draw(operands('interval'))}"


def conditions(leaves: SearchStrategy[str] | None = None) -> SearchStrategy[str]:
    leaf = (
        leaves
        if leaves is not None
        else comparisons() | tests() | likes() | array_tests() | computations() | json_tests()
    )
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.lists(inner, min_size=2, max_size=3).map(lambda parts: "(" + " AND ".join(parts) + ")"),
            st.lists(inner, min_size=2, max_size=3).map(lambda parts: "(" + " OR ".join(parts) + ")"),
            inner.map(lambda part: f"NOT ({part})"),
            inner.map(lambda part: f"({part}) IS NOT TRUE"),
        ),
        max_leaves=5,
    )
