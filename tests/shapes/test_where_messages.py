"""What clauses are refused with which text, and which share a canonical form. No database."""

from __future__ import annotations

import pytest

from switchgear_shapes.relations import Collation, Column, Relation
from switchgear_shapes.where.evaluate import predicate
from switchgear_shapes.where.expression import from_json, to_json
from switchgear_shapes.where.parse import WhereError, parse_where, tables_of
from switchgear_shapes.where.subset import parse_order_by, parse_subset_where

ENGLISH = Collation("default", "c", "en_US.UTF-8", "en_US.UTF-8", True, "UTF8")
TURKISH = Collation("tr", "c", "tr_TR.UTF-8", "tr_TR.UTF-8", True, "UTF8")
LOOSE = Collation("loose", "i", "und-u-ks-level2", "und-u-ks-level2", False, "UTF8")


def column(name: str, kind: str, collation: Collation | None = None, **more: object) -> Column:
    values: dict[str, object] = {"base_type": kind, "collation": collation, "type_kind": "b", "element_type": None}
    values |= {"generated": "", "type_name": kind, "base_array": False, "enum_labels": None} | more
    return Column(
        name=name,
        number=1,
        type_oid=0,
        type_modifier=-1,
        dimensions=0,
        not_null=False,
        pk_position=None,
        **values,  # type: ignore[arg-type]
    )


COLUMNS = (
    column("id", "int4"),
    column("small", "int2"),
    column("big", "int8"),
    column("title", "text", ENGLISH),
    column("code", "varchar", ENGLISH),
    column("turkish", "text", TURKISH),
    column("loose", "text", LOOSE),
    column("price", "numeric"),
    column("ratio", "float8"),
    column("done", "bool"),
    column("key", "uuid"),
    column("at", "timestamp"),
    column("doc", "json"),
    column("data", "jsonb"),
    column("mood", "mood", base_type=None, type_kind="e", enum_labels=("sad", "ok")),
    column("made", "int4", generated="s"),
    column("pair", "pair", base_type=None, type_kind="c"),
    column("tags", "_text", ENGLISH, base_type="text", base_array=True, element_type="text"),
    column("codes", "_varchar", ENGLISH, base_type="varchar", base_array=True, element_type="varchar"),
    column("numbers", "_int4", base_type="int4", base_array=True, element_type="int4"),
)
ITEMS = Relation(20_000, "public", "items", "r", "f", COLUMNS, ("id",))
USERS = Relation(20_001, "public", "users", "r", "f", (column("uid", "int4"), column("name", "text", ENGLISH)))
TABLES = {("public", "items"): ITEMS, ("public", "users"): USERS}


def parse(text: str, params: dict[int, str] | None = None, **options: bool) -> str:
    where = parse_where(text, ITEMS, params, TABLES, **options)
    assert from_json(to_json(where)) == where
    return where.sql


def message(text: str, params: dict[int, str] | None = None) -> str:
    with pytest.raises(WhereError) as caught:
        parse(text, params)
    return caught.value.message


