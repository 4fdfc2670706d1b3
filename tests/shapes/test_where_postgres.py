"""Our evaluator against Postgres': the same expressions on the same rows, and the canonical SQL on Postgres itself."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from switchgear_shapes.postgres.session import DISPLAY_SETTINGS
from switchgear_shapes.where import moments, times
from switchgear_shapes.where import types as t
from switchgear_shapes.where.parse import WhereError, parse_where
from tests.shapes.where_expressions import bare_document_casts, conditions, quoted
from tests.shapes.where_support import VALUES, Table, agrees
from tests.support.postgres import Postgres, create_database, drop_database

pytestmark = pytest.mark.pg


@pytest.fixture(scope="module")
def table(postgres: Postgres) -> Iterator[Table]:
    database = create_database(postgres)
    made = Table.create(database)
    yield made
    made.connection.close()
    drop_database(database)


def check(table: Table, texts: list[str]) -> int:
    """How many of the expressions we take; on those we and Postgres agree."""
    taken = []
    for text in texts:
        try:
            taken.append((text, parse_where(text, table.relation)))
        except WhereError:
            continue
    written = table.verdicts([text for text, _ in taken])
    canonical = table.verdicts([where.sql for _, where in taken], DISPLAY_SETTINGS["search_path"])
    wrong = [
        (text, where.sql, again)
        for text, where in taken
        if (again := parse_where(where.sql, table.relation).sql) != where.sql
    ]
    for (text, where), as_written, as_rendered in zip(taken, written, canonical, strict=True):
        ours = table.ours(where)
        # Postgres may evaluate the sides of AND and OR in any order, and fail at one whose value does not matter. What
        # it is ever asked is the rendered text, so where only the written one fails that one counts.
        written_or_rendered = "".join(r if w == "e" else w for w, r in zip(as_written, as_rendered, strict=True))
        if not agrees(ours, as_rendered) or not agrees(ours, written_or_rendered):
            wrong.append((text, where.sql, ours, as_rendered, as_written))
    # The shortest is shown: shrinking a batch would ask Postgres for hours.
    assert not wrong, "\n".join(min(wrong, key=lambda found: len(found[0])))
    return len(taken)


BATCHES = settings(
    deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.reuse, Phase.generate]
)


BATCHES_FOR_LONG = int(os.environ.get("SHAPES_SOAK_BATCHES", "1500"))


@settings(BATCHES, max_examples=24)
@given(texts=st.lists(conditions(), min_size=20, max_size=40))
def test_agrees_with_postgres(table: Table, texts: list[str]) -> None:
    check(table, texts)


FOUND = [
    # Found by the property test; each was once answered differently from Postgres, or not at all.
    "date2 IN ('12024-01-01 00:00:00'::timestamp, '2024-02-29 00:00:00'::timestamp)",
    "'2000-01-01'::date <> timestamp1",
    "int21 | int22 > 'NaN'::numeric",
    "int41 = 100000000000000000000",
    "float41 = 1.1",
    "float41 IN (1.1, 2.2)",
    "numeric1 = 1.10 OR numeric1 = 1.1",
    "'a' = ANY (texts1) OR NOT 'a' = ANY (texts2)",
    "NULL = ANY ('{}'::int4[])",
    # What jsonb has of its own: a scalar is an array of one, numbers keep their scale, paths count like strtol.
    "jsonb1 -> 0 = '5' OR jsonb1 ->> -1 = 'a'",
    "jsonb1 @> '5' AND NOT jsonb1 @> '[5]'",
    "jsonb1 ->> 'a' = '1.00' AND jsonb1 -> 'a' = '1'",
    "jsonb1 #>> '{a, +1}' = '2' OR jsonb1 #>> '{a,1x}' IS NOT NULL",
    "jsonb1 #>> '{}' = 'a' OR jsonb1 #>> ARRAY[NULL] IS NULL",
    "(jsonb1 ->> 'n')::numeric > 4 OR (jsonb1 ->> 'n')::numeric <= 4",
    # Where a pattern from a column is bad, there is an error only if matching gets to its end with text left.
    "NOT text1 LIKE text2 || '\\' OR NOT text1 LIKE '%_' || text2",
    # An infinite difference is an error before 17.
    "timestamp1 - timestamp2 > '1 day' OR justify_interval(timestamptz1 - timestamptz2) < '0'",
    # The later of two equal keys counts in ->, and the last that gets to the end of a path in #>.
    "json2 ->> 'a' = '{\"b\" : 2}'",
    "json2 #>> '{a,b}' = '1' AND json2 -> 'a' ->> 'c' = '[1,2]'",
    "json1 ->> 'n' IS NULL",
]


def test_agrees_on_what_was_found(table: Table) -> None:
    assert check(table, FOUND) == len(FOUND)


def test_arrays_as_text(table: Table) -> None:
    names = [column.name for column in table.relation.columns if column.type_name.startswith("_")]
    assert len(names) > 5
    texts = []
    for name in names:
        for made in (name, f"({name} || {name})", f"{name}[1:2]"):
            query = f"SELECT DISTINCT ({made})::text FROM public.items"
            found = [row[0] for row in table.connection.execute(query.encode()) if row[0] is not None]
            texts += [
                f"({made})::{kind} = {quoted(found_text)}" for kind in ("text", "varchar") for found_text in found
            ]
            texts.append(f"({made})::text LIKE '{{%,%' OR ({made})::text = ''")
    assert check(table, texts) > len(names) * 5


SPANS = [*VALUES["interval"], "17 mons", "-1 mon 1 day -1 second", "1 mon 15 days 12:00:00.000005", "P999Y9999DT99H"]
SPANS += [
    "1 mon -1 hour",
    "-1 mon 40 days",
    "29 days 25:00",
    "-29 days -25:00",
    "1 mon -31 days 1 hour",
    "2 mons -1 sec",
]


def test_intervals_are_justified_alike(table: Table) -> None:
    """Compared as text: what equals an interval need not look like it."""
    for name in ("justify_interval", "justify_days", "justify_hours"):
        query = f"SELECT {name}(x::interval)::text FROM unnest(%s::text[]) WITH ORDINALITY u(x, n) ORDER BY n"
        theirs = [row[0] for row in table.connection.execute(query.encode(), [SPANS])]
        justify = getattr(moments, name)
        assert [moments.print_interval(justify(moments.read_interval(span))) for span in SPANS] == theirs


def test_multiples_of_intervals(table: Table) -> None:
    """Those of constants are computed here, once, with all their roundings."""
    factors = [1.5, -2.5, 0.1, 1 / 3, 7.0, 12.34567, 1e-7, -0.0, 1e6, 2.0**31, 1e300]
    cases = [(span, factor, sign) for span in SPANS for factor in factors for sign in "*/"]
    for span, factor, sign in cases:
        try:
            row = table.connection.execute(
                f"SELECT (%s::text::interval {sign} %s::float8)::text".encode(), [span, factor]
            ).fetchone()
            assert row is not None
            theirs = row[0]
        except psycopg.DataError:
            theirs = None
        scale = times.function(sign, (t.INTERVAL, t.FLOAT8), "")
        try:
            ours = moments.print_interval(scale(moments.read_interval(span), factor))
        except (ValueError, ArithmeticError):
            ours = None
        assert ours == theirs, (span, sign, factor)


@settings(BATCHES, max_examples=5)
@given(texts=st.lists(bare_document_casts(), min_size=20, max_size=40))
def test_numbers_of_documents(table: Table, texts: list[str]) -> None:
    """Of JSON null, an error of Postgres 15 and NULL of 18, here always NULL: 15 is asked what is rendered."""
    check(table, texts)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(BATCHES, max_examples=BATCHES_FOR_LONG)
@given(texts=st.lists(conditions(), min_size=20, max_size=40))
def test_agrees_with_postgres_for_long(table: Table, texts: list[str]) -> None:
    check(table, texts)
