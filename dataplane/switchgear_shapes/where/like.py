"""LIKE patterns → functions over UTF-8 bytes. Pure.

A pattern is cut at its `%` into pieces that are looked for from left to right, each once. Whatever pattern and text
are, the time is about linear in the text: never exponential, and not a multiple of the length of the pattern either, as
with a regular expression for `%____x%`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from switchgear_shapes.where.errors import TooLarge

Matcher = Callable[[bytes], bool]

_Piece = list[tuple[int, str]]
"""Where in the piece a literal is (the rest is `_`), in characters."""


_MANY_COMPARISONS = 50_000
"""From so many on, a piece is looked for with `_search_bits`."""
_MOST_COMPARISONS = 40_000_000_000
"""Of bits, which take a second."""


BAD_PATTERN = "LIKE pattern must not end with escape character"
_TOKEN = re.compile(rb"%|_|\\.?|[^%_\\]+", re.DOTALL)
_SPECIAL = re.compile(rb"[\\%_]")
_REMEMBERED_LENGTH = 1_000
"""Longer patterns, which may come from rows, are not kept."""


class BadPattern(ValueError):
    """The pattern ends with its escape character."""


def pieces(pattern: bytes) -> list[list[bytes | None]]:
    """The pattern between its `%`s: literals, and None for `_`."""
    found: list[list[bytes | None]] = [[]]
    literal = bytearray()
    for token in _TOKEN.finditer(pattern):
        part = token[0]
        if part not in (b"%", b"_"):
            if part == b"\\":
                raise BadPattern(BAD_PATTERN)
            literal += part.removeprefix(b"\\")
            continue
        if literal:
            found[-1].append(bytes(literal))
            literal.clear()
        if part == b"_":
            found[-1].append(None)
        else:
            found.append([])
    if literal:
        found[-1].append(bytes(literal))
    return found


def matches(text: bytes, pattern: bytes) -> bool:
    """Whether the text is LIKE a pattern that may be bad: BadPattern only where Postgres gets to the pattern's end."""
    make = matcher if len(pattern) <= _REMEMBERED_LENGTH else _matcher
    if not _ends_with_escape(pattern):
        return make(pattern)(text)
    if make(_reaching_end(pattern[:-1]))(text):
        raise BadPattern(BAD_PATTERN)
    return False


def _ends_with_escape(pattern: bytes) -> bool:
    return (len(pattern) - len(pattern.rstrip(b"\\"))) % 2 == 1


def _reaching_end(pattern: bytes) -> bytes:
    """The pattern of the texts with which matching gets to what follows the pattern.

    There must be a character left then; but behind a `%` matching looks beyond all wildcards at once, so that it is
    enough if there was one before.
    """
    cut = pieces(pattern)
    wild = len(cut)
    while wild > 1 and all(part is None for part in cut[wild - 1]):
        wild -= 1
    if wild == len(cut):
        return pattern + b"_%"
    ones = sum(len(piece) for piece in cut[wild:])
    return b"%".join(map(_written, cut[:wild])) + b"_" * max(ones, 1) + b"%"


def _written(piece: list[bytes | None]) -> bytes:
    return b"".join(b"_" if part is None else _SPECIAL.sub(rb"\\\g<0>", part) for part in piece)


@lru_cache(maxsize=1024)
def matcher(pattern: bytes) -> Matcher:
    """Whether a text is LIKE the pattern. Raises BadPattern."""
    return _matcher(pattern)


def _matcher(pattern: bytes) -> Matcher:
    cut = pieces(pattern)
    if all(None not in piece for piece in cut):
        return _literal_matcher([piece[0] or b"" if piece else b"" for piece in cut])
    return _general_matcher(cut)


