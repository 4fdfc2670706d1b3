"""JSON mode: one request body → stored messages, without changing a value. Pure.

Stored form: each message without insignificant white space, followed by `,` and a line feed. A line feed cannot occur
inside such a message, so message boundaries are found by looking at bytes: a range read is `[` + range − 2 bytes + `]`.

Values keep their bytes: 1.0, 1e400, big integers and duplicate keys come back as they were sent. Refused besides what
the grammar forbids: a byte order mark, bytes that are no UTF-8, and nesting deeper than about 1,000.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import orjson

from switchgear_wire.errors import HttpError

END = b",\n"
MAX_BODY = 8 * 1_048_576
"""Parsing takes many times a body's size for a moment."""
LONG = 65_536
"""From here on it takes so long (up to about a second) that nobody else should have to wait for it."""
_BLANKS = b" \t\r\n"
_REST_OF_STRING = rb'[^"\\]*+(?:\\.[^"\\]*+)*+"'
_STRING_REST = re.compile(_REST_OF_STRING)
_STRUCTURE = re.compile(b'"' + _REST_OF_STRING + rb"|[\[\]{},]")
_NESTED = 8


def _element() -> re.Pattern[bytes]:
    """An element of an array, if it is not nested deeper than that."""
    bracket = b"(?!)"
    for _ in range(_NESTED):
        bracket = rb'[\[{](?:[^"\[\]{}]++|"%b|%b)*+[\]}]' % (_REST_OF_STRING, bracket)
    return re.compile(rb'(?:[^"\[\]{},]++|"%b|%b)++' % (_REST_OF_STRING, bracket))


_ELEMENT = _element()
# Stand for an escaped backslash and quote: these bytes are in no UTF-8.
_BACKSLASH, _QUOTE = b"\xff\xfe", b"\xff\xfd"

Prepared = tuple[bytes, int] | HttpError
"""What `to_stored` made of a body, or why it did not."""


def to_stored(body: bytes) -> tuple[bytes, int]:
    """(stored bytes, number of messages). An array is flattened one level; an empty one gives (b"", 0).

    Raises 400 INVALID_JSON, 413 JSON_TOO_LARGE.
    """
    if len(body) > MAX_BODY:
        raise HttpError(413, "JSON_TOO_LARGE", f"A JSON body may have {MAX_BODY} bytes; send the messages in several.")
    if len(body) > LONG and body.lstrip(_BLANKS)[:1] == b"[":
        return _long_array(body)
    value = _parsed(body)
    body = _minified(body)
    if type(value) is not list:
        return body + END, 1
    return _messages(body, len(value)), len(value)


def to_array(stored: bytes) -> bytes:
    """The JSON array of a stored range, on one line."""
    return b"[" + stored.replace(END, b",")[:-1] + b"]"


def count(stored: bytes) -> int:
    """The number of messages in a stored range."""
    return stored.count(b"\n")


def nth_end(stored: bytes, number: int) -> int | None:
    """Where the `number`-th message of a stored range ends, or None if there are fewer."""
    at = 0
    while (there := stored.count(b"\n", at, at + LONG)) < number:  # most are only counted: there can be millions
        number, at = number - there, at + LONG
        if at >= len(stored):
            return None
    for _ in range(number):
        at = stored.index(b"\n", at) + 1
    return at


def prepare(body: bytes) -> Prepared:
    """For another thread: no call in it that holds the others up takes long, but for one message that is large."""
    try:
        return to_stored(body)
    except HttpError as error:
        return error


def taken(body: bytes, prepared: Prepared | None) -> tuple[bytes, int]:
    """Like `to_stored`, which may have been done before."""
    if prepared is None:
        return to_stored(bytes(body))
    if isinstance(prepared, HttpError):
        raise prepared
    return prepared


