"""Which entry of the publication each table with shapes has: another one means that it was taken out in between.

What was changed meanwhile is in no log. An entry names the row by which Postgres has the table in the publication, and
the publication's own as it is: one that left an operation out for a while is another one. It survives in a file, so
that a break is noticed also when nobody ran.
"""

from __future__ import annotations

import os
from pathlib import Path

import orjson

_FILE = "published.json"


class Entries:
    """See the module. Without a directory nothing is kept beyond the process."""

    def __init__(self, directory: Path | None) -> None:
        self._path = None if directory is None else directory / _FILE
        self.known: dict[int, str] = {}
        if self._path is None:
            return
        try:
            self.known = {int(oid): str(entry) for oid, entry in orjson.loads(self._path.read_bytes()).items()}
        except (OSError, ValueError, AttributeError, TypeError):
            self.known = {}

    def keep(self, oid: int, entry: str) -> None:
        """Durable before any shape of the table is answered for. Raises OSError."""
        if entry and self.known.get(oid) != entry:
            self.known[oid] = entry
            self._write()

    def remove(self, oid: int) -> None:
        """No shape uses the table. Raises OSError."""
        if self.known.pop(oid, None) is not None:
            self._write()

    def clear(self) -> None:
        """There are no shapes. Raises OSError."""
        if self.known:
            self.known = {}
            self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        temporary = self._path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(orjson.dumps({str(oid): entry for oid, entry in self.known.items()}))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
