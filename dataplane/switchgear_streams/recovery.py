"""Start: lock and check the directory, read the catalogue, replay the log, cut its torn end, report real damage.

What it must not do: repair in silence, or remove anything that is not proven to be superseded.
A damaged place in the log is its torn end (cut off: nothing there was acknowledged) unless a later block says that the
damaged one had been durable; then what can be read is kept, streams with holes are quarantined, and the log is kept
aside under a name that ends in `.damaged`.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson

from switchgear_streams import catalog, pieces, records, replaying, segments, wal
from switchgear_streams.disk import Disk
from switchgear_streams.errors import StartError
from switchgear_streams.pieces import Pieces
from switchgear_streams.segments import Pack
from switchgear_streams.store import Store
from switchgear_streams.stream import Stream
from switchgear_streams.usage import limited
from switchgear_streams.wal import Segment

log = logging.getLogger("switchgear.streams.recovery")

FORMAT = "switchgear-streams 1"


@dataclass(slots=True)
class Report:
    """What a start found. `damage`: one line for each thing that was lost."""

    last_number: int = 0
    old: list[Segment] = field(default_factory=list)
    replayed: int = 0
    torn_bytes: int = 0
    damage: list[str] = field(default_factory=list)


def take(disk: Disk) -> bytes:
    """Make the directory ours. Returns the log id. Raises StartError."""
    try:
        disk.prepare()
        locked = disk.lock()
    except OSError as error:
        raise StartError(f"cannot use the data directory {disk.root}: {error.strerror}") from error
    if not locked:
        raise StartError(f"the data directory {disk.root} is in use by another process; one server per directory")
    found = disk.read_text("FORMAT")
    if found is None:
        names = [name for name in disk.names() if name not in ("LOCK", "FORMAT.tmp", "lost+found")]
        if names:
            raise StartError(f"the data directory {disk.root} holds other files ({names[0]}, …) and no FORMAT file")
        log_id = secrets.token_bytes(records.ID_BYTES)
        disk.replace_text("FORMAT", f"{FORMAT}\nlog {log_id.hex()}\n")
        return log_id
    first, _, rest = found.partition("\n")
    match = re.fullmatch(r"log ([0-9a-f]{32})\n", rest)
    if first != FORMAT or match is None:
        raise StartError(f"the data directory {disk.root} has format {first!r}; this server reads {FORMAT!r}")
    return bytes.fromhex(match[1])


def load_catalog(disk: Disk, store: Store, log_id: bytes, report: Report) -> tuple[catalog.Writer, int]:
    """Fill the store from the newest complete catalogue. Returns its writer and the last block it covers."""
    indexes = sorted(index for name in disk.names() if (index := catalog.file_index(name)) is not None)
    for index in reversed(indexes):
        fd = disk.open(catalog.file_name(index))
        loaded = catalog.load(Pieces.of(disk, fd), index)
        if not loaded.end and index != indexes[0]:
            disk.close(fd)
            disk.remove(catalog.file_name(index))
            continue
        if disk.size(fd) > loaded.end:
            _mend_catalog(disk, fd, loaded, log_id, report)
        for at in loaded.damaged:
            report.damage.append(
                f"{catalog.file_name(index)}: damaged entry at byte {at}; one stream's settings are lost"
            )
        # A killed process may have left it unsynced; from here on the log that it covers is given up.
        disk.sync(fd)
        disk.sync_names()
        store.streams = loaded.streams
        store.unlimited = sum(1 for key in loaded.streams if key[:1] == b"\0" and not limited(key))
        store.next_generation = loaded.generation
        if loaded.usage is not None:
            store.usage.restore(loaded.usage)
        else:
            replaying.count_held(store)
        store.packs.known = {pack: Pack(size, live) for pack, (size, live) in loaded.packs.items()}
        for older in indexes:
            if older < index:
                disk.remove(catalog.file_name(older))
        writer = catalog.Writer(disk, index, fd, loaded.end)
        writer.alive = sum(len(body) for body in loaded.streams.values() if isinstance(body, bytes))
        return writer, loaded.wal
    writer = catalog.Writer.make(disk, 1)
    disk.sync_names()
    return writer, 0


def check_packs(disk: Disk, store: Store, report: Report) -> None:
    """After the replay: remove packs of checkpoints that never completed; name those that are missing.

    A pack that died after the last checkpoint was removed at once, and the replayed deletions say so.
    """
    present = {pack for name in disk.names() if (pack := segments.pack_id(name)) is not None}
    known = store.packs.known
    store.packs.next_id = max((*present, *known), default=0) + 1
    for pack in known.keys() - present:
        if known[pack].live > 0:
            report.damage.append(f"{segments.pack_name(pack)} is missing: {known[pack].live} bytes of streams are lost")
    kept = report.damage or any(_is_kept_catalog(name) for name in disk.names())
    for pack in present - known.keys():
        if kept:
            log.warning("%s is kept: the catalogue is, or was, damaged", segments.pack_name(pack))
        else:
            disk.remove(segments.pack_name(pack))


def replay(disk: Disk, store: Store, log_id: bytes, covered: int, report: Report) -> None:
    """Apply the log after block `covered`."""
    indexes = sorted(index for name in disk.names() if (index := wal.segment_index(name)) is not None)
    files = [_LogFile(disk, index, log_id) for index in indexes]
    expected = covered + 1
    for position, file in enumerate(files):
        expected = _replay_file(store, file, files[position + 1 :], expected, report)
        file.forget()
    report.last_number = expected - 1
    for file in files:
        file.settle(covered, report)


_KEPT = ".damaged"


def _is_kept_catalog(name: str) -> bool:
    return name.startswith("catalog-") and name.endswith(_KEPT)


def _mend_catalog(disk: Disk, fd: int, loaded: catalog.Loaded, log_id: bytes, report: Report) -> None:
    """Judge what follows the last whole group: a torn one, which is cut off, or a damaged one.

    A checkpoint gives the log back only when its group is on the disk. So a group is torn if the log has the block
    that it would begin with; else it had been whole, and the opening entry says what the damaged closing one said. One
    that covers no new block only moves bytes: torn or damaged, nothing is lost without it, unless packs are missing.
    """
    name, opening = catalog.file_name(loaded.index), loaded.rest.opening
    if _in_log(disk, log_id, loaded.wal + 1) or (opening is not None and opening["wal"] == loaded.wal):
        disk.truncate(fd, loaded.end)
        return
    if opening is None and not loaded.end:
        raise StartError(
            f"{name} is damaged: nothing of it is whole, and the log no longer has what it knew; bring the data"
            " directory back from a copy, or move everything in it away to begin with nothing"
        )
    _keep_catalog(disk, fd, name)
    if opening is None:
        report.damage.append(
            f"{name}: what follows byte {loaded.end} is damaged, and the log does not have it: changes after block"
            f" {loaded.wal} are lost (a copy is kept as {name}{_KEPT})"
        )
        disk.truncate(fd, loaded.end)
        return
    last = catalog.encode(catalog.COMMIT, orjson.dumps(catalog.complete(loaded)))
    report.damage.append(
        f"{name}: what follows byte {loaded.end} is damaged; the streams before it are as they were (a copy is kept as"
        f" {name}{_KEPT})"
    )
    disk.truncate(fd, loaded.end)
    disk.sync(fd)  # the entries, before what makes them count
    disk.write(fd, [last], loaded.end)
    loaded.end += len(last)


def _in_log(disk: Disk, log_id: bytes, number: int) -> bool:
    for name in disk.names():
        index = wal.segment_index(name)
        if index is not None:
            file = _LogFile(disk, index, log_id)
            try:
                if any(block.number == number for block in file.blocks_from(0)):
                    return True
            finally:
                disk.close(file.fd)
    return False


def _keep_catalog(disk: Disk, fd: int, name: str) -> None:
    file = Pieces.of(disk, fd)
    copy = disk.create(name + _KEPT)
    try:
        for at in range(0, file.size, pieces.SIZE):
            disk.write(copy, [bytes(file.take(at, min(pieces.SIZE, file.size - at)))], at)
        disk.sync(copy)
    finally:
        disk.close(copy)
    disk.sync_names()


class _LogFile:
    """A segment at start."""

    def __init__(self, disk: Disk, index: int, log_id: bytes) -> None:
        self._disk = disk
        self._id = log_id
        self.index = index
        self.name = wal.segment_name(index)
        self.fd = disk.open(self.name)
        self._file = Pieces.of(disk, self.fd)
        self.end = 0
        """Where what counts ends."""
        self.last = 0
        self.damaged = False
        self.torn = 0

    def block_at(self, offset: int) -> records.Block | None:
        file = self._file
        if offset + records.BLOCK.size > file.size:
            return None
        return records.read_header(file.take(offset, records.BLOCK.size), offset, file.size, self._id)

    def content(self, block: records.Block) -> list[records.Record | records.Damaged]:
        return list(records.read_records(self._file.take(block.begin, block.end - block.begin), block))

    def blocks_from(self, offset: int) -> Iterator[records.Block]:
        """Every intact block header at or after `offset`, wherever it is."""
        at = self._file.find(records.MAGIC, offset)
        while at >= 0:
            block = self.block_at(at)
            if block is not None:
                yield block
            at = self._file.find(records.MAGIC, at + 1 if block is None else block.end)
        self._file.forget()

    def forget(self) -> None:
        """Nothing of it is to be kept in memory for now."""
        self._file.forget()

    def settle(self, covered: int, report: Report) -> None:
        """Cut the torn end; keep the segment for the next checkpoint, or remove it when there is nothing in it."""
        size = self._file.size
        report.torn_bytes += self.torn
        if self.damaged:
            kept = self.name + _KEPT
            if not (self._disk.root / kept).exists():
                os.link(self._disk.root / self.name, self._disk.root / kept)
        if self.last <= covered:
            self._disk.close(self.fd)
            self._disk.remove(self.name)
            return
        if self.end < size and not self.damaged:
            self._disk.truncate(self.fd, self.end)
            self._disk.sync(self.fd)
        report.old.append(Segment(self.index, self.fd, self.end, self.end, self.last))


def _replay_file(store: Store, file: _LogFile, later: list[_LogFile], expected: int, report: Report) -> int:
    """Returns the number of the block that should come next."""
    at = 0
    while True:
        block = file.block_at(at)
        if block is not None and block.number < expected and block.end > at and _follows(file, block):
            file.last, file.end, at = block.number, block.end, block.end
            continue
        found: list[records.Record | records.Damaged] = []
        if block is not None and block.number == expected:
            found = file.content(block)
        if not found or any(isinstance(one, records.Damaged) for one in found):
            proof = _proof(file, later, at, expected)
            if proof is None:
                if block is not None and block.number == expected:
                    file.torn = block.end - at
                return expected
            _report_gap(file, at, expected, proof, report)
            file.damaged = True
            if block is None or block.number != expected:
                if proof[0] is not file:
                    return proof[1].number
                at, expected = proof[1].offset, proof[1].number
                continue
        assert block is not None
        _apply(store, file, found, report)
        file.last, file.end = block.number, block.end
        at, expected = block.end, block.number + 1


def _follows(file: _LogFile, block: records.Block) -> bool:
    """Is an old block the next one of this file, and not a left-over of the segment's earlier life?"""
    return file.last == 0 or block.number == file.last + 1


