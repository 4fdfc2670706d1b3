"""Log files: tails, bounds, growth."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchgear_local.node import logfiles
from switchgear_local.node.logfiles import Growth, Logs


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "1.log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    yield fd
    os.close(fd)


def read_from(fd: int, offset: int) -> bytes:
    return os.pread(fd, 1 << 20, offset)


@given(
    st.lists(st.binary(max_size=5).map(lambda b: b.replace(b"\n", b"x")), max_size=8), st.booleans(), st.integers(0, 9)
)
def test_tail_is_the_last_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], ends: bool, n: int
) -> None:
    text = b"\n".join(lines) + (b"\n" if ends and lines else b"")
    path = tmp_path_factory.mktemp("log") / "1.log"
    path.write_bytes(text)
    fd = os.open(path, os.O_RDONLY)
    try:
        got = text[logfiles.tail_start(fd, n) :]
    finally:
        os.close(fd)
    assert got == b"".join(list(io.BytesIO(text))[-n:] if n else [])


def test_tail_over_many_blocks(file: int) -> None:
    lines = [b"line %d %s\n" % (i, b"x" * 90) for i in range(5000)]
    os.write(file, b"".join(lines))
    assert read_from(file, logfiles.tail_start(file, 3000)) == b"".join(lines[-3000:])


def test_a_bounded_log_loses_no_line_and_no_disk(tmp_path: Path, file: int) -> None:
    line = b"x" * 1023 + b"\n"
    for _ in range(22 * 1024):
        os.write(file, line)
    logfiles.bound(tmp_path / "1.log")
    os.write(file, b"the newest\n")
    assert os.fstat(file).st_blocks * 512 < 13 * 1024 * 1024
    first = logfiles.line_start(file, 0)
    assert first > 0
    size = os.fstat(file).st_size
    kept = b""
    offset = first
    while block := os.pread(file, 1 << 20, offset):
        kept += block
        offset += len(block)
    assert len(kept) >= logfiles.KEEP - 2048  # a line cut at the hole is left out
    assert set(kept.splitlines()) == {b"x" * 1023, b"the newest"}
    assert offset == size
    assert read_from(file, logfiles.tail_start(file, 1)) == b"the newest\n"
    logfiles.bound(tmp_path / "1.log")
    assert logfiles.line_start(file, 0) == first


def test_a_small_log_is_left_alone(tmp_path: Path, file: int) -> None:
    os.write(file, b"a\nb\n")
    logfiles.bound(tmp_path / "1.log")
    assert read_from(file, 0) == b"a\nb\n"
    logfiles.bound(tmp_path / "none.log")


def test_growth_tells_where_a_moment_is() -> None:
    growth = Growth()
    for second in range(10):
        growth.note(100.0 + second, second * 10)
    assert growth.offset_at(50) == 0
    assert growth.offset_at(104.5) == 40
    assert growth.offset_at(999) == 90


def test_growth_is_bounded() -> None:
    growth = Growth()
    for second in range(20_000):
        growth.note(float(second), second)
    assert len(growth.times) == len(growth.sizes) <= 4096
    # Never after the moment: a coarser answer begins sooner.
    assert all(growth.offset_at(moment) <= moment for moment in (10.0, 5000.0, 19_999.0))


def test_the_present_and_the_previous_log_are_kept(tmp_path: Path) -> None:
    logs = Logs(tmp_path / "c")
    for start in (1, 2, 3):
        logs.begin(start).write_text(f"{start}\n")
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["2.log", "3.log"]
    assert logs.path(2).read_text() == "2\n"


def test_since_begins_at_what_was_noted(tmp_path: Path) -> None:
    logs = Logs(tmp_path / "c")
    path = logs.begin(1)
    now = 1_000_000.0
    path.write_text("old\n")
    logs.tend(1, now)
    path.write_text("old\nnew\n")
    logs.tend(1, now + 10)
    os.utime(path, (now + 10, now + 10))
    assert logs.since(1, now + 5) == 4
    assert logs.since(1, now - 5) == 0
    assert logs.since(1, now + 20) == 8
