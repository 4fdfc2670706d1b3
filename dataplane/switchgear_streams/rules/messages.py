"""JSON mode: one request body → stored messages, without changing a value. Pure.

Stored form: each message without insignificant white space, followed by `,` and a line feed. A line feed cannot occur
inside such a message, so message boundaries are found by looking at bytes: a range read is `[` + range − 2 bytes + `]`.

Values keep their bytes: 1.0, 1e400, big integers and duplicate keys come back as they were sent. Refused besides what
the grammar forbids: a byte order mark, bytes that are no UTF-8, and nesting deeper than about 1,000.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

import orjson

from switchgear_wire.errors import HttpError

END = b",\n"
MAX_BODY = 8 * 1_048_576
"""Parsing takes many times a body's size for a moment, and nothing else is done meanwhile."""
_STRING_OR_BLANK = re.compile(rb'("(?:[^"\\]|\\.)*")|[ \t\r\n]+')
_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},]')


def to_stored(body: bytes) -> tuple[bytes, int]:
    """(stored bytes, number of messages). An array is flattened one level; an empty one gives (b"", 0).

    Raises 400 INVALID_JSON, 413 JSON_TOO_LARGE.
    """
    if len(body) > MAX_BODY:
        raise HttpError(413, "JSON_TOO_LARGE", f"A JSON body may have {MAX_BODY} bytes; send the messages in several.")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        value = _second_opinion(body, error)
    if b" " in body or b"\n" in body or b"\t" in body or b"\r" in body:
        body = _STRING_OR_BLANK.sub(rb"\1", body)
    if type(value) is not list:
        return body + END, 1
    if not value:
        return b"", 0
    if len(value) == 1:
        return body[1:-1] + END, 1
    if b'"' not in body and b"{" not in body and body.count(b"[") == 1:
        return body[1:-1].replace(b",", END) + END, len(value)
    return END.join(_elements(body)) + END, len(value)


def to_array(stored: bytes) -> bytes:
    """The JSON array of a stored range, on one line."""
    return b"[" + stored.replace(END, b",")[:-1] + b"]"


def count(stored: bytes) -> int:
    """The number of messages in a stored range."""
    return stored.count(b"\n")


def nth_end(stored: bytes, number: int) -> int | None:
    """Where the `number`-th message of a stored range ends, or None if there are fewer."""
    at = 0
    for _ in range(number):
        at = stored.find(b"\n", at) + 1
        if at == 0:
            return None
    return at


def _elements(array: bytes) -> list[bytes]:
    """The elements of a minified, valid, non-empty array, byte for byte."""
    inner = array[1:-1]
    elements: list[bytes] = []
    depth, begin = 0, 0
    for match in _STRUCTURE.finditer(inner):
        token = inner[match.start()]
        if token in b"[{":
            depth += 1
        elif token in b"]}":
            depth -= 1
        elif token == 0x2C and depth == 0:
            elements.append(inner[begin : match.start()])
            begin = match.end()
    elements.append(inner[begin:])
    return elements


def _second_opinion(body: bytes, error: orjson.JSONDecodeError) -> object:
    """orjson refuses numbers beyond a double and lone surrogates, which are valid JSON: ask the standard library."""
    try:
        text = body.decode("utf-8")
        return json.loads(text, parse_constant=_refuse, parse_int=str, parse_float=str)
    except UnicodeDecodeError:
        raise HttpError(400, "INVALID_JSON", "The body is not valid UTF-8, which JSON must be.") from None
    except (ValueError, RecursionError):
        raise HttpError(400, "INVALID_JSON", f"The body is not valid JSON: {error}.") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
