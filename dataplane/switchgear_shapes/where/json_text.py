"""json: what its operators do with the text, which is kept as it was written. Pure.

A part is a slice of the text without the blanks around it; of equal keys the last counts. As Postgres reads the whole
document first, an escape that it cannot read anywhere in it is an error (ValueError).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from switchgear_shapes.where import documents
from switchgear_shapes.where.arrays import ArrayValue
from switchgear_shapes.where.json_input import unescaped

_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_TOKEN = re.compile(_STRING + rb"|[\[\]{},]")
_ANY_STRING = re.compile(_STRING)
_BLANK = b" \t\n\r"
INDEX = re.compile(r"[ \t\n\v\f\r]*([+-]?)0*([0-9]+)", re.ASCII)
_INT4_MAX = 2_147_483_647


def _checked(document: bytes) -> bytes:
    if b"\\u" in document:
        for match in _ANY_STRING.finditer(document):
            unescaped(match[0].decode())
    return document.strip(_BLANK)


def _parts(container: bytes) -> Iterator[bytes]:
    """An array's elements, or an object's members as written."""
    depth, start = 0, 1
    for match in _TOKEN.finditer(container):
        at = match.start()
        mark = match[0]
        if mark in (b"[", b"{"):
            depth += 1
        elif mark == b"," and depth == 1:
            yield container[start:at].strip(_BLANK)
            start = at + 1
        elif mark in (b"]", b"}"):
            depth -= 1
            if depth == 0:
                last = container[start:at].strip(_BLANK)
                if last:
                    yield last


def _fields(value: bytes, name: bytes) -> list[bytes]:
    """All values of a key: there may be several."""
    if value[:1] != b"{":
        return []
    found = []
    for part in _parts(value):
        key = _ANY_STRING.match(part)
        if key is None:
            raise ValueError("no member of an object")
        if unescaped(key[0].decode()) == name:
            found.append(part[key.end() :].lstrip(_BLANK)[1:].lstrip(_BLANK))
    return found


def _elements(value: bytes, index: int) -> list[bytes]:
    if value[:1] != b"[":
        return []
    items = list(_parts(value))
    return [items[index]] if -len(items) <= index < len(items) else []


def step(document: bytes, key: bytes | int) -> bytes | None:
    """`document -> key`."""
    value = _checked(document)
    found = _elements(value, key) if isinstance(key, int) else _fields(value, key)
    return found[-1] if found else None


def at_path(document: bytes, path: ArrayValue) -> bytes | None:
    """`document #> path`. With equal keys all are followed, and the last that gets to the end counts."""
    if None in path.items:
        return None
    found = [_checked(document)]
    for name in path.items:
        index = _index(name.decode())
        reached: list[bytes] = []
        for value in found:
            if value[:1] == b"{":
                reached += _fields(value, name)
            elif index is not None:
                reached += _elements(value, index)
        found = reached
    return found[-1] if found else None


def _index(name: str) -> int | None:
    match = INDEX.fullmatch(name)
    if match is None or len(match[2]) > 10 or int(match[2]) > _INT4_MAX:
        return None
    return int(match[1] + match[2])


def as_text(part: bytes | None) -> bytes | None:
    """What `->>` gives of a part."""
    if part is None or part == b"null":
        return None
    return unescaped(part.decode()) if part[:1] == b'"' else part


def kind(document: bytes) -> bytes:
    """`json_typeof`: the outermost value is all that it reads."""
    return documents.kind(document.lstrip(_BLANK))


def length(document: bytes) -> int:
    """`json_array_length`."""
    value = document.strip(_BLANK)
    if value[:1] != b"[":
        raise ValueError("cannot get array length of a non-array")
    return sum(1 for _ in _parts(value))


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "->": step,
    "->>": lambda document, key: as_text(step(document, key)),
    "#>": at_path,
    "#>>": lambda document, path: as_text(at_path(document, path)),
}
