"""What the write-ahead log is made of: blocks of records, checksummed. Pure.

A block is one group of requests that became durable together: a header (its own checksum) and records (a checksum
each). Integers are little-endian.

    block header: magic "SGB1", log id (16 bytes), number u64, durable u64, body length u32, CRC u32 of the bytes before
    record:       length u32 (of what follows it), CRC u32 (of what follows it), kind u8, generation u64, start u64,
                  time u64 (Unix ms), key length u16, extra length u32, appends u32, payload length u32,
                  key, extra (JSON), length u32 of each append (if more than one), payload

`durable` is the highest block number whose fsync its writer knew of: when a block is damaged, a later one that names it
as durable proves that acknowledged data is damaged, and not merely the torn end of the log. The log id is random and
never leaves the server, so that no payload can contain what looks like a block.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from switchgear_streams import checksums

MAGIC = b"SGB1"
BLOCK = struct.Struct("<4s16sQQII")
RECORD = struct.Struct("<BQQQHIII")
PREFIX = struct.Struct("<II")
_BLOCK_CHECKED = struct.Struct("<4s16sQQI")
ID_BYTES = 16
OVERHEAD = RECORD.size + PREFIX.size
# Payloads from here on are written from where they are instead of being copied into the block.
COPY_BELOW = 65_536

CREATE, APPEND, DELETE, TOUCH, TRIM = 1, 2, 3, 4, 5


@dataclass(slots=True)
class Record:
    """One stream's part of a block. `start` is the position of the payload's first byte; `lengths` one per append."""

    kind: int
    key: bytes
    generation: int
    start: int
    time: int
    extra: dict[str, Any] = field(default_factory=dict)
    lengths: Sequence[int] = ()
    payload: bytes = b""


def encode(
    kind: int,
    key: bytes,
    generation: int,
    start: int,
    time: int,
    extra: dict[str, Any] | None,
    lengths: Sequence[int],
    payload: bytes,
    payload_crc: int | None = None,
) -> list[bytes]:
    """The record's bytes, the payload last: in two pieces or, with a large payload, in three.

    `payload_crc`: its checksum, where that is known.
    """
    extra_raw = orjson.dumps(extra) if extra else b""
    count = len(lengths)
    marks = struct.pack(f"<{count}I", *lengths) if count > 1 else b""
    head = RECORD.pack(kind, generation, start, time, len(key), len(extra_raw), count, len(payload))
    length = len(head) + len(key) + len(extra_raw) + len(marks) + len(payload)
    if len(payload) < COPY_BELOW:
        body = b"".join((head, key, extra_raw, marks, payload))
        return [PREFIX.pack(length + 4, zlib.crc32(body)), body]
    front = b"".join((head, key, extra_raw, marks))
    if payload_crc is None:
        crc = checksums.crc32(payload, zlib.crc32(front))
    else:
        crc = checksums.joined(zlib.crc32(front), payload_crc, len(payload))
    return [PREFIX.pack(length + 4, crc), front, payload]


def encode_append(key: bytes, generation: int, start: int, time: int, payload: bytes) -> list[bytes]:
    """What `encode` makes of one append without more to say, if its payload is small: the most frequent record."""
    key_n, payload_n = len(key), len(payload)
    body = b"%b%b%b" % (RECORD.pack(APPEND, generation, start, time, key_n, 0, 1, payload_n), key, payload)
    return [PREFIX.pack(len(body) + 4, zlib.crc32(body)), body]


def encode_block(log_id: bytes, number: int, durable: int, pieces: list[bytes]) -> tuple[list[bytes], int]:
    """(buffers to write one after the other, their total length)."""
    length = sum(map(len, pieces))
    checked = _BLOCK_CHECKED.pack(MAGIC, log_id, number, durable, length)
    header = checked + zlib.crc32(checked).to_bytes(4, "little")
    total = length + len(header)
    if total < 4 * COPY_BELOW:
        return [b"".join((header, *pieces))], total
    buffers: list[bytes] = []
    small: list[bytes] = [header]
    for piece in pieces:
        if len(piece) < COPY_BELOW:
            small.append(piece)
        else:
            buffers += (b"".join(small), piece)
            small = []
    buffers.append(b"".join(small))
    return buffers, total


@dataclass(frozen=True, slots=True)
class Block:
    """A block's header as found at `offset`; its records are at [begin, end)."""

    number: int
    durable: int
    offset: int
    begin: int
    end: int


def read_block(data: bytes | memoryview, offset: int, log_id: bytes) -> Block | None:
    """The block header at `offset`, or None if there is no intact one with room for its body."""
    if offset + BLOCK.size > len(data):
        return None
    return read_header(data[offset : offset + BLOCK.size], offset, len(data), log_id)


def read_header(header: bytes | memoryview, offset: int, size: int, log_id: bytes) -> Block | None:
    """The same of the header alone, which is at `offset` of `size` bytes."""
    magic, found_id, number, durable, length, crc = BLOCK.unpack(header)
    begin = offset + BLOCK.size
    if magic != MAGIC or found_id != log_id or begin + length > size:
        return None
    if zlib.crc32(header[: BLOCK.size - 4]) != crc:
        return None
    return Block(number, durable, offset, begin, begin + length)


@dataclass(frozen=True, slots=True)
class Damaged:
    """A record whose checksum is wrong. `record` is what its header seems to say, if that makes any sense."""

    offset: int
    record: Record | None


def read_records(body: memoryview, block: Block) -> Iterator[Record | Damaged]:
    """The block's records in order; damaged ones are reported and stepped over as far as their length allows.

    `body`: what is at [block.begin, block.end).
    """
    at, size = 0, len(body)
    while at < size:
        if at + OVERHEAD > size:
            yield Damaged(block.begin + at, None)
            return
        length, crc = PREFIX.unpack_from(body, at)
        begin, end = at + PREFIX.size, at + 4 + length
        if length < OVERHEAD - 4 or end > size:
            yield Damaged(block.begin + at, None)
            return
        intact = checksums.crc32(body[begin:end]) == crc
        record = _decode(body, begin, end)
        if intact and record is not None:
            yield record
        else:
            yield Damaged(block.begin + at, record)
        at = end


def _decode(data: memoryview, body: int, end: int) -> Record | None:
    kind, generation, start, time, key_n, extra_n, count, payload_n = RECORD.unpack_from(data, body)
    marks_n = 4 * count if count > 1 else 0
    at = body + RECORD.size
    if at + key_n + extra_n + marks_n + payload_n != end or kind not in (CREATE, APPEND, DELETE, TOUCH, TRIM):
        return None
    key = bytes(data[at : at + key_n])
    at += key_n
    try:
        extra = orjson.loads(data[at : at + extra_n]) if extra_n else {}
    except orjson.JSONDecodeError:
        extra = {}
    at += extra_n
    lengths = struct.unpack_from(f"<{count}I", data, at) if count > 1 else ((payload_n,) if count else ())
    return Record(kind, key, generation, start, time, extra, lengths, bytes(data[at + marks_n : end]))
