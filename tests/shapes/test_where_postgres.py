"""Our evaluator against Postgres': the same expressions on the same rows, and the canonical SQL on Postgres itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from switchgear_shapes.where.parse import WhereError, parse_where
from tests.shapes.where_support import Table, agrees, conditions
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
    canonical = table.verdicts([where.sql for _, where in taken])
    wrong = []
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


@settings(BATCHES, max_examples=40)
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
]


def test_agrees_on_what_was_found(table: Table) -> None:
    assert check(table, FOUND) == len(FOUND)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(BATCHES, max_examples=1500)
@given(texts=st.lists(conditions(), min_size=20, max_size=40))
def test_agrees_with_postgres_for_long(table: Table, texts: list[str]) -> None:
    check(table, texts)
