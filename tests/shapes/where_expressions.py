"""Strategies for where clauses over the table of `where_support`: every type, operator and function that is taken."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.shapes.where_support import DOCUMENTS, VALUES, column_name

COMPARISONS = ["=", "<>", "<", "<=", ">", ">="]
KINDS = [kind for kind in VALUES if kind not in ("mood", "jsonb", "json") and not kind.endswith("]")]
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
    kind = draw(st.sampled_from([*KINDS, "mood", "jsonb", "json", *ARRAYS]))
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
    made = draw(columns("jsonb") | columns("jsonb") | (columns("json") | columns("text")).map(lambda x: f"{x}::jsonb"))
    for _ in range(draw(st.integers(0, 2))):
        match draw(st.integers(0, 6)):
            case 0 | 1:
                made = f"({made} -> {quoted(draw(_KEYS))})"
            case 2:
                made = f"({made} -> {draw(_INDEXES)})"
            case 4:
                made = f"({made})[{draw(_KEYS.map(quoted) | _INDEXES.map(str) | columns('text') | columns('int4'))}]"
            case 5:
                made = f"jsonb_extract_path({made}, {quoted(draw(_KEYS))}, {draw(_KEYS.map(quoted) | columns('text'))})"
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


@st.composite
def raw_json_tests(draw: st.DrawFn) -> str:
    """json, whose text stays as it was written."""
    made = draw(columns("json"))
    common = st.sampled_from(["'a'", "'b'", "'n'", "'status'"])
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        key = draw(common | _KEYS.map(quoted) | _INDEXES.map(str) | columns("text") | columns("int4"))
        made = f"({made} -> {key})"
    match draw(st.integers(0, 6)):
        case 0 | 1:
            made = f"{made} ->> {draw(common | common | _KEYS.map(quoted) | _INDEXES.map(str))}"
        case 2 | 3:
            made = f"{made} {draw(st.sampled_from(['#>>', '#>']))} {quoted(draw(_PATHS))}"
        case 4:
            made = f"json_extract_path_text({made}, {quoted(draw(_KEYS))})"
        case 5:
            return f"json_typeof({made}) IN ('object', 'array', 'null')"
        case _:
            return f"json_array_length({made}) >= {draw(_INDEXES)}"
    texts = st.sampled_from(
        ["a", "b", "5", "1", "2", "1.00", "", "[ ]", "[1, 1.0]", "1.0e1", '{ "b" : 2}', '{"b" : 2}', '{"c":[1,2]}']
    )
    listed = ", ".join(draw(st.lists(texts.map(quoted), min_size=2, max_size=8)))
    return f"({made}){draw(st.sampled_from(['', '::text']))} {draw(st.sampled_from(['IS NULL', f'IN ({listed})']))}"


@st.composite
def document_functions(draw: st.DrawFn, null: str = "NULLIF({}, 'null')") -> str:
    """What is made of a jsonb; of `null` a version of Postgres makes an error, unless it is taken out before."""
    shallow = st.sampled_from(["jsonb1", "jsonb2", "json1::jsonb", "json2::jsonb", "text1::jsonb"])
    member = st.tuples(shallow, st.sampled_from(["a", "n", "b"])).map(lambda x: f"({x[0]} -> '{x[1]}')")
    document = draw(documents() | shallow | member | member)
    match draw(st.integers(0, 4)):
        case 0:
            kinds = draw(
                st.lists(st.sampled_from(["object", "array", "string", "number", "boolean", "null"]), min_size=1)
            )
            return f"jsonb_typeof({document}) IN ({', '.join(map(quoted, kinds))})"
        case 1:
            return f"jsonb_array_length({document}) {draw(st.sampled_from(COMPARISONS))} {draw(_INDEXES)}"
        case 2:
            return f"jsonb_extract_path_text({document}, {quoted(draw(_KEYS))}) = {draw(operands('text'))}"
        case _:
            kinds = ["int2", "int4", "int8", "numeric", "float4", "float8", "bool", "bool", "numeric(4,1)"]
            kind = draw(st.sampled_from(kinds))
            plain = kind.partition("(")[0]
            compare = draw(st.sampled_from(COMPARISONS))
            common = "true" if plain == "bool" else draw(st.sampled_from(["0", "1", "2"]))
            tested = draw(st.sampled_from(["IS NULL", f"{compare} {draw(operands(plain))}", f"{compare} {common}"]))
            return f"{null.format(document)}::{kind} {tested}"


def bare_document_casts() -> SearchStrategy[str]:
    return document_functions("({})")


_SIZED = ["varchar(1)", "varchar(3)", "char(2)", "char(7)", "char", "numeric(3)", "numeric(4,1)", "numeric(20,10)"]
_SIZED += ["time(0)", "time(2)", "timestamp(0)", "timestamp(3)", "timestamptz(0)", "bpchar", "name"]
_ZONES = ["'UTC'", "'+02'", "'-05:30'", "'+1:02:03'", "INTERVAL '02:30'", "INTERVAL '-1:00:00.7'", "'+00'"]


@st.composite
def sized_casts(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(_SIZED))
    plain = {"char": "bpchar", "varchar": "text"}.get(kind.partition("(")[0], kind.partition("(")[0])
    source = draw(st.sampled_from([plain, "text", "bpchar", "int4", "numeric", "timestamp"]))
    if kind.startswith(("char", "bpchar")) and draw(st.booleans()):  # where the blanks at the end can be seen
        return (
            f"{draw(columns(source))}::{kind} LIKE {quoted(draw(st.sampled_from(['_', '%_ ', '_______', 'a %', '%'])))}"
        )
    compare = draw(st.sampled_from(COMPARISONS))
    return f"{draw(columns(source))}::{kind} {compare} {draw(operands(plain))}"


@st.composite
def spans(draw: st.DrawFn) -> str:
    """Differences of timestamps, multiples of intervals, zones."""
    compare = draw(st.sampled_from(COMPARISONS))
    kind = draw(st.sampled_from(["timestamp", "timestamptz"]))
    interval = draw(operands("interval"))
    match draw(st.integers(0, 5)):
        case 0 | 1:
            difference = f"{draw(columns(kind))} - {draw(operands(kind))}"
            call = draw(st.sampled_from(["{}", "justify_interval({})", "justify_days({})"]))
            if draw(st.booleans()):  # what equals it need not look like it
                months = draw(st.sampled_from(["P%M%", "P%D%", "P%D", "%-%", "PT%"]))
                return f"({call.format(difference)})::text LIKE '{months}'"
            return f"({call.format(difference)}) {compare} {interval}"
        case 2:
            factor = draw(st.sampled_from(["2", "0", "-3", "7::float8", "int41", "int22", "1000000"]))
            product = draw(st.sampled_from([f"interval1 * {factor}", f"{factor} * interval2"]))
            return f"{product} {compare} {interval}"
        case 3:
            constant = draw(st.sampled_from(VALUES["interval"]))
            factor = draw(st.sampled_from(["* 1.5", "/ 7", "* 0.1", "/ 3.3", "* 12", "/ 0", "* -2.5"]))
            return f"{draw(columns(kind))} - {draw(columns(kind))} {compare} interval '{constant}' {factor}"
        case 4:
            return f"justify_interval({draw(columns('interval'))}) {compare} {interval}"
        case _:
            other = "timestamptz" if kind == "timestamp" else "timestamp"
            zoned = f"{draw(columns(kind))} AT TIME ZONE {draw(st.sampled_from(_ZONES))}"
            return f"({zoned}) {compare} {draw(operands(other))}"


@st.composite
def column_patterns(draw: st.DrawFn) -> str:
    text = draw(columns("text") | columns("varchar") | _PATTERNS.map(quoted))
    word = draw(st.sampled_from(["LIKE", "NOT LIKE", "ILIKE", "NOT ILIKE"]))
    pattern = draw(
        columns("text") | st.sampled_from(["text1 || '%'", "'%' || text2", "'%_' || text1", "text2 || '\\'"])
    )
    escape = draw(st.sampled_from(["", "", " ESCAPE '!'", " ESCAPE 'b'", " ESCAPE ''"]))
    return f"{text} {word} ({pattern}){escape}"


@st.composite
def slices(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(ARRAYS))
    end = st.sampled_from(["", "1", "2", "0", "-1", "3"]) | columns("int4")
    ranges = draw(st.lists(st.tuples(end, end).map(":".join) | st.sampled_from(["1", "2"]), min_size=1, max_size=2))
    made = f"({draw(columns(kind))})" + "".join(f"[{part}]" for part in ranges)
    return f"{made} {draw(st.sampled_from(['=', '<>', '@>', '<@']))} {draw(columns(kind) | literals(kind))}"


@st.composite
def chosen_values(draw: st.DrawFn) -> str:
    """NULLIF, and the greatest or least of texts; powers of constants."""
    compare = draw(st.sampled_from(COMPARISONS))
    match draw(st.integers(0, 3)):
        case 0 | 1:
            kind = draw(st.sampled_from(["text", "varchar", "bpchar"]))
            collation = draw(st.sampled_from(["", ' COLLATE "C"']))
            name = draw(st.sampled_from(["greatest", "least"]))
            call = f"{name}({kind}1{collation}, {draw(operands(kind))}, {kind}2)"
            call = draw(st.sampled_from([call, f"lower({call})", f"{call} || 'A'"]))
            return f"{call} {compare} {draw(operands('text'))}"
        case 2:
            kind = draw(st.sampled_from([*KINDS, "jsonb"]))
            tested = draw(st.sampled_from(["IS NULL", f"= {kind}1"]))
            return f"NULLIF({draw(columns(kind))}, {draw(operands(kind))}) {tested}"
        case _:
            number = draw(st.sampled_from(["int2", "int4", "int8", "numeric", "float8"]))
            power = draw(st.sampled_from(["2 ^ 3", "2 ^ 0.5::float8", "10 ^ 400", "(-1) ^ 3", "0 ^ 0", "2 ^ -1"]))
            return f"{draw(columns(number))} {compare} {power}"


def newer() -> SearchStrategy[str]:
    """What was added after the first: drawn as often as one of the others would be too seldom."""
    return st.one_of(
        raw_json_tests(),
        document_functions(),
        sized_casts(),
        spans(),
        column_patterns(),
        slices(),
        chosen_values(),
    )


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
        else st.one_of(
            comparisons(), tests(), likes(), array_tests(), computations(), json_tests(), newer(), newer(), newer()
        )
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
