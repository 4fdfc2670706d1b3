"""Query strings: decoded for servers, kept byte for byte for the edge. Pure."""

from __future__ import annotations

from urllib.parse import unquote_plus


def parse_query(query: bytes, errors: str = "replace") -> list[tuple[str, str]]:
    """Decode form-style (`+`, `%xx`); without `=` the value is "".

    `errors` says what becomes of bytes that are no UTF-8, as in `bytes.decode`: each is U+FFFD if it says nothing.
    """
    if not query:
        return []
    pairs = []
    for part in query.split(b"&"):
        if part:
            key, _, value = part.partition(b"=")
            pairs.append((_decode(key, errors), _decode(value, errors)))
    return pairs


def _decode(raw: bytes, errors: str = "replace") -> str:
    if b"%" not in raw and b"+" not in raw:
        return raw.decode("utf-8", errors)
    return unquote_plus(raw.decode("utf-8", errors), errors=errors)


def raw_pairs(query: bytes) -> list[tuple[str, bytes]]:
    """(decoded name, the pair's bytes as received), in order: a gateway drops some and keeps the rest as is."""
    return [(_decode(part.partition(b"=")[0]), part) for part in query.split(b"&") if part]
