"""One authenticated request's exchange with its pod: bytes up, bytes down, at the pace of the slower side.

Invariants: a client that goes away ends the exchange with the pod at once; a body that the pod did not finish is never
finished for the client; what waits in memory for one client is bounded by the sockets' high-water marks; a service has
at most `max_per_service` requests at its pods.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from switchgear_edge import answers, headers
from switchgear_edge.routes import Route
from switchgear_wire import AnyResponse, ClientGone, FileResponse, Request, Response, StreamResponse, Writer
from switchgear_wire.metrics import Counter
from switchgear_wire.query import parse_query
from switchgear_wire.upstream import Upstream, UpstreamError, UpstreamResponse, UpstreamUnavailable

log = logging.getLogger("switchgear.edge.relay")

# Buffered for one client beyond what the kernel takes; the listener's high-water mark must be the same.
HIGH_WATER = 131_072
WHOLE_BYTES = 65_536
"""Answers up to this length begin when they are here as a whole: there are clients that come back after an error, but
not after half a body."""
_BODY_TIMEOUT = 60.0
_EVENT_STREAM = b"text/event-stream"


class Relay:
    """Sends requests to pods over one pool of connections."""

    def __init__(
        self,
        upstream: Upstream,
        *,
        max_per_service: int,
        head_timeout: float,
        trusts: Callable[[str], bool] | None,
        failure: Callable[[str], Counter],
    ) -> None:
        self._upstream = upstream
        self._max_per_service = max_per_service
        self._head_timeout = head_timeout
        self._trusts = trusts
        self._failure = failure
        self._running: dict[str, int] = {}
        self._exchanges: set[Exchange] = set()
        self._warned = 0.0
        self.stopping = False

    @property
    def running(self) -> int:
        return len(self._exchanges)

    async def forward(
        self, request: Request, route: Route, path: bytes, query: bytes, authorization: bytes | None
    ) -> AnyResponse:
        """The pod's answer, or one that says why there is none. Raises ClientGone.

        `authorization`: the route's, or what a request without the service's secret brought itself.
        """
        origin = request.headers.get(b"origin")
        service_id = route.service.service_id
        if self._running.get(service_id, 0) >= self._max_per_service:
            return answers.OVERLOADED.to(route.family, origin)
        exchange = Exchange(self, request, route, live=is_live(request.method, query))
        try:
            answer = await self._exchange(exchange, path + b"?" + query if query else path, authorization)
        except UpstreamError as error:
            exchange.done()
            self.failed(route, error)
            return answers.for_failure(error, request.method).to(route.family, origin)
        except ValueError:
            exchange.done()
            return answers.BAD_HEADERS.to(route.family, origin)
        except BaseException:
            exchange.done()
            if exchange.stopped and not request.closed:
                return answers.STOPPING.to(route.family, origin)
            raise
        if exchange.response is None or request.closed:  # nothing left to pass on, or nobody to pass it to
            exchange.drop()
        return answer

    async def _exchange(self, exchange: Exchange, target: bytes, authorization: bytes | None) -> AnyResponse:
        request, route = exchange.request, exchange.route
        assert route.address is not None
        host, port = route.address
        received = request.headers
        sent = headers.to_pod(
            request.header_list,
            connection=received.get(b"connection"),
            host=received.get(b"host") or b"%b:%d" % (host.encode(), port),
            authorization=authorization,
            peer=request.peer,
            trusts=self._trusts,
        )
        empty = b"" if request.content_length == 0 else None
        body = request.body_now() if request.has_body else empty
        response = await self._upstream.request(
            host,
            port,
            request.method,
            target,
            sent,
            request.chunks() if body is None and request.has_body else body,
            content_length=request.content_length,
            head_timeout=self._head_timeout,
            body_timeout=None if exchange.live else _BODY_TIMEOUT,
        )
        if response.status == 401 and authorization is route.authorization:
            # The pod refuses the region's key: not the user's fault, and it may pass (a key that is being changed, an
            # address that has just become another pod's).
            response.abort()
            raise UpstreamUnavailable("the pod refuses the region key", sent=False)
        block = headers.to_client(response.headers, route.family, received.get(b"origin"))
        if request.method == "HEAD":
            return _headless(response, block)
        whole = response.body_now()
        if whole is None and response.content_length is not None and response.content_length <= WHOLE_BYTES:
            whole = await response.whole()
        if whole is not None:
            return Response(response.status, block, whole)
        exchange.response = response
        return StreamResponse(response.status, block, exchange.start, response.content_length)

    def add(self, exchange: Exchange, service_id: str) -> None:
        self._exchanges.add(exchange)
        self._running[service_id] = self._running.get(service_id, 0) + 1

    def remove(self, exchange: Exchange, service_id: str) -> None:
        self._exchanges.discard(exchange)
        left = self._running[service_id] - 1
        if left:
            self._running[service_id] = left
        else:
            del self._running[service_id]

    def failed(self, route: Route, error: UpstreamError) -> None:
        self._failure(type(error).__name__).inc()
        now = time.monotonic()
        if now - self._warned >= 1.0:  # a dead pod with many clients must not fill the disk
            self._warned = now
            log.warning("service %s at %s: %s", route.service.service_id, route.address, error)

    def stop_live(self) -> None:
        """End what would only end by itself after its clients: waiting long-polls and event streams."""
        self.stopping = True
        for exchange in list(self._exchanges):
            exchange.stop()


class Exchange:
    """One request on its way. `done` must be called once it is over."""

    __slots__ = (
        "_finished",
        "_relay",
        "_resuming",
        "_task",
        "_writer",
        "live",
        "request",
        "response",
        "route",
        "stopped",
    )

    def __init__(self, relay: Relay, request: Request, route: Route, *, live: bool) -> None:
        self._relay = relay
        self._task = asyncio.current_task()
        self._writer: Writer | None = None
        self._resuming: asyncio.Task[None] | None = None
        self._finished = False
        self.request = request
        self.route = route
        self.live = live
        self.stopped = False
        self.response: UpstreamResponse | None = None
        relay.add(self, route.service.service_id)
        if self._task is not None:
            request.on_close(self._cancel)

    def done(self) -> None:
        if not self._finished:
            self._finished = True
            self._task = None
            self._relay.remove(self, self.route.service.service_id)

    def drop(self) -> None:
        if self.response is not None:
            self.response.abort()
        self.done()

    def _cancel(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()

    def start(self, writer: Writer) -> None:
        """The head is out: pass on the body."""
        assert self.response is not None
        self._task = None
        self._writer = writer
        writer.on_close(self._client_gone)
        self.response.pipe(self._piece, self._end)
        if self._relay.stopping:
            self.stop()

    def _piece(self, data: bytes) -> None:
        writer = self._writer
        assert writer is not None
        writer.write(data)
        if writer.buffered > HIGH_WATER and self.response is not None and not writer.closed:
            self.response.pause()
            if self._resuming is None:
                self._resuming = asyncio.ensure_future(self._resume(writer))

    async def _resume(self, writer: Writer) -> None:
        try:
            await writer.drain()
        except ClientGone:
            return
        finally:
            self._resuming = None
        if self.response is not None:
            self.response.resume()

    def _end(self, error: UpstreamError | None) -> None:
        writer = self._writer
        assert writer is not None
        if error is None:
            writer.finish()
        else:
            if not writer.closed:
                self._relay.failed(self.route, error)
            writer.abort()
        self.done()

    def _client_gone(self) -> None:
        if self._resuming is not None:
            self._resuming.cancel()
        self.drop()

    def stop(self) -> None:
        """The edge is stopping. An event stream may end anywhere: its reader drops an unfinished event and returns."""
        if not self.live or self._finished:
            return
        self.stopped = True
        if self._writer is None:
            self._cancel()
        elif self.response is not None and self._is_event_stream():
            self.response.abort()
            self._writer.finish()
            self.done()

    def _is_event_stream(self) -> bool:
        assert self.response is not None
        return any(n == b"content-type" and v.startswith(_EVENT_STREAM) for n, v in self.response.headers)


def is_live(method: str, query: bytes) -> bool:
    """Whether this is a read that waits for what has not happened yet (a long-poll or an event stream)."""
    if method not in ("GET", "HEAD") or (b"live" not in query and b"%" not in query):
        return False
    said = {name: value for name, value in parse_query(query) if name in ("live", "live_sse")}
    return any(value not in ("", "false") for value in said.values())


def _headless(response: UpstreamResponse, block: bytes) -> AnyResponse:
    """The answer to HEAD: the length that GET would have, and no body."""
    if response.content_length is None:
        return StreamResponse(response.status, block, lambda writer: writer.finish())
    answer = FileResponse(response.status, block, ())
    answer.length = response.content_length
    return answer
