"""A kept process comes back when it dies, stops when asked, and never outlives its keeper."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from switchgear_local import supervise
from switchgear_local.errors import StartError
from switchgear_local.supervise import Command, Keeper


def command(tmp_path: Path, script: str, **more: object) -> Command:
    return Command(
        name="it",
        argv=(sys.executable, "-u", "-c", script),
        environ={"PATH": os.environ["PATH"]},
        log_file=tmp_path / "it.log",
        **more,  # type: ignore[arg-type]
    )


def eventually(check: Callable[[], bool], limit: float = 60) -> None:
    deadline = time.monotonic() + limit
    while not check():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_killed_process_comes_back_and_stops_for_good(tmp_path: Path) -> None:
    told: list[str] = []
    keeper = Keeper(command(tmp_path, "import time; time.sleep(600)"), tmp_path / "it.pid", told.append)
    keeper.start()
    first = keeper.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    eventually(lambda: keeper.pid not in (None, first))
    second = keeper.pid
    assert second is not None
    keeper.stop()
    assert not alive(second)
    assert keeper.pid is None
    assert keeper.restarts == 1
    assert "status -9" in told[0]
    assert not (tmp_path / "it.pid").exists()


def test_process_that_ignores_the_signal_is_killed_after_its_grace(tmp_path: Path) -> None:
    script = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(600)"
    keeper = Keeper(command(tmp_path, script, grace=0.5), tmp_path / "it.pid")
    keeper.start()
    eventually(lambda: "up" in keeper.log_tail())
    pid = keeper.pid
    assert pid is not None
    keeper.stop()
    assert not alive(pid)


def test_program_that_does_not_exist_is_an_error_at_once(tmp_path: Path) -> None:
    missing = Command(name="it", argv=(str(tmp_path / "no"),), environ={}, log_file=tmp_path / "it.log")
    with pytest.raises(StartError, match="it cannot be executed"):
        Keeper(missing, tmp_path / "it.pid").start()


def test_wait_gives_up_on_a_process_that_keeps_ending_and_shows_its_log(tmp_path: Path) -> None:
    keeper = Keeper(command(tmp_path, "print('the reason'); raise SystemExit(3)"), tmp_path / "it.pid")
    keeper.start()
    try:
        with pytest.raises(StartError, match=r"keeps ending.*\n.*the reason"):
            supervise.wait_until(lambda: False, 60, "it", (keeper,))
    finally:
        keeper.stop()


def test_wait_has_a_limit(tmp_path: Path) -> None:
    keeper = Keeper(command(tmp_path, "import time; print('busy'); time.sleep(600)"), tmp_path / "it.pid")
    keeper.start()
    try:
        eventually(lambda: "busy" in keeper.log_tail())
        with pytest.raises(StartError, match="not ready within 0 s"):
            supervise.wait_until(lambda: False, 0.2, "it", (keeper,))
    finally:
        keeper.stop()


def test_process_goes_when_its_keeper_is_killed(tmp_path: Path) -> None:
    script = f"""
import pathlib, sys, time
from switchgear_local.supervise import Command, Keeper
argv = ({sys.executable!r}, "-c", "import time; time.sleep(600)")
c = Command("it", argv, {{}}, pathlib.Path({str(tmp_path / "l")!r}))
k = Keeper(c, pathlib.Path({str(tmp_path / "it.pid")!r}))
k.start()
print(k.pid, flush=True)
time.sleep(600)
"""
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    assert alive(child)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    eventually(lambda: not alive(child))


def test_orphan_of_an_earlier_life_is_ended_but_a_stranger_is_not(tmp_path: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        pid_file = tmp_path / "it.pid"
        pid_file.write_text(f"{stranger.pid} 1\n")  # the number was given to another process since
        supervise.end_orphan(pid_file)
        assert stranger.poll() is None
        pid_file.write_text(f"{stranger.pid} {supervise.start_time(stranger.pid)}\n")
        supervise.end_orphan(pid_file)
        eventually(lambda: stranger.poll() is not None)
        assert not pid_file.exists()
    finally:
        stranger.kill()
        stranger.wait()


def test_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "_LOG_LIMIT", 50_000)
    monkeypatch.setattr(supervise, "_WATCH_INTERVAL", 0.05)
    script = "import time\nfor i in range(100000): print('x' * 1000); time.sleep(0.001)"
    keeper = Keeper(command(tmp_path, script), tmp_path / "it.pid")
    keeper.start()
    try:
        eventually(lambda: (tmp_path / "it.log.1").exists())
        first = (tmp_path / "it.log.1").stat().st_mtime_ns
        eventually(lambda: (tmp_path / "it.log.1").stat().st_mtime_ns > first)
        eventually(lambda: (tmp_path / "it.log").stat().st_size < 200_000)
    finally:
        keeper.stop()
