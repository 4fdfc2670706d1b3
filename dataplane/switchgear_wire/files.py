"""Sends file slices: small ones by pread and one write, large ones by the kernel's sendfile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import IO, cast

from switchgear_wire.errors import ClientGone
from switchgear_wire.response import FileSlice

# Below this a copy through Python is cheaper than the transport's switch to sendfile and back.
SENDFILE_FROM = 262_144
# Below this one write of everything is cheaper than a second system call.
DIRECT_FROM = 32_768
# One step of a large file: the write-stall limit is applied to each.
STEP = 1_048_576


class _Descriptor:
    """What loop.sendfile asks of a file; never closed here."""

    __slots__ = ("_fd",)
    mode = "rb"

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd


async def send_parts(
    transport: asyncio.Transport,
    parts: Sequence[bytes | FileSlice],
    drain: Callable[[], Awaitable[None]],
    stall: float,
) -> None:
    """Write all parts. Raises OSError when a slice is shorter than promised, TimeoutError when the client stalls."""
    pending: list[bytes] = []
    size = 0
    for part in parts:
        if isinstance(part, FileSlice) and part.length >= SENDFILE_FROM:
            if pending:
                transport.write(b"".join(pending))
                pending, size = [], 0
            await _send_large(transport, part, drain, stall)
            continue
        data = part if isinstance(part, bytes) else _pread(part.fd, part.length, part.offset)
        pending.append(data)
        size += len(data)
        if size >= SENDFILE_FROM:
            transport.write(b"".join(pending))
            pending, size = [], 0
            await drain()
    if pending:
        transport.write(b"".join(pending))
    await drain()


def send_short(transport: asyncio.Transport, head: bytes, parts: Sequence[bytes | FileSlice]) -> None:
    """Everything at once, from the page cache to the socket as far as that takes it; the transport keeps the rest.

    Raises OSError when a slice is shorter than promised.
    """
    pending = [head]
    for part in parts:
        if isinstance(part, bytes):
            pending.append(part)
        elif part.length < DIRECT_FROM:
            pending.append(_pread(part.fd, part.length, part.offset))
        else:
            transport.write(b"".join(pending))
            sent = _sendfile_now(transport, part.fd, part.offset, part.length)
            pending = [_pread(part.fd, part.length - sent, part.offset + sent)] if sent < part.length else []
    if pending:
        transport.write(b"".join(pending))


def _sendfile_now(transport: asyncio.Transport, fd: int, offset: int, length: int) -> int:
    """How much of the file's range the socket took without waiting."""
    if transport.get_write_buffer_size() or transport.is_closing():
        return 0
    try:
        return os.sendfile(transport.get_extra_info("socket").fileno(), fd, offset, length)
    except (BlockingIOError, InterruptedError, ConnectionError):  # the transport will say what is wrong
        return 0


def _pread(fd: int, length: int, offset: int) -> bytes:
    data = os.pread(fd, length, offset)
    if len(data) != length:
        raise OSError(f"file slice is {len(data)} bytes instead of {length}")
    return data


async def _send_large(
    transport: asyncio.Transport, part: FileSlice, drain: Callable[[], Awaitable[None]], stall: float
) -> None:
    loop = asyncio.get_running_loop()
    offset, end = part.offset, part.offset + part.length
    file = cast("IO[bytes]", _Descriptor(part.fd))
    while offset < end:
        if transport.is_closing():
            raise ClientGone
        sent = _sendfile_now(transport, part.fd, offset, end - offset)
        if sent:  # a reader that keeps up is served without a task or a timer; the others get their turn
            offset += sent
            if offset < end:
                await asyncio.sleep(0)
            continue
        count = min(STEP, end - offset)
        try:
            sent = await asyncio.wait_for(loop.sendfile(transport, file, offset, count, fallback=False), stall)
        except (NotImplementedError, asyncio.SendfileNotAvailableError):
            transport.write(_pread(part.fd, count, offset))
            await drain()
            sent = count
        if sent == 0:
            raise OSError("file ended before its promised length")
        offset += sent
