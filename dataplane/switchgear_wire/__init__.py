"""HTTP/1.1 for the three data-plane servers: bytes to requests, responses to bytes.

The room knows nothing of shapes, streams or tenants. One event loop, `asyncio.Protocol` and httptools underneath,
no framework: what a request costs here is what every read and append costs.
"""

from switchgear_wire.errors import BodyBroken, BodyTooLarge, ClientGone, HttpError
from switchgear_wire.listener import Limits, Server, serve
from switchgear_wire.request import Request
from switchgear_wire.response import (
    AnyResponse,
    Deferred,
    Elsewhere,
    FileResponse,
    FileSlice,
    Handler,
    Outcome,
    Response,
    StreamResponse,
    Writer,
    frame,
    header_block,
)

__all__ = [
    "AnyResponse",
    "BodyBroken",
    "BodyTooLarge",
    "ClientGone",
    "Deferred",
    "Elsewhere",
    "FileResponse",
    "FileSlice",
    "Handler",
    "HttpError",
    "Limits",
    "Outcome",
    "Request",
    "Response",
    "Server",
    "StreamResponse",
    "Writer",
    "frame",
    "header_block",
    "serve",
]
