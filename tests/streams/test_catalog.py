"""The catalogue read in pieces: cut anywhere, any bit flipped, against a model; and how much memory that takes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from switchgear_streams import catalog, pieces
from switchgear_streams.disk import Disk
from switchgear_streams.pieces import Pieces
from switchgear_streams.runs import Run
from switchgear_streams.stream import Stream


def whole(data: bytes) -> Pieces:
    return Pieces(lambda length, offset: data[offset : offset + length], len(data))


def put(key: bytes, generation: int, runs: int = 0) -> bytes:
    stream = Stream(key, generation, generation, 0, b"text/plain", 0)
    stream.runs = [Run(1, 10 * number, 10 * number, 10, 0, 0) for number in range(runs)]
    return catalog.encode(catalog.PUT, catalog.pack_body(generation, None, key, stream.runs, stream.meta()))


def commit(number: int, kind: int = catalog.COMMIT) -> bytes:
    content = {"wal": number, "generation": number + 1, "packs": [[1, 10, number]]}
    return catalog.encode(kind, json.dumps(content).encode())


def begin(number: int) -> bytes:
    return commit(number, catalog.BEGIN)


Expected = tuple[int, int, dict[bytes, bytes]]


def groups(chance: random.Random, count: int) -> tuple[bytes, list[Expected]]:
    """A catalogue, and after each group: (where it ends, its number, what there is then)."""
    made = b""
    streams: dict[bytes, bytes] = {}
    after: list[Expected] = [(0, 0, {})]
    for number in range(1, count + 1):
        made += begin(number)
        for _ in range(chance.randrange(6)):
            key = b"k%d" % chance.randrange(8)
            if chance.random() < 0.3:
                made += catalog.encode(catalog.REMOVE, key)
                streams.pop(key, None)
            else:
                entry = put(key, number, chance.choice((0, 1, 3)))
                made += entry
                streams[key] = entry[9:]
        made += commit(number)
        after.append((len(made), number, dict(streams)))
    return made, after


@pytest.fixture(params=[40, 300, 1 << 20])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Pieces of this size, smaller and larger than entries."""
    monkeypatch.setattr(pieces, "SIZE", request.param)
    return int(request.param)


def test_a_group_counts_only_when_it_is_whole(small: int) -> None:
    """Cut anywhere, the catalogue is what its last whole group said."""
    for seed in range(2):
        made, after = groups(random.Random(seed), 6)
        for cut in range(len(made) + 1):
            end, number, streams = next(each for each in reversed(after) if each[0] <= cut)
            loaded = catalog.load(whole(made[:cut]), 1)
            assert (loaded.end, loaded.wal, loaded.streams) == (end, number, streams), (seed, cut)
            assert loaded.damaged == []
            opened = cut >= end + len(begin(number + 1)) and number < 6
            assert (loaded.rest.opening is not None) == opened


def test_damage_costs_no_more_than_what_it_hit(small: int) -> None:
    """One flipped bit: entries behind it count; it is named if a whole group follows, else it is a torn end."""
    chance = random.Random(small)
    for seed in range(150):
        made, after = groups(random.Random(seed), 5)
        at = chance.randrange(len(made))
        hurt = bytearray(made)
        hurt[at] ^= 1 << chance.randrange(8)
        loaded = catalog.load(whole(bytes(hurt)), 1)
        last = after[-1]
        if at >= after[-2][0] and loaded.end < last[0]:  # the last commit itself
            assert (loaded.end, loaded.streams) == (after[-2][0], after[-2][2])
            assert catalog.complete(loaded)["wal"] == 5  # and nothing of it is lost
            assert (loaded.streams, loaded.end, loaded.generation) == (last[2], last[0] - len(commit(5)), 6)
            continue
        assert (loaded.end, loaded.wal) == (last[0], last[1])
        assert len(loaded.damaged) == 1
        assert loaded.damaged[0] <= at
        # At most the stream of the damaged entry differs; all, if it was a commit, are as they were.
        names = loaded.streams.keys() | last[2].keys()
        assert sum(loaded.streams.get(name) != last[2].get(name) for name in names) <= 1


def test_garbage_is_no_catalogue(small: int) -> None:
    chance = random.Random(small)
    for _ in range(30):
        data = chance.choice([bytes(3000), chance.randbytes(3000), b"\xff" * 3000])
        loaded = catalog.load(whole(data), 1)
        assert (loaded.end, loaded.streams) == (0, {})
    made, after = groups(chance, 3)
    loaded = catalog.load(whole(made + bytes(5000)), 1)
    assert (loaded.end, loaded.streams) == (after[-1][0], after[-1][2])


def test_an_entry_larger_than_a_piece(small: int) -> None:
    large = put(b"large", 1, runs=200)
    made = put(b"a", 1) + large + put(b"b", 1) + commit(1)
    assert catalog.load(whole(made), 1).streams.keys() == {b"a", b"large", b"b"}
    hurt = bytearray(made)
    hurt[len(put(b"a", 1)) + len(large) // 2] ^= 1
    loaded = catalog.load(whole(bytes(hurt)), 1)
    assert loaded.streams.keys() == {b"a", b"b"}
    assert loaded.damaged == [len(put(b"a", 1))]


def test_pieces_are_the_file(small: int) -> None:
    chance = random.Random(small)
    data = bytes(chance.choice(b"ab") for _ in range(3000))
    file = whole(data)
    for _ in range(500):
        offset = chance.randrange(len(data))
        length = chance.randrange(min(900, len(data) - offset))
        assert bytes(file.take(offset, length)) == data[offset : offset + length]
        wanted = bytes(chance.choice(b"ab") for _ in range(chance.randrange(1, 14)))
        assert file.find(wanted, offset) == data.find(wanted, offset)
        assert file.crc(offset, offset + length) == zlib.crc32(data[offset : offset + length])


# Not `ru_maxrss`: it begins with what this process had when it started the other one.
_MEASURE = """
import re, sys
from pathlib import Path
from switchgear_streams import catalog
from switchgear_streams.disk import Disk
from switchgear_streams.pieces import Pieces
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
disk = Disk(Path(sys.argv[1]))
before = peak()
loaded = catalog.load(Pieces.of(disk, disk.open(sys.argv[2])), 1)
print(len(loaded.streams), peak() - before)
"""


def test_loading_takes_little_more_memory_than_what_is_loaded(tmp_path: Path) -> None:
    """60 MB of history of 20,000 streams: what it takes is that of the streams, not of the file."""
    disk = Disk(tmp_path)
    writer = catalog.Writer.make(disk, 1)
    entries = [put(b"streams/%032d" % index, 1) for index in range(20_000)]
    for number in range(1, 31):
        writer.append(entries, {"wal": number, "generation": 1, "packs": []})
    size = writer.size
    assert size > 55_000_000
    writer.close()
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path), catalog.file_name(1)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    streams, grown = map(int, done.stdout.split())
    assert streams == 20_000
    assert grown * 1024 < size / 3, grown
