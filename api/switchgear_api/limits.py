"""What keeps one caller from taking the whole process: a bound on bodies, and headers every answer carries.

Pure ASGI, around everything, so that it also holds for requests that no route takes.
"""

from __future__ import annotations

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 1_048_576
_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
]
_TOO_LARGE = orjson.dumps(
    {"code": "BODY_TOO_LARGE", "message": f"The body may have at most {MAX_BODY_BYTES} bytes. Send a smaller one."}
)


class Limits:
    """ASGI middleware: 413 for bodies over MAX_BODY_BYTES; no-store and the usual safety headers on all answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > MAX_BODY_BYTES:
            await _refuse(_with_headers(send))
            return
        exchange = _Exchange(receive, _with_headers(send))
        await self._app(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request whose body has no length in advance. When it grows too large the application's own answer (it sees
    a body that ends early) gives way to 413."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._taken = 0
        self._refused = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._taken += len(message.get("body", b""))
            if self._taken > MAX_BODY_BYTES:
                return {"type": "http.request", "body": b"", "more_body": False}
        return message

    async def send(self, message: Message) -> None:
        if self._taken <= MAX_BODY_BYTES:
            await self._send(message)
        elif not self._refused:
            self._refused = True
            await _refuse(self._send)


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_HEADERS]
        await send(message)

    return wrapped


async def _refuse(send: Send) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(_TOO_LARGE)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": _TOO_LARGE})
