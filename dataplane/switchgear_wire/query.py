"""Query strings: decoded for servers, kept byte for byte for the edge. Pure."""

from __future__ import annotations

from urllib.parse import unquote_plus


def parse_query(query: bytes) -> list[tuple[str, str]]:
    """Decode form-style (`+`, `%xx`); without `=` the value is "". Bytes that are no UTF-8 become U+FFFD."""
    if not query:
        return []
    pairs = []
    for part in query.split(b"&"):
        if part:
            key, _, value = part.partition(b"=")
            pairs.append((_decode(key), _decode(value)))
    return pairs


def _decode(raw: bytes) -> str:
    if b"%" not in raw and b"+" not in raw:
        return raw.decode("utf-8", "replace")
    return unquote_plus(raw.decode("utf-8", "replace"), errors="replace")


def raw_pairs(query: bytes) -> list[tuple[str, bytes]]:
    """(decoded name, the pair's bytes as received), in order: a gateway drops some and keeps the rest as is."""
    return [(_decode(part.partition(b"=")[0]), part) for part in query.split(b"&") if part]