NO_TABLE = "does not exist. If the table name contains capitals or special characters you must quote it."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 x 1", 'At location 17: syntax error at or near "x"'),
        ("", "At location 15: syntax error at end of input"),
        ("id = 1 ORDER BY id", "malformed query ending with SQL clauses"),
        ("id = 1 GROUP BY id", "malformed query ending with SQL clauses"),
        ("true UNION SELECT 1", "malformed query ending with SQL clauses"),
        ("id = 1 FOR UPDATE", "malformed query ending with SQL clauses"),
        ("id = 1 LIMIT 1", "malformed query ending with SQL clauses"),
        ("id = 1; SELECT 2", 'unescaped ";" causing statement split'),
        ("id = 1;", 'unescaped ";" causing statement split'),
        ("id", "WHERE clause must return a boolean"),
        ("1", "WHERE clause must return a boolean"),
        ("nothing = 1", "At location 0: unknown reference nothing"),
        ("other.id = 1", "At location 0: unknown reference other.id"),
        ("id = 'abc'", "At location 5: invalid syntax for type int4: abc"),
        ("id = '99999999999'", "At location 5: invalid syntax for type int4: 99999999999"),
        ("at = 'now'", "At location 5: invalid syntax for type timestamp: now"),
        ("id = $1", "At location 5: parameter $1 was not provided"),
        ("id = B'01'", "At location 5: BitString values are not supported"),
        ("title = 1", "At location 6: Could not select an operator overload"),
        ("id @@@ 1", "At location 3: unknown binary operator @@@"),
        ("CASE WHEN done THEN done END", "At location 0: CaseExpr is not supported in this context"),
        ("id = CURRENT_USER", "At location 5: SQLValueFunction is not supported in this context"),
        ("title SIMILAR TO 'x'", "At location 6: expression ~ of :AEXPR_SIMILAR is not currently supported"),
        ("id::money = '1'", "At location 4: unsupported type money"),
        ("key::int4 = 1", "At location 0: unknown cast from type uuid to type int4"),
        ("title LIKE 'a\\'", "At location 6: LIKE pattern must not end with escape character"),
        ("title < 'x'", 'At location 6: text is not compared with < under the collation en_US.UTF-8; use COLLATE "C"'),
        ("mood = 'nope'", 'At location 7: invalid input value for enum mood: "nope"'),
        ("doc = '{}'", "At location 0: json has no comparisons; compare what ->> gives, or cast it to jsonb"),
        ("data < '1'", "jsonb is not compared with <; compare what ->> gives, cast if need be"),
        ("data->'a' = 1", "jsonb is not compared with int4; take text with ->> and cast it, or write '…'::jsonb"),
        ("mood < 'ok'", "enum mood is only compared with = and <>; list the labels with IN"),
        ("doc->'a' = 'x'", "json has no comparisons; compare what ->> gives, or cast it to jsonb"),
        ("doc #>> '{a,-1}' = 'x'", "a path into json cannot count from the end"),
        ("doc #>> tags = 'x'", "a path into json must be a constant"),
        ("data['a':'b'] = '1'", "jsonb subscript does not support slices"),
        ("data[done] = '1'", "a subscript of jsonb must be text or an integer"),
        ("jsonb_typeof(title) = 'x'", "unknown cast from type text to type jsonb"),
        ("title::varchar(0) = 'x'", "unsupported type varchar with the modifier (0)"),
        ("price::numeric(5,6) = 1", "unsupported type numeric with the modifier (5,6)"),
        ("title::varchar(2)[] = '{x}'", "unsupported type varchar[] with the modifier (2)"),
        ("at::timestamp(7) = at", "unsupported type timestamp with the modifier (7)"),
        ("id ^ 2 = 4", "powers are computed of constants only, and not of numeric ones; write the number"),
        ("price = 1.5 ^ 2", "powers are computed of constants only, and not of numeric ones; write the number"),
        ("(at - at) / 2 > '1 day'", "an interval that is no constant is only multiplied, and by integers"),
        ("(at - at) * ratio > '1 day'", "an interval that is no constant is only multiplied, and by integers"),
        ("at AT TIME ZONE 'Europe/Berlin' = at", "the rules of named zones depend on the database's time zone files"),
        ("at AT TIME ZONE INTERVAL '1 day' = at", "AT TIME ZONE takes 'UTC', an offset such as '-05:30'"),
        ("greatest(title, 'x') = 'y'", "text is not compared with greatest under the collation en_US.UTF-8"),
        ("id IS TRUE", "At location 0: argument of IS TRUE must be bool, not int4"),
        ("title IS NOT UNKNOWN", "At location 0: argument of IS NOT UNKNOWN must be bool, not text"),
        ("id AND done", "At location 0: argument of AND must be bool, not int4"),
        ("concat(VARIADIC tags) = ''", "explicit VARIADIC function calls are not currently supported"),
        ("jsonb_build_array(title) = data", "unknown or unsupported function jsonb_build_array/1"),
        ("tags = codes", "At location 7: unknown cast from type varchar[] to type text[]"),
        ("numbers @> ARRAY['x']", "At location 17: invalid syntax for type int4: x"),
        ("title LIKE 'x' ESCAPE code", "the escape of LIKE must be a constant"),
        ("data->big = '1'", "Could not select an operator overload"),
        ("data - 'a' = '{}'", "operator - of jsonb is not supported"),
        ("data = '{a}'", "invalid syntax for type jsonb: {a}"),
        ("data = 'NaN'", "invalid syntax for type jsonb: NaN"),
        ("pair IS NULL", "At location 5: IS NULL of the composite column pair is not supported"),
        ("id IN (SELECT uid FROM nope)", f'At location 23: Table "public"."nope" {NO_TABLE}'),
        ("id IN (SELECT name FROM users)", "left side of `IN (SELECT ...)` has type int4 but subquery returns text"),
        ("id IN (SELECT uid FROM users LIMIT 1)", "SELECT statement must not contain any clauses"),
        ("id IN (SELECT DISTINCT uid FROM users)", "SELECT statement must not contain any clauses"),
        ("id IN (SELECT uid AS x FROM users)", "Expected a plain column reference"),
        ("id IN (SELECT users.uid FROM users)", "Expected a plain column reference"),
        ("id IN (SELECT uid + 1 FROM users)", "Expected a plain column reference"),
        ("id IN (SELECT * FROM users)", "Expected a plain column reference"),
        ("id IN (SELECT uid FROM users, items)", "Expected a single table reference"),
        ("id IN (SELECT uid FROM users u)", "Expected a single table reference"),
        ("id IN (SELECT uid FROM (SELECT 1) q)", "Expected a single table reference"),
        ("EXISTS (SELECT 1)", "only `value IN (SELECT ...)` sublinks are supported right now"),
        ("id > ANY (SELECT uid FROM users)", "only `value IN (SELECT ...)` sublinks are supported right now"),
        ("1 IN (SELECT uid FROM users)", "currently, left side of `IN (SELECT ...)` can only be a column reference"),
    ],
)
def test_refused_with(text: str, expected: str) -> None:
    assert expected in message(text)


