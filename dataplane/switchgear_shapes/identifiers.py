"""SQL identifiers and literals: read from request parameters, and quoted for statements and keys. Pure."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

MAX_LENGTH = 63
_UNQUOTED = re.compile(r"[^\W\d][\w$]*")
"""Marks (accents, vowel signs), which may stand anywhere but at the beginning, are looked at apart: `\\w` has none."""
_UPPER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


class BadIdentifier(ValueError):
    """The text is no identifier; the message is the one that clients see."""


def split_quoted(text: str, delimiter: str) -> list[str]:
    """Split at `delimiter`, except within double quotes."""
    parts: list[str] = []
    start = 0
    quoted = False
    for index, char in enumerate(text):
        if char == '"':
            quoted = not quoted
        elif char == delimiter and not quoted:
            parts.append(text[start:index])
            start = index + 1
    parts.append(text[start:])
    return parts


def parse_identifier(text: str) -> str:
    """One identifier as Postgres would store it. Raises BadIdentifier."""
    if not text:
        raise BadIdentifier("Invalid zero-length delimited identifier")
    if text.startswith('"') and text.endswith('"') and len(text) >= 2:
        inner = text[1:-1]
        if not inner:
            raise BadIdentifier("Invalid zero-length delimited identifier")
        if '"' in inner.replace('""', ""):
            raise BadIdentifier(f"Invalid identifier with unescaped quote: {inner}")
        name = inner.replace('""', '"')
    elif _UNQUOTED.fullmatch(text) or _UNQUOTED.fullmatch(_without_marks(text)):
        name = text.translate(_UPPER)
    else:
        raise BadIdentifier(f"Invalid unquoted identifier contains special characters: {text}")
    if len(name) > MAX_LENGTH:
        raise BadIdentifier(f"Identifier is too long (max length is {MAX_LENGTH})")
    if "\0" in name:
        raise BadIdentifier("Invalid identifier contains a NUL character")
    return name


def _without_marks(text: str) -> str:
    return text[:1] + "".join(char for char in text[1:] if not unicodedata.category(char).startswith("M"))


@lru_cache(maxsize=256)
def parse_relation(text: str) -> tuple[str, str]:
    """`table` or `schema.table` → (schema, table). Raises BadIdentifier."""
    parts = split_quoted(text, ".")
    if len(parts) > 2:
        raise BadIdentifier(f"Invalid relation identifier, too many delimiters: {text}")
    names = [parse_identifier(part) for part in parts]
    return (names[0], names[1]) if len(names) == 2 else ("public", names[0])


def parse_list(text: str) -> list[str]:
    """A comma list of identifiers. Raises BadIdentifier; an empty text gives an empty list."""
    if not text.strip():
        return []
    return [parse_identifier(part.strip()) for part in split_quoted(text, ",")]


def quote(name: str) -> str:
    """An identifier for a statement."""
    return '"' + name.replace('"', '""') + '"'


def quote_relation(schema: str, table: str) -> str:
    return f"{quote(schema)}.{quote(table)}"


def literal(value: str) -> str:
    """A string constant for a statement. Raises ValueError on NUL, which Postgres cannot hold."""
    if "\0" in value:
        raise ValueError("a string for Postgres cannot have a NUL character")
    escaped = value.replace("'", "''")
    if "\\" in escaped:
        return " E'" + escaped.replace("\\", "\\\\") + "'"
    return f"'{escaped}'"


def key_prefix(schema: str, table: str) -> str:
    """The relation part of a row's key: both parts quoted, with `/` and `.` doubled, so that keys stay unambiguous."""

    def part(name: str) -> str:
        return '"' + name.replace("/", "//").replace(".", "..") + '"'

    return f"{part(schema)}.{part(table)}"
