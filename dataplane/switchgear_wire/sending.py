"""The sending half of a connection: heads, bodies in memory, file slices, and the wait for a client that is slow.

What it must not do: read the socket, or know which request comes next (`connection` does).
Invariant: what is written to the transport is in the order of the requests; a body that cannot be sent whole ends the
connection, so that the client sees it.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from typing import TYPE_CHECKING, cast

from switchgear_wire.answers import NO_BODY, date_header
from switchgear_wire.errors import ClientGone
from switchgear_wire.files import send_parts, send_short
from switchgear_wire.request import Request
from switchgear_wire.response import FileResponse, Response, status_line

if TYPE_CHECKING:
    from switchgear_wire.listener import Server

log = logging.getLogger("switchgear.wire")

# Of a body that nobody reads any more, this much is thrown away to keep the connection; beyond it the connection goes.
MAX_DISCARDED = 262_144
IN_A_ROW = 32


class Outgoing:
    """What the connections of a listener send in a row: what was answered in one turn of the loop, or some of it.

    A client on another core is woken when something comes, which costs the sender more than the sending when it happens
    for each answer; in a row, most clients are still awake. The first ones are not to wait for all of a large number.
    """

    __slots__ = ("_due", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[tuple[Sending, Request, Response | FileResponse]] = []
        self._due = False

    def add(self, connection: Sending, request: Request, response: Response | FileResponse) -> None:
        """Until it is sent, the connection's next request waits."""
        self._waiting.append((connection, request, response))
        if len(self._waiting) >= IN_A_ROW:
            self._send()
        elif not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._send_due)

    def _send_due(self) -> None:
        self._due = False
        self._send()

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for connection, request, response in waiting:
            try:
                connection.send_now(request, response)
            except Exception:  # the others' answers must go out
                log.exception("cannot answer %s %s", request.method, request.path)
                connection.abort()


class Sending(asyncio.BufferedProtocol):
    """See the module."""

    __slots__ = ("_drain_waiter", "_lost", "_server", "transport", "write_paused")

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lost = False
        self._drain_waiter: asyncio.Future[None] | None = None
        self.write_paused = False
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)

    @abstractmethod
    def _finish(self, request: Request) -> None:
        """The answer is out."""

    @abstractmethod
    def _dispatch(self) -> None:
        """Handle the next request, if one waits."""

    def abort(self) -> None:
        """Cut the connection; after `connection_lost` do nothing, because a transport would report the loss twice."""
        if not self._lost:
            self.transport.abort()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._drain_waiter is not None and not self._drain_waiter.done():
            self._drain_waiter.set_result(None)
        self._dispatch()

    def _head(self, request: Request, status: int, headers: bytes, length: int | None) -> bytes:
        if (
            request.keep_alive
            and length is not None
            and request.body_complete
            and not (request.http10 or self._server.draining)
        ):
            if status not in NO_BODY:
                return b"%b%b%bcontent-length: %d\r\n\r\n" % (status_line(status), headers, date_header(), length)
            if request.method != "OPTIONS":  # preflights are told that the connection stays, as by Electric
                return b"%b%b%b\r\n" % (status_line(status), headers, date_header())
        if not request.body_complete and not self._can_discard(request):
            request.keep_alive = False
        if self._server.draining:
            request.keep_alive = False
        parts = [status_line(status), headers, date_header()]
        if length is not None:
            if status not in NO_BODY:
                parts.append(b"content-length: %d\r\n" % length)
        elif request.http10:
            request.keep_alive = False
        else:
            parts.append(b"transfer-encoding: chunked\r\n")
        parts.append(b"connection: keep-alive\r\n" if request.keep_alive else b"connection: close\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)

    def _can_discard(self, request: Request) -> bool:
        if b"expect" in request.headers:  # the client still waits for our 100, so whether a body comes is unknown
            return False
        return request.content_length is not None and request.content_length <= MAX_DISCARDED

    def _send(self, request: Request, response: Response) -> None:
        body = response.body
        head = self._head(request, response.status, response.headers, len(body))
        if body and request.method != "HEAD" and response.status not in NO_BODY:
            head += body
        self.transport.write(head)
        self._finish(request)

    def send_now(self, request: Request, response: Response | FileResponse) -> None:
        """What waited in a row."""
        if isinstance(response, FileResponse):
            self._send_short_file(request, response)
        elif not self._lost:
            self._send(request, response)
        self._dispatch()

    def _send_short_file(self, request: Request, response: FileResponse) -> None:
        """Without a task: most answers of a busy server are these."""
        silent = request.method == "HEAD" or response.status in NO_BODY
        try:
            if self._lost:
                return
            head = self._head(request, response.status, response.headers, response.length)
            if silent:
                self.transport.write(head)
            else:
                send_short(self.transport, head, response.parts)
        except OSError as error:
            log.error("cannot send a file: %s", error)
            self.abort()
            return
        finally:
            if response.on_done is not None:
                response.on_done()
        self._finish(request)

    async def _send_file(self, request: Request, response: FileResponse) -> None:
        try:
            if request.method != "HEAD" and response.status not in NO_BODY:
                await send_parts(self.transport, response.parts, self.drain, self._server.limits.write_stall_timeout)
        except (OSError, ClientGone, TimeoutError) as error:
            if isinstance(error, OSError) and not self.transport.is_closing():
                log.error("cannot send a file: %s", error)
            self.abort()
            return
        finally:
            if response.on_done is not None:
                response.on_done()
        self._finish(request)
        self._dispatch()

    async def drain(self) -> None:
        if self.transport.is_closing():
            raise ClientGone
        while self.write_paused:
            if self._drain_waiter is None:
                self._drain_waiter = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drain_waiter)
            self._drain_waiter = None
            if self.transport.is_closing():
                raise ClientGone
