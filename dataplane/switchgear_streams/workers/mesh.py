"""How the workers of one server speak to each other: messages in order, questions with answers, connections.

What it must not do: know what is said. Invariants: what one worker sends to another arrives whole and in that order;
a worker that takes nothing any more, or is gone, ends this one, for they are one server.
"""

from __future__ import annotations

import array
import asyncio
import errno
import inspect
import logging
import marshal
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from switchgear_wire.errors import HttpError

log = logging.getLogger("switchgear.streams.workers")

_PIECE = 65_536
_MORE, _LAST = b"\0", b"\1"
MOST_WAITING = 512 * 1_048_576
"""Bytes that wait for one worker."""
ANSWER_SECONDS = 60.0
_MESSAGES_AT_ONCE = 64
_PAUSE = 0.01

Handler = Callable[[int, Any, int], Any]
"""(worker that sent it, what it sent, the descriptor that came along or -1) → what a question gets; may be awaited."""


class Link:
    """The socket to one other worker."""

    def __init__(self, sock: socket.socket, receive: Callable[[bytes, int], None], lost: Callable[[str], None]) -> None:
        self._sock = sock
        self._receive = receive
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._size = 0
        self._parts: list[bytes] = []
        self._fd = -1
        self._pausing = False
        self.closed = False
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, message: bytes, fd: int = -1) -> None:
        """Takes over `fd`. To one that is gone, nothing is sent."""
        if self.closed:
            if fd >= 0:
                os.close(fd)
            return
        for at in range(0, len(message), _PIECE):
            flag = _LAST if at + _PIECE >= len(message) else _MORE
            self._waiting.append((flag + message[at : at + _PIECE], fd if at == 0 else -1))
            self._size += min(_PIECE, len(message) - at)
        if self._size > MOST_WAITING:
            self._lost("takes no messages any more")
        else:
            self._flush()

    def _flush(self) -> None:
        if self.closed or self._pausing:
            return
        while self._waiting:
            packet, fd = self._waiting[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd >= 0 else []
            try:
                self._sock.sendmsg([packet], rights)
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._flush)
                return
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:  # so many connections are under way already
                    self._pausing = True
                    self._loop.call_later(_PAUSE, self._resume)
                else:
                    self._lost(str(error))
                return
            self._waiting.popleft()
            self._size -= len(packet) - 1
            if fd >= 0:
                os.close(fd)
        self._loop.remove_writer(self._sock.fileno())

    def _resume(self) -> None:
        self._pausing = False
        self._flush()

    def _readable(self) -> None:
        for _ in range(_MESSAGES_AT_ONCE):
            try:
                packet, rights, _, _ = self._sock.recvmsg(_PIECE + 1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError as error:
                self._lost(str(error))
                return
            if not packet:
                self._lost("is gone")
                return
            for _, _, raw in rights:
                self._fd = array.array("i", raw)[0]
            self._parts.append(packet[1:])
            if packet[:1] == _LAST:
                message = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
                fd, self._fd = self._fd, -1
                self._parts = []
                self._receive(message, fd)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for _, fd in self._waiting:
            if fd >= 0:
                os.close(fd)


class Mesh:
    """This worker among the others. `sockets`: by their number."""

    def __init__(self, index: int, sockets: dict[int, socket.socket], lost: Callable[[int, str], None]) -> None:
        self.index = index
        self.count = len(sockets) + 1
        self._handlers: dict[str, Handler] = {}
        self._asked: dict[int, tuple[int, asyncio.Future[Any]]] = {}
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._links = {
            peer: Link(sock, self._receiver(peer), self._loser(peer, lost)) for peer, sock in sockets.items()
        }

    @property
    def peers(self) -> list[int]:
        return list(self._links)

    def on(self, kind: str, handler: Handler) -> None:
        """Who gets messages of a kind. Everything must be said before anything can come in."""
        self._handlers[kind] = handler

    def send(self, peer: int, kind: str, value: Any, fd: int = -1) -> None:
        """`value`: of plain types. Takes over `fd`."""
        self._links[peer].send(marshal.dumps((kind, 0, value)), fd)

    async def ask(self, peer: int, kind: str, value: Any) -> Any:
        """Raises HttpError: what the handler raised there, 503 when no answer comes."""
        self._number += 1
        number = self._number
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        link = self._links[peer]
        if link.closed:
            raise _gone()
        self._asked[number] = (peer, future)
        link.send(marshal.dumps((kind, number, value)))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await future
        except TimeoutError:
            raise HttpError(503, "WORKER_BUSY", "A part of the server does not answer; try again.") from None
        finally:
            self._asked.pop(number, None)

    async def ask_all(self, kind: str, value: Any) -> list[Any]:
        """Of every other worker."""
        return list(await asyncio.gather(*(self.ask(peer, kind, value) for peer in self._links)))

    def close(self) -> None:
        for link in self._links.values():
            link.close()
        for task in self._tasks:
            task.cancel()

    def _receiver(self, peer: int) -> Callable[[bytes, int], None]:
        return lambda message, fd: self._receive(peer, message, fd)

    def _loser(self, peer: int, lost: Callable[[int, str], None]) -> Callable[[str], None]:
        def told(problem: str) -> None:
            self._links[peer].close()
            for at, future in self._asked.values():
                if at == peer and not future.done():
                    future.set_exception(_gone())
            lost(peer, problem)

        return told

    def _receive(self, peer: int, message: bytes, fd: int) -> None:
        kind, number, value = marshal.loads(message)  # noqa: S302 - of this server's own processes
        if number < 0:
            asked = self._asked.get(-number)
            if asked is not None and not asked[1].done():
                self._answered(asked[1], value)
            return
        try:
            result = self._handlers[kind](peer, value, fd)
        except Exception as error:
            self._failed(peer, kind, number, error)
            return
        if inspect.isawaitable(result):
            task = asyncio.ensure_future(self._reply_later(peer, kind, number, result))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif number:
            self._links[peer].send(marshal.dumps((kind, -number, (True, result))))

    async def _reply_later(self, peer: int, kind: str, number: int, result: Any) -> None:
        try:
            value = await result
        except Exception as error:
            self._failed(peer, kind, number, error)
            return
        if number:
            self._links[peer].send(marshal.dumps((kind, -number, (True, value))))

    def _failed(self, peer: int, kind: str, number: int, error: Exception) -> None:
        if isinstance(error, HttpError):
            told = (error.status, error.code, error.message)
        else:
            log.error("cannot do %s for worker %d", kind, peer, exc_info=error)
            told = (500, "INTERNAL", "Internal server error")
        if number:
            self._links[peer].send(marshal.dumps((kind, -number, (False, told))))

    @staticmethod
    def _answered(future: asyncio.Future[Any], value: tuple[bool, Any]) -> None:
        good, result = value
        if good:
            future.set_result(result)
        else:
            future.set_exception(HttpError(*result))


def _gone() -> HttpError:
    return HttpError(503, "STOPPING", "The server is stopping; come back.", b"retry-after: 1\r\n")
