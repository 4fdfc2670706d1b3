"""Arrays: Postgres' text ↔ values, and what their operators do. Pure.

Invariants: two arrays are equal when dimensions, lower bounds and elements are, NULLs included; containment and overlap
look at elements only, and NULL is contained in nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

MAX_DIMENSIONS = 6
_BOUNDS = re.compile(r"\s*((?:\[-?\d{1,10}(?::-?\d{1,10})?\])+)\s*=", re.ASCII)
_BOUND = re.compile(r"\[(?:(-?\d+):)?(-?\d+)\]", re.ASCII)
_NEEDS_QUOTES = re.compile(r'[\s{}",\\]|^$', re.ASCII)
_IN_QUOTES = re.compile(r'([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_PLAIN = re.compile(r'[^{}",\\]+')
_ODD = re.compile(r'[\s{}"\\]')
_SPACE = " \t\n\r\f\v"


class ArrayValue(NamedTuple):
    """`items` in storage order; an empty array has no dimensions."""

    lengths: tuple[int, ...]
    bounds: tuple[int, ...]
    items: tuple[Any, ...]


EMPTY = ArrayValue((), (), ())


def one_dimensional(items: tuple[Any, ...]) -> ArrayValue:
    return ArrayValue((len(items),), (1,), items) if items else EMPTY


def read_array(text: str, read: Callable[[str], Any]) -> ArrayValue:
    """What the input function makes of a text. Raises ValueError."""
    plain = _plain_words(text)
    if plain is not None:
        if "null" not in text.lower():
            return one_dimensional(tuple(map(read, plain)))
        return one_dimensional(tuple([None if word.lower() == "null" else read(word) for word in plain]))
    declared = _BOUNDS.match(text)
    body = text[declared.end() :] if declared is not None else text
    parser = _Parser(body.strip(_SPACE), read)
    lengths = parser.parse()
    if not parser.items:
        if declared is not None or len(lengths) != 1:
            raise ValueError("no array")
        return EMPTY
    bounds = (1,) * len(lengths)
    if declared is not None:
        pairs = [(int(low or 1), int(high)) for low, high in _BOUND.findall(declared[1])]
        bounds = tuple(low for low, _ in pairs)
        if any(low < -(1 << 31) or high >= (1 << 31) - 1 for low, high in pairs):
            raise ValueError("bounds out of range")
        if tuple(high - low + 1 for low, high in pairs) != lengths:
            raise ValueError("dimensions do not fit")
    return ArrayValue(lengths, bounds, tuple(parser.items))


def _plain_words(text: str) -> list[str] | None:
    """The elements of an array of one dimension without quotes, blanks and odd spellings: most are like that."""
    if text[:1] != "{" or text[-1:] != "}" or len(text) < 3 or _ODD.search(text, 1, len(text) - 1):
        return None
    words = text[1:-1].split(",")
    return None if "" in words else words


class _Parser:
    def __init__(self, text: str, read: Callable[[str], Any]) -> None:
        self._text = text
        self._at = 0
        self._read = read
        self.items: list[Any] = []

    def parse(self) -> tuple[int, ...]:
        lengths = self._level(1)
        if self._at != len(self._text):
            raise ValueError("junk after the closing brace")
        return lengths

    def _peek(self) -> str:
        while self._at < len(self._text) and self._text[self._at] in _SPACE:
            self._at += 1
        if self._at == len(self._text):
            raise ValueError("unexpected end of an array")
        return self._text[self._at]

    def _level(self, depth: int) -> tuple[int, ...]:
        if depth > MAX_DIMENSIONS or self._peek() != "{":
            raise ValueError("no array")
        self._at += 1
        if self._peek() == "}":
            self._at += 1
            if depth > 1:
                raise ValueError("an empty dimension")
            return (0,)
        count = 0
        inner: tuple[int, ...] | None = None
        while True:
            if self._peek() == "{":
                found = self._level(depth + 1)
            else:
                self.items.append(self._item())
                found = ()
            if inner is not None and inner != found:
                raise ValueError("sub-arrays must have matching dimensions")
            inner = found
            count += 1
            mark = self._peek()
            self._at += 1
            if mark == "}":
                return (count, *inner)
            if mark != ",":
                raise ValueError("no array")

    def _item(self) -> Any:
        text = self._text
        if self._peek() == '"':
            self._at += 1
            quoted = _IN_QUOTES.match(text, self._at)
            if quoted is None:
                raise ValueError("unexpected end of an array")
            self._at = quoted.end()
            written = quoted[1]
            return self._read(_ESCAPED.sub(r"\1", written) if "\\" in written else written)
        plain = _PLAIN.match(text, self._at)
        if plain is None or text[plain.end() : plain.end() + 1] not in (",", "}"):
            raise ValueError("no array")  # a backslash outside of quotes is for the few who write it: not taken
        self._at = plain.end()
        word = plain[0].strip(_SPACE)
        if not word:
            raise ValueError("an empty element needs quotes")
        return None if word.lower() == "null" else self._read(word)


def print_array(value: ArrayValue, show: Callable[[Any], str]) -> str:
    """As the output function prints it."""
    if not value.lengths:
        return "{}"
    texts = ["NULL" if item is None else _quoted(show(item)) for item in value.items]
    for length in reversed(value.lengths[1:]):
        texts = ["{" + ",".join(texts[i : i + length]) + "}" for i in range(0, len(texts), length)]
    body = "{" + ",".join(texts) + "}"
    if all(bound == 1 for bound in value.bounds):
        return body
    ranges = (f"[{low}:{low + length - 1}]" for low, length in zip(value.bounds, value.lengths, strict=True))
    return "".join(ranges) + "=" + body


def _quoted(text: str) -> str:
    if not _NEEDS_QUOTES.search(text) and text.lower() != "null":
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


Equal = Callable[[Any, Any], bool]


def equal_arrays(equal: Equal, a: ArrayValue, b: ArrayValue) -> bool:
    if a.lengths != b.lengths or a.bounds != b.bounds:
        return False
    return all(
        (x is None and y is None) or (x is not None and y is not None and equal(x, y))
        for x, y in zip(a.items, b.items, strict=True)
    )


Key = Callable[[Any], Any]
"""Hashable, and the same for equal elements."""


def contains(key: Key, outer: ArrayValue, inner: ArrayValue) -> bool:
    if None in inner.items:
        return False
    return {key(y) for y in inner.items} <= {key(x) for x in outer.items if x is not None}


def overlaps(key: Key, a: ArrayValue, b: ArrayValue) -> bool:
    found = {key(x) for x in a.items if x is not None}
    return any(y is not None and key(y) in found for y in b.items)


def any_of(compare: Callable[[Any, Any], bool], value: Any, array: ArrayValue | None) -> bool | None:
    """`value op ANY (array)`: of an empty array FALSE, even for NULL."""
    if array is None:
        return None
    if not array.items:
        return False
    if value is None:
        return None
    unknown = False
    for item in array.items:
        if item is None:
            unknown = True
        elif compare(value, item):
            return True
    return None if unknown else False


def all_of(compare: Callable[[Any, Any], bool], value: Any, array: ArrayValue | None) -> bool | None:
    found = any_of(lambda a, b: not compare(a, b), value, array)
    return None if found is None else not found


def element(array: ArrayValue, *subscripts: int) -> Any:
    """`array[i][j]`: NULL outside of it."""
    if len(subscripts) != len(array.lengths):
        return None
    offset = 0
    for index, low, length in zip(subscripts, array.bounds, array.lengths, strict=True):
        if not low <= index < low + length:
            return None
        offset = offset * length + index - low
    return array.items[offset]


def part(array: ArrayValue, ends: list[tuple[int | None, int | None]]) -> ArrayValue:
    """`array[a:b][c:d]`, None for an end that is left out: what lies within both, its bounds counted from 1."""
    if len(ends) > len(array.lengths):
        return EMPTY
    ranges = []
    for index, (low, length) in enumerate(zip(array.bounds, array.lengths, strict=True)):
        first, last = ends[index] if index < len(ends) else (None, None)
        first = low if first is None else max(first, low)
        last = low + length - 1 if last is None else min(last, low + length - 1)
        if first > last:
            return EMPTY
        ranges.append(range(first - low, last - low + 1))
    offsets = [0]
    for places, length in zip(ranges, array.lengths, strict=True):
        offsets = [offset * length + place for offset in offsets for place in places]
    lengths = tuple(map(len, ranges))
    return ArrayValue(lengths, (1,) * len(lengths), tuple(array.items[offset] for offset in offsets))


def concatenated(a: ArrayValue | None, b: ArrayValue | None) -> ArrayValue | None:
    """`a || b`, of one dimension or none. Raises ValueError for others that Postgres refuses or we do not know."""
    if a is None or not a.lengths:
        return b if a is None or (b is not None and b.lengths) else a
    if b is None or not b.lengths:
        return a
    if len(a.lengths) != 1 or len(b.lengths) != 1:
        return _nested(a, b)
    return ArrayValue((a.lengths[0] + b.lengths[0],), a.bounds, a.items + b.items)


def _nested(a: ArrayValue, b: ArrayValue) -> ArrayValue:
    items = a.items + b.items
    if len(a.lengths) == len(b.lengths):
        if (a.lengths[1:], a.bounds[1:]) == (b.lengths[1:], b.bounds[1:]):
            return ArrayValue((a.lengths[0] + b.lengths[0], *a.lengths[1:]), a.bounds, items)
    elif len(a.lengths) == len(b.lengths) - 1 and (a.lengths, a.bounds) == (b.lengths[1:], b.bounds[1:]):
        return ArrayValue((b.lengths[0] + 1, *a.lengths), b.bounds, items)
    elif len(a.lengths) - 1 == len(b.lengths) and (b.lengths, b.bounds) == (a.lengths[1:], a.bounds[1:]):
        return ArrayValue((a.lengths[0] + 1, *b.lengths), a.bounds, items)
    raise ValueError("cannot concatenate incompatible arrays")


def appended(array: ArrayValue | None, item: Any) -> ArrayValue:
    if array is None or not array.lengths:
        return one_dimensional((item,))
    if len(array.lengths) != 1:
        raise ValueError("argument must be empty or one-dimensional array")
    return ArrayValue((array.lengths[0] + 1,), array.bounds, (*array.items, item))


def prepended(item: Any, array: ArrayValue | None) -> ArrayValue:
    if array is None or not array.lengths:
        return one_dimensional((item,))
    if len(array.lengths) != 1:
        raise ValueError("argument must be empty or one-dimensional array")
    return ArrayValue((array.lengths[0] + 1,), array.bounds, (item, *array.items))