def _long_array(body: bytes) -> tuple[bytes, int]:
    """Piece by piece, cut at commas between elements. If each piece is a list of values, so is the whole."""
    begin, end = body.index(b"[") + 1, len(body.rstrip(_BLANKS)) - 1
    if end < begin or body[end] != 0x5D:
        _parsed(body)  # raises
    made: list[bytes] = []
    number = 0
    while True:
        stop = _comma(body, begin, end)
        piece = b"[%b]" % body[begin:stop]
        values = _parsed(piece, begin - 1)
        if type(values) is not list or not (values or (stop == end and not made)):
            raise HttpError(400, "INVALID_JSON", f"The body is not valid JSON: an element is missing at byte {stop}.")
        number += len(values)
        made.append(_messages(_minified(piece), len(values)))
        if stop == end:
            return b"".join(made), number
        begin = stop + 1


def _comma(body: bytes, begin: int, end: int) -> int:
    """The first comma between elements a piece behind `begin`, where one begins; `end` if there is none.

    Where the text is no JSON it may be any place.
    """
    at = begin + LONG
    while at < end and body[at - 1] == 0x5C:
        at += 1
    if at >= end:
        return end
    parts = _masked(body[begin:at]).split(b'"')
    if not len(parts) % 2:  # within a string
        rest = _STRING_REST.match(body, at, end)
        if rest is None:
            return end
        at = rest.end()
    outside = b"".join(parts[::2])
    depth = outside.count(b"[") + outside.count(b"{") - outside.count(b"]") - outside.count(b"}")
    found = _value_end(body, at, end, depth)
    return found if body[found] == 0x2C else end


def _value_end(text: bytes, at: int, end: int, depth: int = 0) -> int:
    """Where the value ends (with a comma or a closing bracket) in which `at` is, `depth` brackets deep."""
    for match in _STRUCTURE.finditer(text, at, end):
        token = text[match.start()]
        if token in b"[{":
            depth += 1
        elif depth == 0 and token in b",]}":
            return match.start()
        elif token in b"]}":
            depth -= 1
    return end


def _minified(text: bytes) -> bytes:
    """Without the white space between tokens of a valid text."""
    if not any(blank in text for blank in (b" ", b"\n", b"\t", b"\r")):
        return text
    parts = _masked(text).split(b'"')
    parts[::2] = [part.translate(None, _BLANKS) for part in parts[::2]]
    made = b'"'.join(parts)
    return made.replace(_QUOTE, b'\\"').replace(_BACKSLASH, b"\\\\") if b"\\" in text else made


def _masked(text: bytes) -> bytes:
    """So that every quote left begins or ends a string."""
    return text.replace(b"\\\\", _BACKSLASH).replace(b'\\"', _QUOTE) if b"\\" in text else text


def _messages(array: bytes, number: int) -> bytes:
    """The stored form of the elements of a minified array, which has so many."""
    if number < 2:
        return array[1:-1] + END if number else b""
    if b'"' not in array and b"{" not in array and array.count(b"[") == 1:
        return array[1:-1].replace(b",", END) + END
    return END.join(_elements(array)) + END


def _elements(array: bytes) -> list[bytes]:
    """Byte for byte."""
    last = len(array) - 1
    made: list[bytes] = _ELEMENT.findall(array, 1, last)
    if b",".join(made) == array[1:-1]:
        return made
    made, at = [], 1  # some are nested deeper
    while at < last:
        end = _value_end(array, at, last)
        made.append(array[at:end])
        at = end + 1
    return made


def _parsed(text: bytes, offset: int = 0) -> Any:
    """Its value. `offset`: where in the body it begins. Raises 400 INVALID_JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return _second_opinion(text, f"{error.msg} near byte {offset + error.pos}" if offset else str(error))


def _second_opinion(body: bytes, problem: str) -> object:
    """orjson refuses numbers beyond a double and lone surrogates, which are valid JSON: ask the standard library."""
    try:
        text = body.decode("utf-8")
        return json.loads(text, parse_constant=_refuse, parse_int=str, parse_float=str)
    except UnicodeDecodeError:
        raise HttpError(400, "INVALID_JSON", "The body is not valid UTF-8, which JSON must be.") from None
    except (ValueError, RecursionError):
        raise HttpError(400, "INVALID_JSON", f"The body is not valid JSON: {problem}.") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
