"""Every quirk of Electric has a decision on the page about the sync protocol: matched, or improved, and why.

The list is ours: each oddity that is known of Electric 1.7.12, in a few words, and the page's words about it.
"""

from __future__ import annotations

import pytest

from tests.docs import pages

QUIRKS = {
    # Where what Electric does is a fault, or dangerous.
    "preflights compare the whole list of headers": "a preflight that asks for several headers is refused",
    "keys of a POST body go over the query": "keys of a POST body override the query's parameters",
    "401 comes before CORS": "401 without CORS headers",
    "chunks of a snapshot depend on the instance": "chunk boundaries within a snapshot may differ between instances",
    "the shape's filter has no parentheses": "`main AND (subset)` without parentheses around the shape's own filter",
    "arrays by declared dimensions": "arrays are told by declared dimensions",
    "keys of odd names differ": 'keys escape `.`, `/` and `"` differently in snapshot and stream',
    "booleans differ, and keys with them": "booleans are `true`/`false` in snapshots and `t`/`f` in the stream",
    "text is compared by bytes": "text `<` by bytes in the stream, by collation in the snapshot",
    "numeric as float8": "numeric as float8",
    "LIKE escapes little, and dots stop at newlines": "`LIKE`: `.` stops at newlines, escapes only",
    "Infinity and NaN are not read": "`Infinity`, `NaN`, years before Christ are not read",
    "enums by their text never match in the stream": "enum columns only through `::text`, and then never in the stream",
    "`name` is taken for an array": "`name` looks like an array",
    "LIMIT in a subquery is ignored": "`LIMIT` in a subquery is ignored",
    "events end without an up-to-date": "an event stream that finds data ends behind the first chunk of it",
    "secrets by plain equality": "compares secrets with plain equality",
    "two shapes for one meaning": "`a = 1` and `a = $1` are two shapes",
    "one byte too much is acknowledged": "acknowledges one byte more than it has",
    "subqueries are dropped by a restart": "Electric drops them",
    # Where Electric's documentation and its code disagree.
    "204 for a live request without changes": "is 200 with `up-to-date` (not 204)",
    "404 for DELETE without permission": "DELETE without permission 405 (not 404)",
    "429": "429 is never sent",
    "LSNs as X/Y": "`database_lsn` are decimal numbers (not `X/Y`)",
    "`dimensions`": "`dims` (not `dimensions`)",
    "events end with must-refetch": "an event stream ends without a `must-refetch` event",
    "row filters in the publication": "The publication never has row filters or column lists",
}


@pytest.mark.parametrize("quirk", QUIRKS)
def test_has_a_decision(quirk: str) -> None:
    page = " ".join(pages.text("sync-compatibility.md").split())
    assert QUIRKS[quirk] in page
