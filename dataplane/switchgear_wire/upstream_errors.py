"""How an exchange with an upstream server fails, and what is known of it then. Pure."""

from __future__ import annotations


class UpstreamError(Exception):
    """The exchange failed; the message names no secret."""


class UpstreamUnavailable(UpstreamError):
    """No answer. `sent` is False if the server certainly never saw the request, so that it may be sent again."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class UpstreamTimeout(UpstreamUnavailable):
    """The head of the answer did not come in time."""


class UpstreamProtocolError(UpstreamError):
    """What came back is no HTTP/1.1 response that can be passed on."""


class UpstreamCut(UpstreamError):
    """The body ended before it was whole (or stalled beyond its limit)."""
