"""LIKE patterns → functions over UTF-8 bytes. Pure.

A pattern is cut at its `%` into pieces that are looked for from left to right, each once: linear in the text for pieces
without `_`, and never the exponential time that a regular expression may take.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

Matcher = Callable[[bytes], bool]

_ANY_CHARACTER = rb"(?:[\x00-\x7f]|[\xc0-\xff][\x80-\xbf]*)"


class BadPattern(ValueError):
    """The pattern ends with its escape character."""


def pieces(pattern: bytes) -> list[list[bytes | None]]:
    """The pattern between its `%`s: literals, and None for `_`."""
    found: list[list[bytes | None]] = [[]]
    position = 0
    while position < len(pattern):
        char = pattern[position : position + 1]
        position += 1
        if char == b"%":
            found.append([])
            continue
        if char == b"\\":
            if position == len(pattern):
                raise BadPattern("LIKE pattern must not end with escape character")
            char = pattern[position : position + 1]
            position += 1
        elif char == b"_":
            found[-1].append(None)
            continue
        last = found[-1]
        if last and last[-1] is not None:
            last[-1] += char
        else:
            last.append(char)
    return found


@lru_cache(maxsize=1024)
def matcher(pattern: bytes) -> Matcher:
    """Whether a text is LIKE the pattern. Raises BadPattern."""
    cut = pieces(pattern)
    if all(None not in piece for piece in cut):
        return _literal_matcher([piece[0] or b"" if piece else b"" for piece in cut])
    return _general_matcher(cut)


def _literal_matcher(literals: list[bytes]) -> Matcher:
    first, last = literals[0], literals[-1]
    middle = [literal for literal in literals[1:-1] if literal]
    if len(literals) == 1:
        return first.__eq__
    if not first and not last and len(middle) == 1:
        needle = middle[0]
        return lambda text: needle in text
    if not middle and not last:
        return lambda text: text.startswith(first)
    if not middle and not first:
        return lambda text: text.endswith(last)
    least = len(first) + len(last)

    def match(text: bytes) -> bool:
        if len(text) < least or not text.startswith(first) or not text.endswith(last):
            return False
        position, end = len(first), len(text) - len(last)
        for literal in middle:
            found = text.find(literal, position, end)
            if found < 0:
                return False
            position = found + len(literal)
        return True

    return match


def _general_matcher(cut: list[list[bytes | None]]) -> Matcher:
    patterns = [b"".join(_ANY_CHARACTER if part is None else re.escape(part) for part in piece) for piece in cut]
    if len(patterns) == 1:
        whole = re.compile(patterns[0], re.DOTALL)
        return lambda text: whole.fullmatch(text) is not None
    first = re.compile(patterns[0], re.DOTALL)
    middle = [re.compile(pattern, re.DOTALL) for pattern in patterns[1:-1] if pattern]
    last = re.compile(patterns[-1] + rb"\Z", re.DOTALL)

    def match(text: bytes) -> bool:
        found = first.match(text)
        if found is None:
            return False
        position = found.end()
        for pattern in middle:
            found = pattern.search(text, position)
            if found is None:
                return False
            position = found.end()
        return last.search(text, position) is not None

    return match


def escaped(pattern: bytes, escape: bytes) -> bytes:
    """The pattern of `LIKE pattern ESCAPE escape`, with a backslash as its escape character."""
    if escape == b"\\":
        return pattern
    if not escape:
        return pattern.replace(b"\\", b"\\\\")
    if len(escape.decode()) != 1:
        raise BadPattern("invalid escape string")
    made = b""
    after_escape = False
    text, mark = pattern.decode(), escape.decode()
    for char in text:
        if char == mark and not after_escape:
            made += b"\\"
            after_escape = True
        elif char == "\\" and not after_escape:
            made += b"\\\\"
        else:
            made += char.encode()
            after_escape = False
    return made
