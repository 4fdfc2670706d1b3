"""The errors a handler may raise or meet. Each HTTP one carries its status and a stable code."""

from __future__ import annotations


class HttpError(Exception):
    """Answered as JSON `{"code": code, "message": message}` with `status`; `headers` is a prebuilt header block."""

    def __init__(self, status: int, code: str, message: str, headers: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers


class BodyTooLarge(HttpError):
    """The request body is larger than the handler allows."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, "BODY_TOO_LARGE", f"The request body is larger than {limit} bytes; send less at once.")
        self.limit = limit


class ClientGone(Exception):
    """The client closed the connection, or stalled beyond its limit; there is nobody left to answer."""


class BodyBroken(ClientGone):
    """The request's body is malformed, or ended or stalled before it was whole. An answer may still be read."""
