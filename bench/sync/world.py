"""What is measured: a durable Postgres and one shape server, pinned to a core; the load runs on another."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from bench.sync.http import Answer, Connection
from switchgear_local.postgres import PostgresServer, find

SERVER_CORE = 0
LOAD_CORE = (os.cpu_count() or 1) - 1


class World:
    """One Postgres; servers come and go with `server`."""

    def __init__(self) -> None:
        os.sched_setaffinity(0, {LOAD_CORE})
        self.folder = Path(tempfile.mkdtemp(prefix="sg-bench-"))
        self.folder.chmod(0o755)
        self.postgres = PostgresServer(
            find(15),
            self.folder / "postgres",
            settings={"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"},
            binary_copies=self.folder / "binaries",
        )
        self.postgres.start()
        assert self.postgres.pid is not None
        os.sched_setaffinity(self.postgres.pid, range(os.cpu_count() or 1))
        self._databases = 0

    def close(self) -> None:
        self.postgres.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def database(self) -> str:
        """The URL of a new database."""
        self._databases += 1
        name = f"bench{self._databases}"
        with psycopg.connect(self.postgres.url, autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name}".encode())
        return self.postgres.url_of(name)

    @contextlib.contextmanager
    def server(self, url: str, **environment: str) -> Iterator[Server]:
        made = Server(self.folder / f"server{self._databases}", url, environment)
        try:
            yield made.start()
        finally:
            made.stop()
            made.forget_slot()


class Server:
    """One `switchgear-shapes`."""

    def __init__(self, folder: Path, url: str, environment: dict[str, str]) -> None:
        self.folder = folder
        self.url = url
        self.environment = environment
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> Server:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ELECTRIC_", "DATABASE_URL"))}
        settings = {
            "DATABASE_URL": self.url,
            "ELECTRIC_INSECURE": "true",
            "ELECTRIC_PORT": str(self.port),
            "ELECTRIC_STORAGE_DIR": str(self.folder / "storage"),
            "ELECTRIC_LOG_LEVEL": "info",
        } | self.environment
        log = (self.folder / "server.log").open("ab")
        offset = log.tell()
        self.process = subprocess.Popen(
            ["taskset", "-c", str(SERVER_CORE), shutil.which("switchgear-shapes") or "switchgear-shapes"],
            env=inherited | settings,
            stdout=log,
            stderr=log,
        )
        deadline = time.monotonic() + 120
        while True:
            text = (self.folder / "server.log").read_bytes()[offset:].decode(errors="replace")
            found = re.search(r"listening on \S+ port (\d+)", text)
            if found:
                self.port = int(found[1])
                with contextlib.suppress(OSError):
                    if self.active():
                        return self
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server does not become active: {text[-2000:]}")
            time.sleep(0.01)

    def active(self) -> bool:
        connection = Connection(self.port)
        connection.socket.sendall(b"GET /v1/health HTTP/1.1\r\nhost: bench\r\n\r\n")
        status = connection.answer().status
        connection.close()
        return status == 200

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(60)

    def forget_slot(self) -> None:
        """Nothing holds back the log of Postgres in the measurements that follow."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                " WHERE database = current_database() AND NOT active"
            )

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The process stands still, so that work piles up in Postgres."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def memory(self, field: str = "VmRSS") -> float:
        """MB; `VmHWM` is the peak."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1]) / 1024

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # -- shapes --

    def synced(self, connection: Connection, params: dict[str, Any]) -> dict[str, str]:
        """Read a shape to its end. What a live request needs: `handle` and `offset`."""
        answer = expect(connection.get(**params, offset="-1"))
        while "electric-up-to-date" not in answer.headers:
            answer = expect(connection.get(**params, **position(answer)))
        return position(answer)

    def create(self, shapes: list[dict[str, Any]], at_once: int = 50) -> None:
        """Make shapes, `at_once` at a time, up to their snapshots' first chunk."""
        connections = [Connection(self.port) for _ in range(min(at_once, len(shapes)))]
        for start in range(0, len(shapes), len(connections)):
            part = shapes[start : start + len(connections)]
            for connection, params in zip(connections, part, strict=False):
                connection.ask(**params, offset="-1")
            for connection, _ in zip(connections, part, strict=False):
                expect(connection.answer())
        for connection in connections:
            connection.close()

    def wait_lsn(self, connection: Connection, params: dict[str, Any], lsn: int, seconds: float = 300.0) -> float:
        """When (perf_counter) the server had processed every commit up to `lsn`, seen through one shape."""
        deadline = time.monotonic() + seconds
        known = position(expect(connection.get(**params, offset="now")))
        while True:
            answer = connection.get(**params, **known)
            if answer.status == 200:
                known = position(answer)
                if seen(answer) >= lsn:
                    return answer.at
            if time.monotonic() > deadline:
                raise TimeoutError("the server does not catch up")
            time.sleep(0.005)


def expect(answer: Answer) -> Answer:
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {answer.body[:500]!r}")
    return answer


def position(answer: Answer) -> dict[str, str]:
    return {"handle": answer.headers["electric-handle"], "offset": answer.headers["electric-offset"]}


def seen(answer: Answer) -> int:
    found = re.findall(rb'"global_last_seen_lsn":"(\d+)"', answer.body[-200:])
    return int(found[-1]) if found else -1


def wal_position(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
    assert row is not None
    return int(row[0])