def test_limits() -> None:
    assert "bigger than maximum size" in message("id = 1 OR " * 7000 + "id = 2")
    assert "operators" in message("+".join(["id"] * 20_000))
    assert "nested too deeply" in message("NOT " * 1000 + "done")
    assert "nested too deeply" in message("||".join(["title"] * 400) + " = 'x'")
    assert "NUL" in message("title = 'a\0b'")
    assert "UTF-8" in message("title = '\ud800'")
    assert "invalid syntax for type jsonb" in message(f"data = '{'[' * 101}{']' * 101}'")
    assert "invalid syntax for type jsonb" in message(f"data = '{'[' * 20_000}{']' * 20_000}'")
    assert "invalid syntax for type jsonb" in message(f"data = '[{', '.join(['1e100000'] * 1000)}]'")
    assert "memory exhausted" in message("(" * 30_000)


@pytest.mark.parametrize(
    "texts",
    [
        ["id = 1", "1 = id", "ID=1", "id = '1'", "id = 1.0", "(id) = (1)", "NOT id <> 1", "id IN (1,1)"],
        [
            "id = 1",
            "id = 1 AND true",
            "id = 1 OR false",
            "id = 1::int8",
            "id = 1 -- and nothing",
            "public.items.id = 1",
        ],
        ["id IN (1, 2, 3)", "id IN (3,2,1)", "id = 1 OR id = 2 OR id = 3", "id = 3 OR id IN (1, 2)"],
        ["id = 1 AND big = 2", "big = 2 AND id = 1", "id = 1 AND (big = 2 AND id = 1)"],
        ["id <> 1", "NOT id = 1", "id != 1", "id NOT IN (1)"],
        ["0 <> 0", "NOT 0 = 0", "false"],
        ['data = \'{"a": 1, "b": 2}\'', 'data = \'{"b":3,"b":2,"a":1}\'::jsonb', '\'{"a":1e0,"b":2}\' = data'],
        ["id BETWEEN 1 AND 2", "id >= 1 AND id <= 2", "NOT (id < 1) AND 2 >= id"],
        ["done", "done = true", "NOT done = false", "done <> false", "true = done"],
        ["NOT done", "done = false", "NOT (done = true)", "done <> true", "NOT NOT done <> true"],
        ["title IS NOT NULL", "NOT title IS NULL", "title IS DISTINCT FROM NULL"],
        ["price = 1.5", "price = 1.50", "price = '1.500'"],
        ["at = '2024-01-01'", "at = '2024-01-01T00:00:00'", "at = TIMESTAMP '2024-01-01 00:00'"],
        ["title LIKE 'a%'", "title ~~ 'a%'"],
        ["id = 1", "id = 1 AND NULL IS NULL"],
    ],
    ids=str,
)
def test_variants_share_one_text(texts: list[str]) -> None:
    assert {parse(text) for text in texts} == {parse(texts[0])}


