"""What a start does with the log: each record applied to the streams as it was when it was written, and what is lost.

What it must not do: read files (`recovery` does), or put anything on the log.
"""

from __future__ import annotations

from array import array

from switchgear_streams import catalog, records
from switchgear_streams.store import Store, note
from switchgear_streams.stream import Stream, from_meta


def replay(store: Store, record: records.Record) -> str | None:
    """Apply one record at start. Returns a complaint if it does not fit (a part of the log was lost)."""
    if record.kind == records.CREATE:
        _create(store, record)
        return None
    stream = store.get(record.key)
    if stream is None or stream.generation != record.generation:
        return None if record.kind != records.APPEND else "append to an unknown stream"
    if record.kind == records.DELETE:
        store.apply_deletion(stream, bool(record.extra.get("soft")), record.time)
        return None
    if record.kind == records.TRIM:
        first = record.extra["o"]
        store.usage.dropped(stream.key, max(0, first - max(stream.first, stream.base)), record.time)
        store.apply_trim(stream, first)
        return None
    stream.touched = max(stream.touched, record.time)
    store.mark(stream)
    if record.kind == records.TOUCH:
        return None
    complaint = None
    if record.start > stream.end:
        complaint = f"bytes {stream.end} to {record.start} are missing"
        damage(store, stream, stream.end, record.start)
    if record.start + len(record.payload) >= stream.end:
        _append(store, stream, record)
    return complaint


def _create(store: Store, record: records.Record) -> None:
    stream = from_meta(record.key, record.generation, record.extra["m"])
    stream.end = stream.visible = stream.tail_start = stream.base
    old = store.get(record.key)
    if old is not None:  # its deletion was in a part of the log that was lost
        store.remove(old, record.time)
    store.insert(stream, record.payload, bool(record.extra.get("c")))
    store.next_generation = max(store.next_generation, stream.generation + 1)
    stream.visible, stream.visible_closed = stream.end, stream.closed


def _append(store: Store, stream: Stream, record: records.Record) -> None:
    if record.start == stream.end and record.payload:
        stream.tail += record.payload
        for length in record.lengths:
            stream.end += length
            stream.marks.append(stream.end)
            store.usage.wrote(stream.key, length, record.time)
        store.unsealed += len(record.payload)
        if stream.retention is not None or store.deadlines.bounded:
            store.aged(stream, record.time)
    note(stream, record.extra)
    if record.extra.get("c"):
        stream.closed = stream.visible_closed = True
    stream.visible = stream.end


def count_held(store: Store) -> None:
    """For a catalogue from before usage was counted: begin with what there is."""
    now = store.clock()
    for key, one in store.streams.items():
        store.usage.kept(key, (one if isinstance(one, Stream) else catalog.unpack_body(one)).held, now)


def damage(store: Store, stream: Stream, start: int, end: int) -> None:
    """Positions [start, end) are lost: readers are told, writers refused, the rest stays readable."""
    if stream.damage is None:
        store.damaged += 1
        stream.damage = (start, end)
    else:
        stream.damage = (stream.damage[0], max(end, stream.damage[1]))
    if end > stream.end:  # fill the hole, so that positions stay true; no reader gets these bytes
        stream.tail += bytes(end - stream.end)
        store.usage.kept(stream.key, end - stream.end, store.clock())
        stream.end = end
        stream.marks = array("Q", [*stream.marks, end])
    stream.visible = stream.end
    store.mark(stream)
