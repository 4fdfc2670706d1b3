"""One request on its way to an answer: what it has so far, and the steps that every way to an answer shares."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from functools import lru_cache

from switchgear_shapes import answers
from switchgear_shapes.admission import Permit
from switchgear_shapes.errors import ShapeError
from switchgear_shapes.parameters import Query
from switchgear_shapes.request import ShapeRequest, parse
from switchgear_wire import AnyResponse, ClientGone, Deferred, Request, Response
from switchgear_wire.query import parse_query

log = logging.getLogger("switchgear.shapes.api")

CACHED_QUERY_BYTES = 2048

Answer = AnyResponse | Deferred | Awaitable[AnyResponse]


class Call:
    """One request on its way to an answer. `permit` is its leave to wait, once it has one."""

    __slots__ = ("base", "live", "permit", "request", "started")

    def __init__(self, request: Request, base: bytes) -> None:
        self.request = request
        self.base = base
        self.permit: Permit | None = None
        self.live = False
        self.started = time.perf_counter()


def parsed(raw: bytes) -> tuple[Query, ShapeRequest | ShapeError]:
    """The query, and what it asks for or what is wrong with it."""
    return _remembered(raw) if len(raw) <= CACHED_QUERY_BYTES else _parse(raw)


def _parse(raw: bytes) -> tuple[Query, ShapeRequest | ShapeError]:
    query = Query(parse_query(raw, "surrogateescape"))
    try:
        return query, parse(query)
    except ShapeError as error:
        return query, error


_remembered = lru_cache(maxsize=4096)(_parse)


async def settled(answer: Answer) -> AnyResponse:
    """Raises ClientGone."""
    if not isinstance(answer, Deferred):
        return answer if isinstance(answer, AnyResponse) else await answer
    found: asyncio.Future[AnyResponse | None] = asyncio.get_running_loop().create_future()
    answer.listen(lambda response: None if found.done() else found.set_result(response))
    response = await found
    if response is None:
        raise ClientGone
    return response


def unexpected(call: Call, error: Exception) -> Response:
    """A fault of this server: the client learns only that."""
    request = call.request
    log.error("unexpected error in %s %s", request.method, request.path, exc_info=error)
    return answers.error_response(request, call.base, ShapeError(500, {"error": "Internal server error"}))


def not_found(base: bytes) -> Response:
    return Response(404, base + b"content-type: text/plain; charset=utf-8\r\n" + answers.DEFAULT_CACHE, b"Not found")


def close(work: Awaitable[AnyResponse]) -> None:
    """It will not be awaited."""
    ending = getattr(work, "close", None)
    if ending is not None:
        ending()
