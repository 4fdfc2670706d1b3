"""JSON is read alike by Python's reader, by ours for deep documents, and by Postgres."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchgear_shapes.where import json_input, values
from tests.support.postgres import Database

TOKENS = [
    *'[]{},:"',
    " ",
    "\n",
    "\t",
    "\x0b",
    "1",
    "-",
    "0",
    "01",
    ".5",
    "1.50",
    "1e3",
    "-0",
    "-0.0",
    "true",
    "null",
    "NaN",
]
TOKENS += [
    '"a"',
    '"b"',
    '"\\u0061"',
    '"\\ud800"',
    '"\\u0000"',
    '"\\x"',
    '"\x01"',
    '"\\ud83d\\ude00"',
    '"\\/"',
    "é",
    '{"a":',
    "x",
]
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=4),
    max_leaves=12,
)
texts = st.one_of(
    st.lists(st.sampled_from(TOKENS), max_size=9).map("".join),
    documents.map(json.dumps),
    documents.map(lambda value: json.dumps(value, indent=1, ensure_ascii=False)),
)


def number(text: str) -> str:
    return values.print_numeric(values.read_numeric(text))


def read(text: str, *, slowly: bool) -> bytes | None:
    reader = json_input._Reader(number, json_input.MAX_DEPTH)
    try:
        return reader.read(text) if slowly else reader.quickly(text)
    except (ValueError, ArithmeticError):
        return None


@given(texts)
def test_both_readers_agree(text: str) -> None:
    assert read(text, slowly=True) == read(text, slowly=False)


@pytest.mark.pg
def test_and_postgres_does(database: Database) -> None:
    found: list[str] = []

    @given(texts)
    def collect(text: str) -> None:
        if "\0" not in text and not any("\ud800" <= char < "\ue000" for char in text):
            found.append(text)

    collect()
    with database.connect() as connection:
        connection.execute(
            "CREATE FUNCTION printed(document text) RETURNS text LANGUAGE plpgsql AS"
            " $$ BEGIN RETURN document::jsonb::text; EXCEPTION WHEN OTHERS THEN RETURN NULL; END $$"
        )
        rows = connection.execute(
            "SELECT printed(x) FROM unnest(%s::text[]) WITH ORDINALITY u(x, n) ORDER BY n", [found]
        ).fetchall()
    for text, (theirs,) in zip(found, rows, strict=True):
        ours = read(text, slowly=False)
        assert (None if ours is None else ours.decode()) == theirs, text


def test_documents_deeper_than_python_goes() -> None:
    text = '{"b": [' * 20_000 + "1.0" + "]}" * 20_000
    assert values.read_document(text) == text.encode()
