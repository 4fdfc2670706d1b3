"""A machine within the machine: namespaces of its own for network, mounts and processes, in which a node runs.

Everything in it, pods included, ends with the first process in it, and that one ends with us: interfaces, iptables
rules, mounts and processes leave no trace. Only control groups and files do; `close` removes the groups.

Addresses: the outer end of the cable is HOST, the inner one NODE; pods and Services are routed through the inner one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from switchgear_local.processes import die_with_parent
from switchgear_local.supervise import Command, Keeper
from tests.realnode.programs import search_path

HOST = "10.219.0.1"
NODE = "10.219.0.2"
PODS = "10.218.0.0/24"
SERVICES = "10.217.0.0/16"
_CABLE = "sgnode0"
_LOCK = Path("/run/lock/switchgear-node-tests")
_LOCK_SECONDS = 900.0
_CGROUPS = Path("/sys/fs/cgroup")
CGROUP = "switchgear-tests"
#: The first process: it does nothing, and lets the kernel take away whoever ends below it.
_INIT = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); print(flush=True)\nwhile True: signal.pause()"


class Machine:
    """`open` it, start programs with `keeper`, `close` it. One at a time on a machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: IO[str] | None = None
        self._outer: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._keepers: list[Keeper] = []

    def open(self) -> None:
        """Make namespaces and network. Raises AssertionError when another run holds the addresses for too long."""
        self._lock = _LOCK.open("w")
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline, "another run of the node tests does not end"
                time.sleep(0.5)
        remove_cgroups()
        make_cgroups()
        namespaces = ("--net", "--mount", "--pid", "--uts", "--ipc", "--mount-proc", "--fork", "--kill-child=SIGKILL")
        self._outer = subprocess.Popen(
            ["unshare", *namespaces, "--propagation", "private", sys.executable, "-c", _INIT],
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent(signal.SIGKILL),
        )
        assert self._outer.stdout is not None
        assert self._outer.stdout.readline() == b"\n"
        pid = self._outer.pid
        self._pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        self._network()
        # Containers' network namespaces are kept as mounts there; kubelet wants mounts that containers can share.
        Path("/run/netns").mkdir(exist_ok=True)
        self.run("mount", "-t", "tmpfs", "tmpfs", "/run/netns")
        self.run("mount", "--make-rshared", "/")

    def _network(self) -> None:
        _ip("link", "add", _CABLE, "type", "veth", "peer", "name", "eth0", "netns", str(self._pid))
        _ip("address", "add", f"{HOST}/30", "dev", _CABLE)
        _ip("link", "set", _CABLE, "up")
        self.run("ip", "address", "add", f"{NODE}/30", "dev", "eth0")
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "route", "add", "default", "via", HOST)
        self.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        for network in (PODS, SERVICES):
            _ip("route", "add", network, "via", NODE, "dev", _CABLE)

    def inside(self, *command: str) -> tuple[str, ...]:
        """The command that runs another one inside."""
        return ("nsenter", "--target", str(self._pid), "--net", "--mount", "--pid", "--uts", "--ipc", "--", *command)

    def run(self, *command: str, timeout: float = 60.0) -> str:
        """Run a command inside; its output. Raises AssertionError with what it says."""
        done = subprocess.run(
            self.inside(*command), env=environment(), capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}{done.stdout.strip()}"
        return done.stdout

    def keeper(self, name: str, *command: str) -> Keeper:
        """A program that runs inside and is started again whenever it ends."""
        (self.folder / "run").mkdir(exist_ok=True)
        kept = Command(
            name=name,
            argv=self.inside(*command),
            environ=environment(),
            log_file=self.folder / "logs" / f"{name}.log",
            cwd=self.folder,
            grace=2.0,
            parent_death_signal=signal.SIGKILL,
        )
        keeper = Keeper(kept, self.folder / "run" / f"{name}.pid")
        keeper.start()
        self._keepers.append(keeper)
        return keeper

    def close(self) -> None:
        """End everything inside, however it is. Safe to call twice."""
        for keeper in self._keepers:
            keeper.signal_stop()
        if self._outer is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._outer.kill()
            self._outer.wait(30)
            self._outer = None
        for keeper in self._keepers:
            keeper.stop()
        self._keepers.clear()
        subprocess.run(["ip", "link", "delete", _CABLE], env=environment(), capture_output=True, check=False)
        remove_cgroups()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def environment() -> dict[str, str]:
    """What programs of the node get."""
    return {"PATH": search_path(), "HOME": "/root", "LANG": "C.UTF-8"}


def make_cgroups() -> None:
    """Make the node's control groups: kubelet wants to find them in every hierarchy."""
    if (_CGROUPS / "cgroup.controllers").exists():
        (_CGROUPS / CGROUP).mkdir()
        return
    for hierarchy in _CGROUPS.iterdir():
        if not hierarchy.is_dir() or hierarchy.is_symlink():
            continue
        (hierarchy / CGROUP).mkdir(exist_ok=True)
        if hierarchy.name == "cpuset":
            for name in ("cpuset.cpus", "cpuset.mems"):
                (hierarchy / CGROUP / name).write_text((hierarchy / name).read_text())


def remove_cgroups() -> None:
    """Remove the node's control groups, once nothing runs in them."""
    deadline = time.monotonic() + 60
    while True:
        left = [root for root in (*_CGROUPS.glob(f"*/{CGROUP}"), *_CGROUPS.glob(CGROUP)) if root.is_dir()]
        for root in left:
            for folder in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            with contextlib.suppress(OSError):
                root.rmdir()
        if not left or time.monotonic() > deadline:
            return
        time.sleep(0.1)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"
