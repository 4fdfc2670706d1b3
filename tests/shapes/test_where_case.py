"""Letters' case by our rules and by Postgres' collations, for every character that both know."""

from __future__ import annotations

import unicodedata

import pytest

from switchgear_shapes.where import collations
from tests.support.postgres import Database

pytestmark = pytest.mark.pg

RULES = [
    ("C", collations.ASCII),
    ("C.utf8", collations.SIMPLE),
    ("pg_c_utf8", collations.SIMPLE),
    ("und-x-icu", collations.FULL),
    ("en-x-icu", collations.FULL),
    ("pg_unicode_fast", collations.FULL),
]
WORDS = ["ΑΣ", "ΣΑΣ ΑΣΑ", "ΑΣ.", "Straße", "İstanbul I", "ŉ", "ᾳ ᾼ", "ǅ", "K Å", "ﬁ"]


def _newer(text: str) -> bool:
    """Whether Postgres knows a letter that this Python's Unicode has not: ƛ and ɤ got their capitals in 16.0."""
    return any(unicodedata.category(char) == "Cn" for char in text)


@pytest.mark.parametrize(("collation", "rule"), RULES, ids=[name for name, _ in RULES])
def test_case_is_mapped_alike(database: Database, collation: str, rule: str) -> None:
    with database.connect() as connection:
        if connection.execute("SELECT 1 FROM pg_collation WHERE collname = %s", [collation]).fetchone() is None:
            pytest.skip(f"this Postgres has no collation {collation}")
        characters = [
            chr(i) for i in range(1, 0x1F000) if not 0xD800 <= i < 0xE000 and unicodedata.category(chr(i)) != "Cn"
        ]
        texts = characters + WORDS
        query = f'SELECT lower(x COLLATE "{collation}"), upper(x COLLATE "{collation}") FROM unnest(%s::text[]) x'
        found = connection.execute(query.encode(), [texts]).fetchall()
    different = []
    for text, (lower, upper) in zip(texts, found, strict=True):
        ours = tuple(change(text.encode(), rule).decode() for change in (collations.lower, collations.upper))
        if ours != (lower, upper) and not _newer(lower + upper):
            different.append((text, hex(ord(text[0])), ours, (lower, upper)))
    assert not different, (len(different), different[:20])
