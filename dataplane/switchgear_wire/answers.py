"""The head of a response, and the answers that wire itself makes. Pure but for the clock in `date`."""

from __future__ import annotations

import time
from email.utils import formatdate

import orjson

from switchgear_wire.errors import HttpError
from switchgear_wire.response import Response, status_line

_JSON = b"content-type: application/json\r\ncache-control: no-store\r\n"
# Statuses whose responses have neither body nor content-length.
NO_BODY = frozenset({204, 304})

_date = (0, b"")


def date_header() -> bytes:
    """The `date` line, made anew once a second."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = (now, b"date: " + formatdate(now, usegmt=True).encode() + b"\r\n")
    return _date[1]


def error_response(error: HttpError) -> Response:
    """The JSON form that every error without a form of its own has."""
    return Response(error.status, _JSON + error.headers, orjson.dumps({"code": error.code, "message": error.message}))


def closing(answer: Response, extra_headers: bytes) -> bytes:
    """A whole response after which the connection is closed."""
    return (
        status_line(answer.status)
        + answer.headers
        + extra_headers
        + date_header()
        + b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(answer.body), answer.body)
    )
