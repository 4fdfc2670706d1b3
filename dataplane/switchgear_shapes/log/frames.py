"""Bytes of the write-ahead log: frames with checksums around records. Pure.

One frame is one unit of writing and fsync. A frame that is cut off or whose checksum is wrong at the log's end was
never acknowledged; the same with a valid frame behind it is damage.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from mmap import mmap
from struct import Struct
from typing import NamedTuple

import orjson

MAGIC = b"SGW1"
_HEADER = Struct("<4sIIQ")  # magic, payload length, CRC-32 of sequence and payload, sequence
_RECORD = Struct("<BI")
_BATCH = Struct("<BQQI")  # final?, commit LSN, end LSN, entries
_ENTRY = Struct("<IQQI")  # shape, tx, last op, data length
_SEQUENCE = Struct("<Q")

HEADER_BYTES = _HEADER.size

CREATE, SNAPSHOT, DROP, BATCH, PROGRESS, SYSTEM, PURGE, ROWS, COMPACTED = range(1, 10)
SOURCE = 16

HELD, DELTA = (1 << 64) - 1, (1 << 64) - 2
"""Entries with these instead of an op are no lines: a shape is held from transaction `tx` on (0: no more); a
subquery's result changed by `data`."""


class TornFrame(Exception):
    """There is no whole frame here."""


class Entry(NamedTuple):
    """Lines of one shape and one transaction; `last_op` is the op of the last line."""

    shape: int
    tx: int
    last_op: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries of one or more transactions, in commit order.

    Not `final`: a part of a large transaction, which counts only together with the final batch that follows.
    """

    entries: Sequence[Entry]
    commit_lsn: int
    end_lsn: int
    final: bool = True


def frame(sequence: int, payload: bytes) -> bytes:
    checksum = zlib.crc32(payload, zlib.crc32(_SEQUENCE.pack(sequence)))
    return _HEADER.pack(MAGIC, len(payload), checksum, sequence) + payload


def read_frame(data: bytes | mmap, at: int) -> tuple[int, bytes, int]:
    """(sequence, payload, where the next frame begins). Raises TornFrame."""
    if at + HEADER_BYTES > len(data):
        raise TornFrame
    magic, length, checksum, sequence = _HEADER.unpack_from(data, at)
    end = at + HEADER_BYTES + length
    if magic != MAGIC or end > len(data):
        raise TornFrame
    payload = bytes(data[at + HEADER_BYTES : end])
    if zlib.crc32(payload, zlib.crc32(_SEQUENCE.pack(sequence))) != checksum:
        raise TornFrame
    return sequence, payload, end


def payload_length(header: bytes) -> int | None:
    """How long the payload behind this header is; None when it is no header."""
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        return None
    length: int = _HEADER.unpack(header)[1]
    return length


def has_frame_after(data: bytes | mmap, at: int, sequence: int) -> bool:
    """Whether a valid frame numbered above `sequence` begins anywhere behind `at`."""
    found = data.find(MAGIC, at + 1)
    while found >= 0:
        try:
            if read_frame(data, found)[0] > sequence:
                return True
        except TornFrame:
            pass
        found = data.find(MAGIC, found + 1)
    return False


def record(kind: int, body: bytes) -> bytes:
    return _RECORD.pack(kind, len(body)) + body


def json_record(kind: int, body: object) -> bytes:
    return record(kind, orjson.dumps(body))


def drop_record(shape: int) -> bytes:
    return record(DROP, shape.to_bytes(4, "little"))


def small_snapshot_records(shape: int, data: bytes, snapshot: object) -> bytes:
    """All bytes of a small snapshot, and that it is complete."""
    rows = (_RECORD.pack(ROWS, 4 + len(data)), shape.to_bytes(4, "little"), data)
    return b"".join((*rows, json_record(SNAPSHOT, snapshot)))


def progress_record(lsn: int) -> bytes:
    return record(PROGRESS, lsn.to_bytes(8, "little"))


def batch_record(batch: Batch) -> bytes:
    parts = [b"", _BATCH.pack(batch.final, batch.commit_lsn, batch.end_lsn, len(batch.entries))]
    pack = _ENTRY.pack
    for entry in batch.entries:
        parts.append(pack(entry.shape, entry.tx, entry.last_op, len(entry.data)))
        parts.append(entry.data)
    parts[0] = _RECORD.pack(BATCH, sum(map(len, parts)))
    return b"".join(parts)


def records(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, body) of each record of a frame's payload."""
    at = 0
    while at < len(payload):
        kind, length = _RECORD.unpack_from(payload, at)
        at += _RECORD.size
        yield kind, payload[at : at + length]
        at += length


def read_batch(body: bytes) -> Batch:
    final, commit_lsn, end_lsn, count = _BATCH.unpack_from(body, 0)
    at = _BATCH.size
    entries = []
    for _ in range(count):
        shape, tx, last_op, length = _ENTRY.unpack_from(body, at)
        at += _ENTRY.size
        entries.append(Entry(shape, tx, last_op, body[at : at + length]))
        at += length
    return Batch(entries, commit_lsn, end_lsn, bool(final))
