"""The server with limits of seconds in the place of half a minute, and with a fault of its own while a clause asks for
it by the text `FAULT`.
"""

from __future__ import annotations

import sys
from typing import Any

from switchgear_shapes import creation_state, resolving, subset_query
from switchgear_shapes.__main__ import main

FAULT = "'a fault of the server itself'"
SECONDS = 3
"""A busy machine may need one of them for what takes no time."""
_parse = resolving.parse_where


def parse_where(text: str, *arguments: Any, **named: Any) -> Any:
    if FAULT in text:
        raise RuntimeError("a secret detail")
    return _parse(text, *arguments, **named)


if __name__ == "__main__":
    creation_state.FIRST_ROW_SECONDS = float(SECONDS)
    subset_query.QUERY_SECONDS = SECONDS
    resolving.parse_where = parse_where
    sys.exit(main())