def test_parameters_are_literals() -> None:
    assert parse("id = $1 AND title = $2", {1: "7", 2: "it's"}) == parse("title = 'it''s' AND id = 7")
    assert "type conflict for $1" in message("id = $1 AND title = $1", {1: "7"})
    assert "invalid syntax for type int4: x" in message("id = $1", {1: "x"})


def test_arrays_of_literals_are_of_the_type_beside_them() -> None:
    """What Postgres makes text[] of, and so refuses, clients write with parameters; text is not varchar to it."""
    numbers = "\"numbers\" @> '{1,2}'::int4[]"
    assert parse("numbers @> ARRAY[$1,$2]", {1: "1", 2: "2"}) == parse("ARRAY['1','2'] <@ numbers") == numbers
    assert parse("numbers @> ARRAY[$1] AND id = $1", {1: "1"}) == parse("numbers @> '{1}' AND id = 1")
    assert parse("tags @> ARRAY[code]") == '"tags" @> (ARRAY["code"]::text[])'
    assert parse("ARRAY[title] <@ codes") == parse("codes @> ARRAY[title]") == '"codes" @> (ARRAY["title"]::varchar[])'
    assert parse("ARRAY['a'] <@ codes") == "\"codes\" @> '{a}'::varchar[]"


def test_names_and_constants_cannot_leave_their_quotes() -> None:
    assert parse("title = 'a''); DROP TABLE x; --'") == "\"title\" = 'a''); DROP TABLE x; --'::text"
    assert parse("title = 'back\\slash'") == "\"title\" = E'back\\\\slash'::text"


def test_letters_case_follows_the_collation() -> None:
    assert parse("title ILIKE 'A%'") == "\"title\" ILIKE 'A%'::text"
    assert parse("title COLLATE \"C\" ILIKE 'A%'") == '("title" COLLATE "C") ILIKE \'A%\'::text'
    assert "case under this collation is not known" in message("turkish ILIKE 'i%'")
    assert "not deterministic" in message("loose = 'x'")
    assert parse("loose COLLATE \"C\" = 'x'") == '("loose" COLLATE "C") = \'x\'::text'
    assert "different collations" in message("title = turkish AND turkish = loose")


