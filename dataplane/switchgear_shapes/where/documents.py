"""jsonb: what its operators do with the text that Postgres prints. Pure.

A value is its text as jsonb's output function prints it, in bytes. That text is canonical but for the trailing zeros of
numbers, so parts of a document are slices of it, exactly as Postgres prints them. Nothing here recurses over a
document from the stream but `contains`, and that only as deep as both of its sides go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from switchgear_shapes.where.arrays import ArrayValue
from switchgear_shapes.where.errors import TooLarge
from switchgear_shapes.where.json_input import quoted

_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_TOKEN = re.compile(_STRING + rb"|[\[\]{},]")
_KEY = re.compile(_STRING)
_FRACTION = re.compile(_STRING + rb"|\d+\.\d+")
_INDEX = re.compile(rb"[ \t\n\v\f\r]*([+-]?)0*([0-9]+)")
_QUOTE, _COMMA = b'",'
_OPENING, _CLOSING = b"[{", b"]}"


# -- comparing --


def key(value: bytes) -> bytes:
    """Equal documents have equal keys: 1.0 is 1."""
    return _FRACTION.sub(_shortened, value) if b"." in value else value


def _shortened(match: re.Match[bytes]) -> bytes:
    found = match[0]
    return found if found[0] == _QUOTE else found.rstrip(b"0").rstrip(b".")


def _is_container(value: bytes) -> bool:
    return value[0] in _OPENING


MOST_COMPARED = 8_000_000
"""Bytes of documents that are looked at for one `@>`: containers within arrays are compared each with each."""


class _Containing:
    """One `@>`."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MOST_COMPARED

    def covers(self, value: bytes, wanted: bytes) -> bool:
        if value[0] != wanted[0]:
            return False
        self._left -= len(value) + len(wanted) + 10
        if self._left < 0:
            raise TooLarge
        if value[:1] == b"{":
            fields = dict(map(_member, _parts(value)))
            return all(self._fits(fields.get(name), item) for name, item in map(_member, _parts(wanted)))
        items = list(_parts(value))
        scalars = {key(item) for item in items if not _is_container(item)}
        containers = [item for item in items if _is_container(item)]
        return all(
            any(self.covers(container, item) for container in containers)
            if _is_container(item)
            else key(item) in scalars
            for item in _parts(wanted)
        )

    def _fits(self, value: bytes | None, wanted: bytes) -> bool:
        if value is None:
            return False
        if _is_container(value) and _is_container(wanted):
            return self.covers(value, wanted)
        return key(value) == key(wanted)


def contains(value: bytes, wanted: bytes) -> bool:
    """`value @> wanted`. A scalar is like an array of one, but contains no array. Raises TooLarge."""
    if (value[:1] == b"{") != (wanted[:1] == b"{"):
        return False
    if _is_container(value) and _is_container(wanted):
        return _Containing().covers(value, wanted)
    sought = key(wanted)
    return any(not _is_container(item) and key(item) == sought for item in _items(value))


# -- parts --


def _parts(container: bytes) -> Iterator[bytes]:
    """An array's elements, or an object's members: `"key": value`."""
    depth, start = 0, 1
    for match in _TOKEN.finditer(container):
        at = match.start()
        char = container[at]
        if char == _QUOTE:
            continue
        if char == _COMMA:
            if depth == 1:
                yield container[start:at]
                start = at + 2
        elif char in _OPENING:
            depth += 1
        else:
            depth -= 1
            if depth == 0 and at > start:
                yield container[start:at]


def _member(part: bytes) -> tuple[bytes, bytes]:
    match = _KEY.match(part)
    if match is None:
        raise ValueError("no member of an object")
    return match[0], part[match.end() + 2 :]


def _items(value: bytes) -> list[bytes]:
    """An array's elements; a scalar is one itself."""
    return list(_parts(value)) if value[:1] == b"[" else [value]


def field(value: bytes, name: bytes) -> bytes | None:
    """`value -> 'name'`."""
    start = quoted(name) + b": "
    if value[:1] != b"{" or start not in value:
        return None
    return next((part[len(start) :] for part in _parts(value) if part.startswith(start)), None)


def element(value: bytes, index: int) -> bytes | None:
    """`value -> index`, from the end if negative."""
    if value[:1] == b"{":
        return None
    items = _items(value)
    return items[index] if -len(items) <= index < len(items) else None


def at_path(value: bytes, path: ArrayValue) -> bytes | None:
    """`value #> path`."""
    if None in path.items:
        return None
    found: bytes | None = value
    for step in path.items:
        if found is None or not _is_container(found):
            return None
        if found[:1] == b"{":
            found = field(found, step)
            continue
        index = _INDEX.fullmatch(step)
        if index is None or len(index[2]) > len("2147483648"):
            return None
        found = element(found, int(index[1] + index[2]))
    return found


def as_text(value: bytes | None) -> bytes | None:
    """What `->>` gives of a part: a string's characters, NULL for null, else the text."""
    if value is None or value == b"null":
        return None
    if value[0] != _QUOTE:
        return value
    if b"\\" not in value:
        return value[1:-1]
    text: str = json.loads(value.decode())
    return text.encode()


def has_key(value: bytes, name: bytes) -> bool:
    """`value ? 'name'`: an object's key, an array's string, or the string itself."""
    if value[:1] == b"{":
        return field(value, name) is not None
    wanted = quoted(name)
    return wanted in value and wanted in _items(value)


def has_any(value: bytes, names: ArrayValue) -> bool:
    return any(has_key(value, name) for name in names.items if name is not None)


def has_all(value: bytes, names: ArrayValue) -> bool:
    return all(has_key(value, name) for name in names.items if name is not None)


_KINDS = {b"{": b"object", b"[": b"array", b'"': b"string", b"t": b"boolean", b"f": b"boolean", b"n": b"null"}


def kind(value: bytes) -> bytes:
    """`jsonb_typeof`."""
    return _KINDS.get(value[:1], b"number")


def length(value: bytes) -> int:
    """`jsonb_array_length`."""
    if value[:1] != b"[":
        raise ValueError("cannot get array length of a non-array")
    return sum(1 for _ in _parts(value))


def number(value: bytes) -> Decimal:
    if value[:1] not in b"-0123456789":
        raise ValueError("no number")
    return Decimal(value.decode("ascii"))


def boolean(value: bytes) -> bool:
    if value not in (b"true", b"false"):
        raise ValueError("no boolean")
    return value == b"true"


def _step(value: bytes, step: bytes | int) -> bytes | None:
    return element(value, step) if isinstance(step, int) else field(value, step)


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "->": _step,
    "->>": lambda value, step: as_text(_step(value, step)),
    "#>": at_path,
    "#>>": lambda value, path: as_text(at_path(value, path)),
    "?": has_key,
    "?|": has_any,
    "?&": has_all,
}
