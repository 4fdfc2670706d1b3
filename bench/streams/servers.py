"""The servers that are measured, each as a process on a core of its own with a data directory of its own.

Peers are looked for below `~/.cache/switchgear/bench` (`SWITCHGEAR_BENCH_CACHE`); a missing one is installed there by
its ordinary client (cargo, npm) with `--install`, else left out.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

CACHE = Path(os.environ.get("SWITCHGEAR_BENCH_CACHE") or Path.home() / ".cache/switchgear/bench")
RUST, NODE = "0.1.5", "0.3.7"
SERVER_CORE, CLIENT_CORE = "0", "1"
_NODE_SCRIPT = """
import { DurableStreamTestServer } from '@durable-streams/server'
const [port, dataDir] = process.argv.slice(2)
const where = dataDir ? { dataDir } : {}
await new DurableStreamTestServer({ port: Number(port), longPollTimeout: 30000, ...where }).start()
"""


@dataclass(frozen=True)
class Kind:
    name: str
    durable: bool


OURS = Kind("switchgear", True)
KINDS = (
    OURS,
    Kind("rust", True),
    Kind("rust memory", False),
    Kind("node file", True),
    Kind("node memory", False),
)


@dataclass
class Running:
    kind: Kind
    port: int
    process: subprocess.Popen[bytes]
    data: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stream(self, name: str) -> str:
        return f"{self.url}/v1/stream/{name}"

    def resident(self) -> float:
        """MB."""
        return self._status("VmRSS")

    def peak(self) -> float:
        """MB: the most that ever were resident."""
        return self._status("VmHWM")

    def _status(self, field: str) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith(field))) / 1024

    def cpu(self) -> float:
        """Seconds used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def available(kind: Kind) -> bool:
    if kind is OURS:
        return True
    return _rust().exists() if kind.name.startswith("rust") else (CACHE / "node/node_modules").exists()


def install() -> None:
    """Fetch the peers."""
    if not _rust().exists():
        subprocess.run(
            ["cargo", "install", "durable-streams", "--version", RUST, "--locked", "--root", CACHE / "rust"], check=True
        )
    if not (CACHE / "node/node_modules").exists():
        (CACHE / "node").mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", f"@durable-streams/server@{NODE}"],
            check=True,
            cwd=CACHE / "node",
        )


def _rust() -> Path:
    return CACHE / "rust/bin/durable-streams-server"


def pinned(core: str) -> list[str]:
    return ["taskset", "-c", core] if shutil.which("taskset") and (os.cpu_count() or 1) > 1 else []


python = str(Path(sys.executable).absolute())
"""What runs ours: of the version that this has, whose libraries it uses."""


def version() -> str:
    """Of that."""
    return subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.strip()


def _command(kind: Kind, port: int, data: Path) -> list[str]:
    if kind is OURS:
        flags = ["--port", str(port), "--data-dir", str(data), "--insecure"]
        return [python, "-m", "switchgear_streams", *flags]
    if kind.name.startswith("rust"):
        flags = ["--host", "127.0.0.1", "--port", str(port), "--data-dir", str(data)]
        return [str(_rust()), *flags, *([] if kind.durable else ["--durability", "memory"])]
    script = CACHE / "node/bench.mjs"
    script.write_text(_NODE_SCRIPT)
    return ["node", str(script), str(port), *([str(data)] if kind.durable else [])]


def _is_ours(path: str) -> bool:
    return "site-packages" in path or Path(path).is_relative_to(Path(__file__).resolve().parents[2])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


def launch(kind: Kind, folder: Path) -> Running:
    """Start the server on what is in the folder; the caller waits for it and ends it."""
    port = free_port()
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [*pinned(SERVER_CORE), *_command(kind, port, folder / "data")],
            stdout=log,
            stderr=log,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if _is_ours(path))},
        )
    return Running(kind, port, process, folder / "data")


@contextlib.contextmanager
def running(kind: Kind) -> Iterator[Running]:
    """The server, started empty; its data go with it."""
    folder = Path(tempfile.mkdtemp(prefix="sg-bench-"))
    made = launch(kind, folder)
    process = made.process
    try:
        _wait(made, folder / "log")
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(server: Running, log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and server.process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            httpx.head(server.stream("none"), trust_env=False)
            return
        time.sleep(0.05)
    raise RuntimeError(f"{server.kind.name} did not start: {log.read_text()[-2000:]}")
