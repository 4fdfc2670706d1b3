"""JSON as anyone writes it → the text that Postgres prints of it as jsonb. Pure.

What is no JSON is ValueError. A document may nest deeper than Postgres takes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Any, NoReturn

from switchgear_shapes.where.errors import TooLarge

MAX_DIGITS = 262_144
"""Of all numbers in a document: 1e100000 is a short text for a long one."""

MAX_DEPTH = 50_000
"""Postgres refuses 20,000 levels, unless it was given more stack."""

MAX_DEEP_CHARACTERS = 400_000
"""Of a document of more than some hundred levels, which is read slowly."""

STRING = r'"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*"'
NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_TOKEN = re.compile(rf"[ \t\n\r]*(?:({STRING})|({NUMBER})|(true|false|null|[\[\]{{}},:]))")
_BLANK = " \t\n\r"
_SPECIAL = re.compile(rb'[\x00-\x1f"\\]')
_SHORT = {8: rb"\b", 9: rb"\t", 10: rb"\n", 12: rb"\f", 13: rb"\r", 34: rb"\"", 92: rb"\\"}

_Piece = bytes | list["_Piece"]


def quoted(value: bytes) -> bytes:
    """A string as it stands in a jsonb."""
    return b'"' + _SPECIAL.sub(_escape, value) + b'"'


def _escape(match: re.Match[bytes]) -> bytes:
    byte = match[0][0]
    return _SHORT.get(byte) or b"\\u%04x" % byte


def unescaped(token: str) -> bytes:
    """The characters of a string token, which may not be NUL or half of a pair."""
    if "\\" not in token:
        return token[1:-1].encode()
    return _checked(json.loads(token))


def _checked(value: str) -> bytes:
    if "\0" in value:
        raise ValueError("a NUL character")
    return value.encode()


class _Number(bytes):
    """A number as it is printed."""

    __slots__ = ()


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not in JSON")


def read_jsonb(text: str, number: Callable[[str], str], max_depth: int = MAX_DEPTH) -> bytes:
    """What Postgres prints; `number` is for the numbers. Raises ValueError, ArithmeticError, TooLarge."""
    reader = _Reader(number, max_depth)
    try:
        return reader.quickly(text)
    except RecursionError:
        if len(text) > MAX_DEEP_CHARACTERS:
            raise TooLarge from None
        return _Reader(number, max_depth).read(text)


class _Container:
    """An array or an object that is being read. An object's `key` is what the next value belongs to."""

    __slots__ = ("items", "key", "members")

    def __init__(self, *, is_object: bool) -> None:
        self.items: list[_Piece] = []
        self.members: dict[bytes, _Piece] | None = {} if is_object else None
        self.key = b""

    def add(self, value: _Piece) -> None:
        if self.members is None:
            self.items.append(value)
        else:
            self.members[self.key] = value  # of equal keys the last counts

    def closed(self, mark: str) -> _Piece:
        if (mark == "]") != (self.members is None):
            raise ValueError("a bracket that does not fit")
        found: list[_Piece] = []
        if self.members is None:
            for item in self.items:
                found += [b", ", item]
            return [b"[", *found[1:], b"]"]
        for key in sorted(self.members, key=lambda name: (len(name), name)):
            separated = b", " if found else b""
            found += [separated + quoted(key) + b": ", self.members[key]]
        return [b"{", *found, b"}"]


class _Expected(Enum):
    VALUE = auto()
    FIRST_VALUE = auto()
    """Or the end of the array."""
    KEY = auto()
    FIRST_KEY = auto()
    """Or the end of the object."""
    COLON = auto()
    MORE = auto()
    """A comma, or the end of the container."""
    NOTHING = auto()


class _Reader:
    def __init__(self, number: Callable[[str], str], max_depth: int) -> None:
        self._number = number
        self._max_depth = max_depth
        self._stack: list[_Container] = []
        self._expected = _Expected.VALUE
        self._digits = 0
        self._made: _Piece = b""

    def quickly(self, text: str) -> bytes:
        """By Python's own reader, which is strict enough; documents of some hundred levels are too deep for it."""
        value = json.loads(text, parse_int=self._counted, parse_float=self._counted, parse_constant=_refuse)
        return self._written(value, 0)

    def _counted(self, literal: str) -> _Number:
        return _Number(self._scalar(_NUMBER_KIND, literal))

    def _written(self, value: Any, depth: int) -> bytes:
        match value:
            case _Number():
                return bytes(value)
            case str():
                return quoted(_checked(value))
            case None | bool():
                return b"null" if value is None else b"true" if value else b"false"
        if depth == self._max_depth:
            raise ValueError("nested too deeply")
        if isinstance(value, list):
            return b"[" + b", ".join([self._written(item, depth + 1) for item in value]) + b"]"
        members = sorted(((_checked(key), item) for key, item in value.items()), key=lambda m: (len(m[0]), m[0]))
        shown = [quoted(key) + b": " + self._written(item, depth + 1) for key, item in members]
        return b"{" + b", ".join(shown) + b"}"

    def read(self, text: str) -> bytes:
        for kind, word in _tokens(text):
            self._take(kind, word)
        if self._expected != _Expected.NOTHING:
            raise ValueError("unexpected end of JSON")
        return _flat(self._made)

    def _take(self, kind: int, word: str) -> None:
        match self._expected:
            case _Expected.MORE | _Expected.FIRST_VALUE | _Expected.FIRST_KEY if word in ("]", "}"):
                self._put(self._stack.pop().closed(word))
            case _Expected.MORE if word == ",":
                is_object = self._stack[-1].members is not None
                self._expected = _Expected.KEY if is_object else _Expected.VALUE
            case _Expected.COLON if word == ":":
                self._expected = _Expected.VALUE
            case _Expected.KEY | _Expected.FIRST_KEY if kind == _STRING_KIND:
                self._stack[-1].key = unescaped(word)
                self._expected = _Expected.COLON
            case _Expected.VALUE | _Expected.FIRST_VALUE if word in ("[", "{"):
                self._open(word)
            case _Expected.VALUE | _Expected.FIRST_VALUE if word not in ("]", "}", ",", ":"):
                self._put(self._scalar(kind, word))
            case _:
                raise ValueError("no JSON")

    def _open(self, mark: str) -> None:
        self._stack.append(_Container(is_object=mark == "{"))
        if len(self._stack) > self._max_depth:
            raise ValueError("nested too deeply")
        self._expected = _Expected.FIRST_KEY if mark == "{" else _Expected.FIRST_VALUE

    def _put(self, value: _Piece) -> None:
        if self._stack:
            self._stack[-1].add(value)
            self._expected = _Expected.MORE
        else:
            self._made = value
            self._expected = _Expected.NOTHING

    def _scalar(self, kind: int, word: str) -> bytes:
        if kind == _STRING_KIND:
            return quoted(unescaped(word))
        if kind != _NUMBER_KIND:
            return word.encode()
        printed = self._number(word)
        self._digits += len(printed)
        if self._digits > MAX_DIGITS:
            raise ValueError("too many digits")
        return printed.encode()


_STRING_KIND, _NUMBER_KIND = 1, 2


def _tokens(text: str) -> Iterator[tuple[int, str]]:
    text = text.rstrip(_BLANK)
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError("no JSON")
        assert match.lastindex is not None
        yield match.lastindex, match[match.lastindex]
        position = match.end()


def _flat(piece: _Piece) -> bytes:
    found: list[bytes] = []
    stack: list[_Piece] = [piece]
    while stack:
        top = stack.pop()
        if isinstance(top, bytes):
            found.append(top)
        else:
            stack.extend(reversed(top))
    return b"".join(found)