def _proof(file: _LogFile, later: list[_LogFile], at: int, expected: int) -> tuple[_LogFile, records.Block] | None:
    """A later block whose writer knew that block `expected` was durable. None if `expected` is found further on."""
    for candidate in (file, *later):
        for block in candidate.blocks_from(at + 1 if candidate is file else 0):
            if block.number == expected and candidate is not file:
                return None
            if block.number > expected and block.durable >= expected:
                return _first_after(file, later, at, expected) or (candidate, block)
    return None


def _first_after(
    file: _LogFile, later: list[_LogFile], at: int, expected: int
) -> tuple[_LogFile, records.Block] | None:
    best: tuple[_LogFile, records.Block] | None = None
    for candidate in (file, *later):
        for block in candidate.blocks_from(at + 1 if candidate is file else 0):
            if block.number > expected and (best is None or block.number < best[1].number):
                best = (candidate, block)
        if best is not None:
            return best
    return best


def _report_gap(file: _LogFile, at: int, expected: int, proof: tuple[_LogFile, records.Block], report: Report) -> None:
    report.damage.append(f"{file.name}: block {expected} at byte {at} is damaged; block {proof[1].number} follows it")


def _apply(store: Store, file: _LogFile, found: list[records.Record | records.Damaged], report: Report) -> None:
    for one in found:
        if isinstance(one, records.Damaged):
            _quarantine(store, file, one, report)
            continue
        complaint = replaying.replay(store, one)
        report.replayed += 1
        if complaint is not None:
            report.damage.append(f"stream {one.key.decode('utf-8', 'replace')}: {complaint}")


def _quarantine(store: Store, file: _LogFile, found: records.Damaged, report: Report) -> None:
    record = found.record
    stream: Stream | None = None if record is None else store.get(record.key)
    if record is None or stream is None or stream.generation != record.generation or record.start != stream.end:
        report.damage.append(f"{file.name}: a record at byte {found.offset} is unreadable")
        return
    replaying.damage(store, stream, stream.end, stream.end + len(record.payload))
    report.damage.append(
        f"stream {record.key.decode('utf-8', 'replace')}: {len(record.payload)} bytes at {record.start} are damaged"
    )
