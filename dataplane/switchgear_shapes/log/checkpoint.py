"""The checkpoint file: the state of all shapes at one point of the write-ahead log. Written whole or not at all."""

from __future__ import annotations

import ctypes
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from switchgear_shapes.errors import CorruptStorage
from switchgear_shapes.log.wal import sync_directory

_LIBC = ctypes.CDLL(None, use_errno=True)
_CHECKSUM_BYTES = 9


def write(path: Path, lines: list[bytes]) -> None:
    """Replace the checkpoint: JSON lines, then their checksum. Raises OSError."""
    data = b"\n".join(lines) + b"\n"
    write_atomically(path, data + b"%08x\n" % zlib.crc32(data))


def read(path: Path) -> tuple[dict[str, Any], Iterator[dict[str, Any]]] | None:
    """(first line, the others); None when there is no checkpoint. Raises CorruptStorage."""
    if not path.exists():
        return None
    whole = path.read_bytes()
    data = whole[:-_CHECKSUM_BYTES]
    if whole[-_CHECKSUM_BYTES:] != b"%08x\n" % zlib.crc32(data):
        raise CorruptStorage("the checkpoint's checksum is wrong")
    lines = data.splitlines()
    return orjson.loads(lines[0]), map(orjson.loads, lines[1:])


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path`, sync, rename, sync the directory. Raises OSError."""
    temporary = path.with_suffix(".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    temporary.replace(path)
    sync_directory(path.parent)


def sync_file_system(fd: int) -> None:
    """Make all files of the file system that holds `fd` durable: one call instead of one per file. Raises OSError."""
    if _LIBC.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