def test_what_cannot_be_evaluated_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when the first row comes."""

    def fails(*_: object) -> None:
        raise KeyError("float4")

    monkeypatch.setattr("switchgear_shapes.where.parse.predicate", fails)
    with pytest.raises(WhereError, match="cannot be evaluated"):
        parse_where("id = 1", ITEMS)


def test_generated_columns_need_the_publication() -> None:
    assert "generated and not replicated" in message("made = 1")
    assert parse("made = 1", stored_generated=True) == "\"made\" = '1'::int4"


def test_subqueries() -> None:
    text = "id IN (SELECT uid FROM users WHERE name = $1) AND (id, title) IN (SELECT uid, name FROM public.users)"
    assert tables_of(text) == {("public", "users")}
    where = parse_where(text, ITEMS, {1: "x"}, TABLES)
    assert [query.table for query in where.subqueries] == ["users", "users"]
    assert where.columns == {"id", "title"}
    assert '"id" IN (SELECT "uid" FROM ONLY "public"."users" WHERE "name" = \'x\'::text)' in where.sql
    same = parse_where(
        "id IN (SELECT uid FROM users) OR small = 1 AND id IN (SELECT uid FROM users)", ITEMS, {}, TABLES
    )
    assert len(same.subqueries) == 1
    nested = "id IN (SELECT uid FROM users WHERE uid NOT IN (SELECT id FROM s.t))"
    assert tables_of(nested) == {("public", "users"), ("s", "t")}


def test_subset_conditions_are_postgres_own() -> None:
    assert parse_subset_where("title > 'x' OR mood < 'ok'", ITEMS, {}).sql == "\"mood\" < 'ok' OR \"title\" > 'x'::text"
    assert parse_subset_where("turkish ILIKE $1", ITEMS, {1: "i%"}).sql == "\"turkish\" ILIKE 'i%'::text"
    assert parse_subset_where("NOT title COLLATE \"C\" < 'x'", ITEMS, {}).sql == '("title" COLLATE "C") >= \'x\'::text'
    with pytest.raises(WhereError, match="Subqueries are not allowed in subsets"):
        parse_subset_where("id IN (SELECT uid FROM users)", ITEMS, {})
    with pytest.raises(WhereError, match="unknown reference title"):
        parse_subset_where("title = 'x'", ITEMS, {}, queryable=["id"])


def test_order_by() -> None:
    text = "id, title DESC NULLS LAST, big ASC NULLS FIRST, 1, 'x'"
    assert parse_order_by(text, ITEMS) == '"id", "title" DESC NULLS LAST, "big" ASC NULLS FIRST'
    assert parse_order_by("1", ITEMS) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lower(title)", "At location 0: FuncCall expressions are not allowed in ORDER BY clauses"),
        ("id, -big", "At location 4: A_Expr expressions are not allowed in ORDER BY clauses"),
        ("(SELECT 1)", "At location 0: SubLink expressions are not allowed in ORDER BY clauses"),
        ("id::text", "At location 2: TypeCast expressions are not allowed in ORDER BY clauses"),
        ('title COLLATE "C"', "At location 6: CollateClause expressions are not allowed in ORDER BY clauses"),
        ("$1", "At location 0: parameter $1 is not supported in ORDER BY clauses"),
        ("id, $2 DESC", "At location 4: parameter $2 is not supported in ORDER BY clauses"),
        ("id USING <", "ORDER BY can only have ASC, DESC and NULLS FIRST or LAST"),
        ("nothing", "At location 0: unknown reference nothing"),
        ("*", "syntax error"),
        ("id LIMIT 1", "malformed query ending with SQL clauses"),
        ("id; DROP TABLE x", "Unexpected `;` in order by"),
        ("id)", "syntax error"),
    ],
)
def test_order_by_refused_with(text: str, expected: str) -> None:
    with pytest.raises(WhereError) as caught:
        parse_order_by(text, ITEMS)
    assert expected in caught.value.message
    assert caught.value.field == "order_by"


@pytest.mark.parametrize("shape", ['{"a": %s}', "[%s]"])
def test_documents_of_any_depth(shape: str) -> None:
    """Postgres takes documents of some thousand levels; the evaluator stops no earlier."""
    inner = "1.0"
    for _ in range(3_000):
        inner = shape % inner
    row: list[bytes | None] = [f'{{"b": {inner}, "c": "x"}}'.encode()]
    for condition in ("data ->> 'c' = 'x'", """data @> '{"c": "x"}'""", "data -> 'b' = data -> 'b'", "data ? 'b'"):
        where = parse_where(condition, ITEMS)
        assert predicate(where.expression, {"data": 0})(row) is True
