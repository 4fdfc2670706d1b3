"""HTTP clients that cost next to nothing: raw keep-alive sockets, blocking one at a time or many by epoll.

A client library would be measured instead of the server. Only what the measurements need is understood: responses with
a length or in chunks, no redirects, no TLS.
"""

from __future__ import annotations

import re
import select
import socket
import time
from urllib.parse import urlencode

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n")


class Answer:
    """One response: `status`, lower-case `headers`, and the body's size; the body itself when `keep` was asked for."""

    __slots__ = ("at", "body", "headers", "size", "status")

    def __init__(self, status: int, headers: dict[str, str], body: bytes, size: int, at: float) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.size = size
        self.at = at


class Connection:
    """One keep-alive connection to a shape server. `ask` then `answer`, or many at once with `answers`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = bytearray()

    def close(self) -> None:
        self.socket.close()

    def ask(self, **params: object) -> None:
        query = urlencode({name: str(value) for name, value in params.items()})
        self.socket.sendall(f"GET /v1/shape?{query} HTTP/1.1\r\nhost: bench\r\n\r\n".encode())

    def get(self, **params: object) -> Answer:
        self.ask(**params)
        return self.answer()

    def answer(self) -> Answer:
        """Wait for the next response. Raises OSError when there is none within two minutes."""
        while True:
            found = self.parsed()
            if found is not None:
                return found
            self.receive()

    def receive(self, most: int = 1 << 20) -> None:
        data = self.socket.recv(most)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._received += data

    def whole(self) -> bool:
        """Whether a whole response is here."""
        buffer = self._received
        head_end = buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return False
        length = _LENGTH.search(buffer, 0, head_end + 2)
        if length is None:
            return buffer.endswith(b"0\r\n\r\n")
        return len(buffer) >= head_end + 4 + int(length[1])

    def parsed(self) -> Answer | None:
        """The response, if all of it is here."""
        buffer = self._received
        head_end = buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return None
        lines = bytes(buffer[:head_end]).decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        start = head_end + 4
        if "content-length" in headers:
            end = start + int(headers["content-length"])
            if len(buffer) < end:
                return None
            body = bytes(buffer[start:end])
        else:
            whole = _dechunk(buffer, start)
            if whole is None:
                return None
            body, end = whole
        del buffer[:end]
        return Answer(int(lines[0].split(" ", 2)[1]), headers, body, len(body), time.perf_counter())


def _dechunk(buffer: bytearray, start: int) -> tuple[bytes, int] | None:
    if not buffer.endswith(b"0\r\n\r\n"):
        return None
    parts: list[bytes] = []
    while True:
        line_end = buffer.find(b"\r\n", start)
        if line_end < 0:
            return None
        size = int(buffer[start:line_end], 16)
        start = line_end + 2
        if len(buffer) < start + size + 2:
            return None
        if size == 0:
            return b"".join(parts), start + 2
        parts.append(bytes(buffer[start : start + size]))
        start += size + 2


class Gathering:
    """The next responses of many connections. Made before what is measured begins: watching sockets takes its time."""

    def __init__(self, connections: list[Connection]) -> None:
        self._connections = connections
        self._epoll = select.epoll(len(connections))
        self._by_fd = {connection.socket.fileno(): connection for connection in connections}
        for fd in self._by_fd:
            self._epoll.register(fd, select.EPOLLIN)

    def answers(self, seconds: float = 60.0) -> list[Answer]:
        """One for each connection, in their order; `at` is when it was whole. Raises TimeoutError."""
        at: dict[int, float] = {}
        deadline = time.monotonic() + seconds
        # While others wait, only whether a response is whole is looked at; what it says is read afterwards.
        while len(at) < len(self._by_fd):
            ready = self._epoll.poll(max(0.0, deadline - time.monotonic()), 256)
            if not ready:
                raise TimeoutError(f"{len(self._by_fd) - len(at)} of {len(self._by_fd)} clients got no answer")
            for fd, _ in ready:
                connection = self._by_fd[fd]
                connection.receive(1 << 16)
                if connection.whole():
                    at[fd] = time.perf_counter()
        self._epoll.close()
        found = []
        for fd, connection in self._by_fd.items():
            answer = connection.parsed()
            assert answer is not None
            answer.at = at[fd]
            found.append(answer)
        return found


def answers(connections: list[Connection]) -> list[Answer]:
    """The next response of each connection, in their order."""
    return Gathering(connections).answers()
