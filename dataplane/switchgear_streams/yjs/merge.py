"""A snapshot and the updates after it → the next snapshot. Imports pycrdt: only for the worker's process.

Invariant: nothing is lost. A document leaves out of its state what waits for updates that have not arrived; such
updates are added to the snapshot as they are. A snapshot that does not read back as the same state is not given out.
"""

from __future__ import annotations

from typing import Any

from pycrdt import Doc, get_update, merge_updates

from switchgear_streams.yjs.frames import split

State = dict[int, int]


def compact(snapshot: bytes, updates: bytes) -> bytes:
    """Raises ValueError and whatever pycrdt raises for what is no update."""
    doc: Doc[Any] = Doc()
    whole = memoryview(updates)
    waiting = [snapshot] if snapshot else []
    waiting += [bytes(whole[start:end]) for start, end in split(whole)]
    before: State | None = None
    state: State = {}
    # What waited is given again when what it waited for is there: the library itself does not always notice.
    while waiting and state != before:
        for part in waiting:
            doc.apply_update(part)
        encoded = doc.get_state()
        before, state = state, _state(encoded)
        waiting = [part for part in waiting if _waits(part, encoded, state)]
    made: bytes = doc.get_update()
    if waiting:
        made = merge_updates(made, *waiting)
    again: Doc[Any] = Doc()
    again.apply_update(made)
    if _state(again.get_state()) != state:
        raise ValueError("the snapshot does not read back as the same document")
    return made


def _waits(update: bytes, encoded: bytes, state: State) -> bool:
    """Does a part of it concern what the document does not have yet?"""
    rest = get_update(update, encoded)
    clients, at = _varint(rest, 0)
    if clients:
        return True
    clients, at = _varint(rest, at)
    for _ in range(clients):
        client, at = _varint(rest, at)
        ranges, at = _varint(rest, at)
        for _ in range(ranges):
            clock, at = _varint(rest, at)
            length, at = _varint(rest, at)
            if clock + length > state.get(client, 0):
                return True
    return False


def _state(encoded: bytes) -> State:
    """A state vector: client → how many of its changes are there."""
    made: State = {}
    count, at = _varint(encoded, 0)
    for _ in range(count):
        client, at = _varint(encoded, at)
        clock, at = _varint(encoded, at)
        if clock:
            made[client] = clock
    return made


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
