"""A listening socket, its connections and their limits, and the way it stops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

from switchgear_wire.clock import SWEEP_SECONDS, Clock
from switchgear_wire.connection import Connection
from switchgear_wire.handover import Arrival
from switchgear_wire.heads import Heads
from switchgear_wire.metrics import Counter
from switchgear_wire.request import Request
from switchgear_wire.response import Handler
from switchgear_wire.sending import Outgoing

INBOX_BYTES = 262_144
BACKLOG = 4096


@dataclass(frozen=True)
class Limits:
    """Bounds of one listener: sizes in bytes, times in seconds."""

    max_head_bytes: int = 262_144
    """Also of what surrounds a chunked body: trailers, extensions of chunks."""
    max_headers: int = 500
    max_connections: int = 20_000
    head_timeout: float = 30.0
    """From the first byte of a request (or the accepted connection) to the end of its head."""
    idle_timeout: float = 75.0
    """A kept-alive connection without a request; above a balancer's usual 60 s: the balancer closes first."""
    body_stall_timeout: float = 60.0
    write_stall_timeout: float = 30.0
    """A client that takes no byte of what is buffered for it."""
    high_water: int = 1_048_576
    """Where a request body stops being read, and `Writer.drain` starts to wait."""


class Server:
    """One listener. `port` is the bound one (useful with port 0)."""

    def __init__(
        self,
        handler: Handler,
        limits: Limits,
        error_headers: Callable[[Request | None], bytes],
        *,
        remember_heads: bool = False,
    ) -> None:
        self.handler = handler
        self.limits = limits
        self.error_headers = error_headers
        self.inbox = memoryview(bytearray(INBOX_BYTES))
        """What its connections receive into, one at a time."""
        self.heads = Heads() if remember_heads else None
        self.outgoing = Outgoing()
        self.requests = Counter()
        self.refused = Counter()
        self.draining = False
        self.port = 0
        self._clock = Clock()
        self.now = 0.0
        """What it shows."""
        self.shared = False
        """May connections go on in another process?"""
        self._connections: set[Connection] = set()
        self._listener: asyncio.Server | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._empty: asyncio.Event = asyncio.Event()

    @property
    def connections(self) -> int:
        return len(self._connections)

    async def start(self, host: str, port: int, sock: socket.socket | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.now = self._clock.tick(loop.time())
        if sock is None:
            self._listener = await loop.create_server(lambda: Connection(self), host, port, backlog=BACKLOG)
        else:
            self._listener = await loop.create_server(lambda: Connection(self), sock=sock, backlog=BACKLOG)
        self.port = self._listener.sockets[0].getsockname()[1]
        for sock in self._listener.sockets:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tick()

    async def adopt(self, fd: int, arrival: Arrival) -> None:
        """Go on with a connection of another process. Raises OSError."""
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        self.now = self.now or self._clock.tick(loop.time())  # it may come before anybody listens here
        await loop.connect_accepted_socket(lambda: Connection(self, arrival), sock)

    def accept(self, connection: Connection) -> bool:
        if (self.draining and connection.arrival is None) or len(self._connections) >= self.limits.max_connections:
            self.refused.value += 1
            return False
        self._connections.add(connection)
        return True

    def lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self.now = now = self._clock.tick(loop.time())
        stall = self.limits.write_stall_timeout
        for connection in list(self._connections):
            connection.check(now, stall)
        if self.heads is not None:
            self.heads.sweep(now)
        self._sweep = loop.call_later(SWEEP_SECONDS, self._tick)

    async def drain(self, grace: float) -> None:
        """Stop accepting, close idle connections, give those at work `grace` seconds, then cut them."""
        self.draining = True
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections):
            if connection.idle:
                connection.transport.close()
        self._empty.clear()
        if self._connections:
            try:
                await asyncio.wait_for(self._empty.wait(), grace)
            except TimeoutError:
                for connection in list(self._connections):
                    connection.abort()
        self.close()

    def close(self) -> None:
        """Close everything now."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections):
            connection.abort()


async def serve(
    handler: Handler,
    host: str,
    port: int,
    *,
    limits: Limits | None = None,
    error_headers: Callable[[Request | None], bytes] = lambda request: b"",
    remember_heads: bool = False,
) -> Server:
    """Listen on host:port. `error_headers` go on the answers that wire itself makes (CORS, say). Raises OSError.

    `remember_heads`: header fields, with the secrets in them, stay in memory for a minute or two, to be parsed once.
    """
    server = Server(handler, limits or Limits(), error_headers, remember_heads=remember_heads)
    await server.start(host, port)
    return server
