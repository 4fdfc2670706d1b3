"""The edge's own answers: their status, code and words, and what each tells the client to do next. Pure.

Invariant: two refusals of the same code are the same bytes but for the echoed Origin, whoever asked for what.
"""

from __future__ import annotations

import orjson

from switchgear_edge import headers
from switchgear_edge.paths import Family
from switchgear_wire import Response
from switchgear_wire.upstream import (
    SAFE_METHODS,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)

_JSON = b"content-type: application/json\r\ncache-control: no-store\r\n"
_CHALLENGE = b"www-authenticate: Bearer\r\n"


def retry_after(seconds: int) -> bytes:
    return b"retry-after: %d\r\n" % seconds


class Refusal:
    """A prepared error: everything but the CORS lines, which echo the request's Origin."""

    __slots__ = ("_body", "_headers", "code", "status")

    def __init__(self, status: int, code: str, message: str, extra: bytes = b"") -> None:
        self.status = status
        self.code = code
        self._headers = _JSON + extra
        self._body = orjson.dumps({"code": code, "message": message})

    def to(self, family: Family, origin: bytes | None) -> Response:
        return Response(self.status, self._headers + headers.cors(family, origin), self._body)


MISSING_SECRET = Refusal(
    401,
    "MISSING_SECRET",
    "This needs the service's secret: as the query parameter `secret`, or as `Authorization: Bearer <secret>`.",
    _CHALLENGE,
)
INVALID_SECRET = Refusal(401, "INVALID_SECRET", "There is no service with this id and this secret.", _CHALLENGE)
MISSING_SOURCE_ID = Refusal(
    400, "MISSING_SOURCE_ID", "Say which service is meant with the query parameter `source_id`."
)
NOT_FOUND = Refusal(
    404,
    "NOT_FOUND",
    "There is nothing here; see /v1/shape, /v1/stream/<service id>/… and /v1/yjs/<service id>/….",
)
STARTING = Refusal(503, "STARTING", "The edge has just started and knows no services yet.", retry_after(1))
NOT_READY = Refusal(503, "SERVICE_UNAVAILABLE", "The service is not running at the moment.", retry_after(2))
SUSPENDED = Refusal(503, "SERVICE_UNAVAILABLE", "The service is suspended.", retry_after(30))
DELETING = Refusal(503, "SERVICE_UNAVAILABLE", "The service is being deleted.", retry_after(30))
STOPPING = Refusal(503, "EDGE_STOPPING", "This edge is stopping; ask again for another one.", retry_after(1))
OVERLOADED = Refusal(503, "TOO_MANY_REQUESTS_IN_FLIGHT", "The service has too many requests at once.", retry_after(1))
UNREACHABLE = Refusal(503, "SERVICE_UNAVAILABLE", "The service cannot be reached at the moment.", retry_after(1))
OUTCOME_UNKNOWN = Refusal(
    502,
    "OUTCOME_UNKNOWN",
    "The service was lost before it answered: the request may have had its effect or not. Check before repeating it.",
)
BAD_ANSWER = Refusal(502, "BAD_UPSTREAM_ANSWER", "The service's answer was no valid HTTP.")
NO_ANSWER = Refusal(504, "UPSTREAM_TIMEOUT", "The service did not answer in time.")
BAD_HEADERS = Refusal(400, "BAD_REQUEST", "The URL or a header has a byte in it that none may have.")
BAD_HOST = Refusal(400, "BAD_HOST", "Send exactly one Host header.")
BAD_METHOD = Refusal(
    405, "METHOD_NOT_ALLOWED", "This method is not served.", b"allow: GET, HEAD, POST, PUT, DELETE, OPTIONS\r\n"
)
BAD_ENCODING = Refusal(501, "UNSUPPORTED_TRANSFER_ENCODING", "The only transfer-encoding known here is `chunked`.")


def for_failure(error: UpstreamError, method: str) -> Refusal:
    """What to answer when the exchange with the pod failed before there was an answer to pass on."""
    if isinstance(error, UpstreamUnavailable) and not error.sent:
        return UNREACHABLE
    if method not in SAFE_METHODS:
        return OUTCOME_UNKNOWN
    if isinstance(error, UpstreamTimeout):
        return NO_ANSWER
    return BAD_ANSWER if isinstance(error, UpstreamProtocolError) else UNREACHABLE