def cost(pattern: bytes, search: float) -> float:
    """Nanoseconds for each byte of a text, at worst; `search` is what looking for a literal costs."""
    try:
        cut = pieces(pattern)
    except BadPattern:
        return 0.0
    if all(None not in piece for piece in cut):
        return search * sum(1 for piece in cut[1:-1] if piece)
    total = 4 * search
    for piece in cut[1:-1]:
        literals = b"".join(part for part in piece if part is not None)
        total += 10 * len(set(literals)) + len(literals) / 30
    return total


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


def _text(data: bytes) -> str:
    """As characters; a byte that is no UTF-8 is one of its own."""
    return data.decode("utf-8", "surrogateescape")


def _laid_out(piece: list[bytes | None]) -> tuple[_Piece, int]:
    """A piece's literals in their places, and how many characters it has."""
    literals: _Piece = []
    length = 0
    for part in piece:
        if part is None:
            length += 1
        else:
            literals.append((length, _text(part)))
            length += len(literals[-1][1])
    return literals, length


def _general_matcher(cut: list[list[bytes | None]]) -> Matcher:
    pieces_ = [_laid_out(piece) for piece in cut]
    (first, start), (last, end) = pieces_[0], pieces_[-1]
    middle = [piece for piece in pieces_[1:-1] if piece[1]]
    least = start if len(pieces_) == 1 else start + end

    def match(data: bytes) -> bool:
        text = _text(data)
        size = len(text)
        if size < least or not _is_at(text, first, 0):
            return False
        if len(pieces_) == 1:
            return size == start
        limit = size - end
        if not _is_at(text, last, limit):
            return False
        position = start
        for literals, length in middle:
            found = _search(text, literals, position, limit - length)
            if found < 0:
                return False
            position = found + length
        return True

    return match


def _is_at(text: str, literals: _Piece, position: int) -> bool:
    return all(text.startswith(literal, position + offset) for offset, literal in literals)


def _search(text: str, literals: _Piece, first: int, last: int) -> int:
    """The first position from `first` to `last` at which the literals are in their places; -1 if there is none."""
    if first > last:
        return -1
    if not literals:
        return first
    if len(literals) > 1 and (last - first) * len(literals) > _MANY_COMPARISONS:
        return _search_bits(text, literals, first, last)
    offset, literal = literals[0]
    position = first
    while True:
        position = text.find(literal, position + offset, last + offset + len(literal)) - offset
        if position < first or _is_at(text, literals, position):
            return max(position, -1)
        position += 1


def _search_bits(text: str, literals: _Piece, first: int, last: int) -> int:
    """The same in integers with a bit for each position: a few operations for each character of the piece.

    Raises TooLarge.
    """
    wanted: dict[str, list[int]] = {}
    for offset, literal in literals:
        for index, char in enumerate(literal, offset):
            wanted.setdefault(char, []).append(index)
    size = last - first + 1
    if size * sum(map(len, wanted.values())) > _MOST_COMPARISONS:
        raise TooLarge
    masks = _masks(text[first : last + 1 + max(map(max, wanted.values()))])
    candidates = (1 << size) - 1
    for char, offsets in wanted.items():
        mask = masks(char)
        for offset in offsets:
            candidates &= mask >> offset
        if not candidates:
            return -1
    return first + (candidates & -candidates).bit_length() - 1


def _masks(text: str) -> Callable[[str], int]:
    """For a character: the positions at which the text has it, as bits.

    By what is quick in C: a byte for each position, turned into a digit, and the digits read as a number of base two.
    """
    backwards = text[::-1]
    if backwards.isascii():
        plain = backwards.encode()
        return lambda char: _positions(plain, ord(char)) if char.isascii() else 0
    wide = backwards.encode("utf-32-le", "surrogatepass")
    planes = [wide[index::4] for index in range(3)]

    def mask(char: str) -> int:
        code = ord(char)
        found = _positions(planes[0], code & 255)
        for index in (1, 2):
            found &= _positions(planes[index], (code >> 8 * index) & 255)
        return found

    return mask


def _positions(data: bytes, byte: int) -> int:
    table = bytearray(b"0" * 256)
    table[byte] = 49
    return int(data.translate(table), 2)


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
