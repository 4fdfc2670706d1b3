"""Real processes: start, adopt, end with everything they started."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from switchgear_local.node import process
from switchgear_local.node.process import Launch

MARK = f"test-{uuid.uuid4().hex}"


@pytest.fixture
def keep_fd() -> Iterator[int]:
    reading, writing = os.pipe()
    yield writing
    os.close(reading)
    os.close(writing)


@pytest.fixture
def launch(tmp_path: Path, keep_fd: int) -> Iterator[Launch]:
    yield Launch(
        argv=["sleep", "100"],
        environ={"PATH": os.environ["PATH"]},
        directory=str(tmp_path),
        log=tmp_path / "log",
        marker=f"{MARK}/{tmp_path.name}",
        keep_fd=keep_fd,
    )
    for pids in process.marked(f"{MARK}/{tmp_path.name}").values():
        for pid in pids:
            process.send(pid, signal.SIGKILL)


def shell(launch: Launch, script: str) -> Launch:
    return replace(launch, argv=["sh", "-c", script])


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 60
    while not path.exists() or not path.read_text().strip():
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.01)
    return path.read_text().strip()


async def test_exit_codes_and_output(launch: Launch) -> None:
    started = process.start(shell(launch, "echo out; echo err >&2; exit 7"))
    assert await started.wait() == 7
    assert launch.log.read_text() == "out\nerr\n"
    assert launch.log.stat().st_mode & 0o777 == 0o600
    killed = process.start(launch)
    killed.signal(signal.SIGTERM)
    assert await killed.wait() == -signal.SIGTERM
    started.close()
    killed.close()


async def test_what_cannot_be_started_raises(launch: Launch) -> None:
    with pytest.raises((FileNotFoundError, PermissionError)):
        process.start(replace(launch, argv=["no-such-program-here"]))


async def test_only_the_given_environment_is_passed(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_NODE", "1")
    started = process.start(replace(shell(launch, "env"), environ={"PATH": os.environ["PATH"], "OWN": "2"}))
    await started.wait()
    names = {line.partition("=")[0] for line in launch.log.read_text().splitlines()}
    assert {"PATH", "OWN", process.MARKER} <= names
    assert "OF_THE_NODE" not in names
    started.close()


async def test_adoption_watches_the_end_of_a_process_that_is_not_a_child(launch: Launch) -> None:
    # A shell starts it and goes, as the node does when it is killed.
    pid_file = launch.log.with_name("pid")
    parent = process.start(shell(launch, f"sleep 100 & echo $! > {pid_file}"))
    await parent.wait()
    identity = process.identify(int(wait_for(pid_file)))
    assert identity is not None
    adopted = process.adopt(identity, launch.marker)
    assert adopted is not None
    ending = asyncio.create_task(adopted.wait())
    await asyncio.sleep(0.05)
    assert not ending.done()
    adopted.signal(signal.SIGKILL)
    async with asyncio.timeout(60):
        assert await ending is None
    adopted.close()
    parent.close()


async def test_a_pid_that_was_reused_is_not_adopted(launch: Launch) -> None:
    started = process.start(launch)
    assert process.is_alive(started.identity)
    assert process.adopt(replace(started.identity, started=started.identity.started - 1), "m") is None
    assert process.adopt(replace(started.identity, boot="another"), "m") is None
    started.signal(signal.SIGKILL)
    await started.wait()
    assert process.adopt(started.identity, "m") is None
    started.close()


async def test_descendants_end_too_even_in_sessions_of_their_own(launch: Launch) -> None:
    child = launch.log.with_name("child")
    script = (
        "import os,subprocess,sys,time\n"
        "p = subprocess.Popen(['sleep','100'], start_new_session=True)\n"
        f"open({str(child)!r},'w').write(str(p.pid))\n"
        "subprocess.Popen(['sleep','100'])\n"
        "time.sleep(100)\n"
    )
    started = process.start(replace(launch, argv=[sys.executable, "-c", script]))
    grandchild = int(wait_for(child))
    deadline = time.monotonic() + 60
    while len(process.members(started.pid, launch.marker)) < 3:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    started.signal(signal.SIGKILL)
    assert await started.wait() == -signal.SIGKILL
    assert process.identify(grandchild) is not None
    assert await process.kill_members(started.pid, launch.marker)
    assert process.members(started.pid, launch.marker) == []
    assert process.identify(grandchild) is None
    started.close()


async def test_others_are_never_signalled(launch: Launch) -> None:
    other = process.start(replace(launch, marker=f"{launch.marker}x"))
    assert process.signal_members(10**7, launch.marker, signal.SIGKILL) == 0
    assert process.is_alive(other.identity)
    other.signal(signal.SIGKILL)
    await other.wait()
    other.close()


async def test_processes_are_found_by_marker_and_keep_the_lock(launch: Launch) -> None:
    started = process.start(launch)
    deadline = time.monotonic() + 60
    while process.marked(launch.marker) != {launch.marker: [started.pid]}:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert os.path.samestat(Path(f"/proc/{started.pid}/fd/{launch.keep_fd}").stat(), os.fstat(launch.keep_fd))
    assert os.getsid(started.pid) == started.pid
    started.signal(signal.SIGKILL)
    await started.wait()
    started.close()


def test_the_arguments_are_not_in_representations(launch: Launch) -> None:
    assert "sleep" not in repr(launch)
    assert "PATH" not in repr(launch)
