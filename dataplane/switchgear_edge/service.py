"""The public handler: which route, may it, where to; then the relay.

What it must not do: anything for a data-plane request before the secret is known to be good, but to say which of path,
secret or `source_id` is missing. Order: authenticate → the request without the secret → the pod. The few requests that
bring a wake's token instead (`openings`) go on with that token, and the pod checks it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from switchgear_edge import answers, credentials, headers, openings
from switchgear_edge.metrics import EdgeMetrics
from switchgear_edge.paths import Family, Target, resolve
from switchgear_edge.relay import Relay
from switchgear_edge.routes import Route, RouteTable
from switchgear_model import kinds
from switchgear_wire import AnyResponse, Request, Response

_HEALTH = b"content-type: application/json\r\ncache-control: no-store\r\n"
_CLOSED = {kinds.SUSPENDED: answers.SUSPENDED, kinds.DELETING: answers.DELETING}


class Edge:
    """`synced` says whether the routes are known yet."""

    def __init__(self, table: RouteTable, relay: Relay, metrics: EdgeMetrics, synced: Callable[[], bool]) -> None:
        self._table = table
        self._relay = relay
        self._metrics = metrics
        self._synced = synced

    def handle(self, request: Request) -> AnyResponse | Awaitable[AnyResponse]:
        target = resolve(request.path)
        family = target.family
        if request.method == "OPTIONS" and family is not Family.NONE:
            answer: AnyResponse = Response(204, headers.preflight(family, request.headers.get(b"origin")))
        elif family is Family.SHAPE or family is Family.STREAM:
            passed = self._authenticate(request, target)
            if not isinstance(passed, Response):
                return passed
            answer = passed
        else:
            answer = self._own(request, family)
        self._metrics.count(family, answer.status)
        return answer

    def _own(self, request: Request, family: Family) -> Response:
        origin = request.headers.get(b"origin")
        if family is Family.NONE or request.method not in ("GET", "HEAD"):
            return answers.NOT_FOUND.to(family, origin)
        block = headers.cors(family, origin)
        if family is Family.ROOT:
            return Response(200, block)
        if self._synced():
            return Response(200, _HEALTH + block, b'{"status":"active"}')
        return Response(503, _HEALTH + answers.retry_after(1) + block, b'{"status":"starting"}')

    def _authenticate(self, request: Request, target: Target) -> Response | Coroutine[Any, Any, AnyResponse]:
        """The exchange with the pod, or why there is none."""
        family = target.family
        origin = request.headers.get(b"origin")
        if not self._synced():
            return answers.STARTING.to(family, origin)
        presented = credentials.read(request.query, request.headers.get(b"authorization"))
        if openings.is_open(request.method, target):
            return self._by_token(request, target, presented)
        if presented.secret is None:
            return answers.MISSING_SECRET.to(family, origin)
        service_id = presented.source_id if family is Family.SHAPE else target.service_id
        if not service_id:
            return answers.MISSING_SOURCE_ID.to(family, origin)
        route = self._table.find(service_id)
        if route is not None and route.family is not family:
            route = None
        hashes = credentials.NO_HASHES if route is None else route.service.hashes
        good = credentials.accepts(hashes, presented.secret, time.time())
        if not good or route is None:
            return answers.INVALID_SECRET.to(family, origin)
        refusal = _unusable(route) or _unforwardable(request)
        if refusal is not None:
            return refusal.to(family, origin)
        return self._forward(request, route, target.path, presented.query, route.authorization)

    def _by_token(
        self, request: Request, target: Target, presented: credentials.Presented
    ) -> Response | Coroutine[Any, Any, AnyResponse]:
        """The exchange for a request whose credential the pod checks: neither secret nor pod key go with it."""
        origin = request.headers.get(b"origin")
        route = self._table.find(target.service_id)
        if route is None or route.family is not Family.STREAM:
            refusal = answers.MISSING_SECRET if presented.secret is None else answers.INVALID_SECRET
            return refusal.to(target.family, origin)
        unfit = _unusable(route) or _unforwardable(request)
        if unfit is not None:
            return unfit.to(target.family, origin)
        token = credentials.bearer(request.headers.get(b"authorization"))
        if token is not None and credentials.accepts(route.service.hashes, token, time.time()):
            token = None
        passed = None if token is None else b"Bearer " + token
        return self._forward(request, route, target.path, presented.query, passed)

    async def _forward(
        self, request: Request, route: Route, path: bytes, query: bytes, authorization: bytes | None
    ) -> AnyResponse:
        answer = await self._relay.forward(request, route, path, query, authorization)
        self._metrics.count(route.family, answer.status)
        return answer


def _unusable(route: Route) -> answers.Refusal | None:
    if route.service.closed:
        return _CLOSED[route.service.closed]
    return None if route.address is not None else answers.NOT_READY


def _unforwardable(request: Request) -> answers.Refusal | None:
    """What HTTP leaves open to two readings is not passed on."""
    if request.method in ("TRACE", "CONNECT"):  # the first would echo the pod's key
        return answers.BAD_METHOD
    encoding = request.headers.get(b"transfer-encoding")
    if encoding is not None and encoding.strip().lower() != b"chunked":
        return answers.BAD_ENCODING
    host = request.headers.get(b"host")
    if (host is None and not request.http10) or (host is not None and (b"," in host or b" " in host)):
        return answers.BAD_HOST
    return None
