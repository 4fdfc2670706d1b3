"""Which shapes go when there are more than ELECTRIC_MAX_SHAPES: those that nobody has read for the longest time.

Only the instance that writes evicts. One that reads along leaves a note of what was read there in the storage
directory, and the writer takes it away. A note is advice: one that is lost, damaged or cannot be written may cost a
shape its place, nothing else.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

import orjson

from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.store import Store

FOLDER = "reads"
MAX_NOTE_BYTES = 64 * 1024 * 1024


class Notes:
    """What an instance that reads along tells the one that writes."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FOLDER / uuid.uuid4().hex
        self._since = 0.0

    def leave(self, shapes: Iterable[Shape], waited_for: set[int]) -> None:
        """Note the shapes that were read since the last note, or that somebody waits for."""
        now = time.monotonic()
        handles = [shape.handle for shape in shapes if shape.last_read > self._since or shape.id in waited_for]
        self._since = now
        if not handles:
            return
        with contextlib.suppress(OSError):  # a full disk, or one that is not ours to write
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            temporary = self._path.with_suffix(".new")
            temporary.write_bytes(orjson.dumps(handles))
            temporary.replace(self._path)


def take_notes(store: Store, directory: Path) -> None:
    """Count the reads that are noted as reads of now, and remove the notes."""
    with contextlib.suppress(OSError):
        for path in list((directory / FOLDER).iterdir()):
            if path.suffix:  # it is being written, or was left by an instance that was killed meanwhile
                continue
            handles = []
            if path.stat().st_size <= MAX_NOTE_BYTES:
                with contextlib.suppress(ValueError):
                    handles = orjson.loads(path.read_bytes())
            path.unlink()
            now = time.monotonic()
            for handle in handles if isinstance(handles, list) else []:
                shape = store.by_handle.get(handle) if isinstance(handle, str) else None
                if shape is not None:
                    shape.last_read = now


def evict(store: Store, limit: int, waited_for: set[int]) -> None:
    """End the shapes that were not read for longest, but none that somebody waits for or that is being made."""
    if len(store.by_id) <= limit:
        return
    unused = (s for s in store.by_id.values() if s.snapshot.complete and s.id not in waited_for)
    by_use = sorted(unused, key=lambda shape: shape.last_read)
    for shape in by_use[: len(store.by_id) - limit]:
        store.drop(shape, "there are more shapes than ELECTRIC_MAX_SHAPES")
