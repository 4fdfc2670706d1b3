"""lib0 framing: a body is a sequence of updates, each after its length as a varint. Pure.

The client frames; the server stores the bytes as they came. A body that ends within a frame would shift every later
one, for all readers and for good: it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator

# lib0 reads no larger number than 2^53 - 1.
_MAX_SHIFT = 49


class BadFrame(ValueError):
    """The bytes are no sequence of frames."""


def split(body: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """(start, end) of each frame's content. Raises BadFrame."""
    at, size = 0, len(body)
    while at < size:
        length = shift = 0
        while True:
            if at >= size or shift > _MAX_SHIFT:
                raise BadFrame("it ends within a length")
            byte = body[at]
            at += 1
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        if length > size - at:
            raise BadFrame("it ends within an update")
        yield at, at + length
        at += length


def check(body: bytes, least: int) -> None:
    """Every frame is whole and holds at least `least` bytes. Raises BadFrame."""
    for start, end in split(body):
        if end - start < least:
            raise BadFrame("an update is too short to be one")
