"""The demo as a process, on a real database, a real sync server and a real streams server."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg

from switchgear_local.demo import TABLE
from switchgear_local.processes import free_port

BIN = Path(sys.executable).parent


def until(condition: Callable[[], Any], what: str, limit: float = 60) -> Any:
    """The first true value of the condition. Raises AssertionError after `limit` seconds."""
    deadline = time.monotonic() + limit
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {limit} s for {what}"
        time.sleep(0.05)


@dataclass
class Process:
    """A program that can be killed and started again."""

    command: list[str]
    environment: Mapping[str, str]
    log_path: Path
    running: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            self.running = subprocess.Popen(
                self.command, env={**os.environ, **self.environment}, stdout=log, stderr=log
            )

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.running is not None
        self.running.send_signal(number)
        try:
            return self.running.wait(60)
        finally:
            self.running.kill()
            self.running.wait(60)


@dataclass
class World:
    """Database, sync server, streams server and demo."""

    folder: Path
    database_url: str
    interval: float = 0.3
    sync_secret: str = field(default_factory=lambda: "sync-" + secrets.token_hex(16))
    streams_secret: str = field(default_factory=lambda: "streams-" + secrets.token_hex(16))
    ports: tuple[int, int, int] = field(default_factory=lambda: (free_port(), free_port(), free_port()))

    def __post_init__(self) -> None:
        shapes_port, streams_port, demo_port = self.ports
        self.shapes = self._process(
            "shapes",
            [str(BIN / "switchgear-shapes")],
            DATABASE_URL=self.database_url,
            ELECTRIC_PORT=str(shapes_port),
            ELECTRIC_SECRET=self.sync_secret,
            ELECTRIC_STORAGE_DIR=str(self.folder / "shapes-data"),
            ELECTRIC_REPLICATION_STREAM_ID=f"demo_{secrets.token_hex(4)}",
        )
        self.streams = self._process(
            "streams",
            [
                str(BIN / "switchgear-streams"),
                f"--port={streams_port}",
                f"--data-dir={self.folder / 'streams-data'}",
            ],
            STREAMS_SECRET=self.streams_secret,
        )
        state = {
            "edge_url": f"http://127.0.0.1:{shapes_port}",
            "database_url": self.database_url,
            "sync": {
                "service_id": "svc-the-database",
                "url": f"http://127.0.0.1:{shapes_port}/v1/shape",
                "secret": self.sync_secret,
            },
            "streams": {
                "service_id": "svc-the-streams",
                "url": f"http://127.0.0.1:{streams_port}/v1/stream",
                "secret": self.streams_secret,
            },
        }
        self.state_file = self.folder / "state.json"
        self.state_file.write_text(json.dumps(state))
        self.state_file.chmod(0o600)
        self.demo = self._process(
            "demo",
            [
                sys.executable,
                *("-m", "switchgear_local.demo", f"--port={demo_port}"),
                *(f"--region-state={self.state_file}", f"--interval={self.interval}"),
            ],
        )
        self.url = f"http://127.0.0.1:{demo_port}"

    def _process(self, name: str, command: list[str], **environment: str) -> Process:
        return Process(command, environment, self.folder / f"{name}.log")

    def start(self, *names: str) -> None:
        """Starts the named processes, and waits for those that say when they are ready."""
        for name in names:
            self.of(name).start()
        for name in names:
            self.wait_ready(name)

    def of(self, name: str) -> Process:
        found: Process = getattr(self, name)
        return found

    def wait_ready(self, name: str) -> None:
        port = self.ports[("shapes", "streams", "demo").index(name)]

        def ready() -> bool:
            running = self.of(name).running
            assert running is not None
            assert running.poll() is None, f"{name} ended: {self.of(name).log[-3000:]}"
            try:
                return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5).status_code == 200
            except httpx.HTTPError:
                return False

        until(ready, f"{name} to be ready")

    def stop(self) -> None:
        for process in (self.demo, self.shapes, self.streams):
            if process.running is not None and process.running.poll() is None:
                process.stop()


def rows(world: World) -> list[tuple[int, str, bool]]:
    """The demo's table, as Postgres has it."""
    with psycopg.connect(world.database_url) as connection:
        return connection.execute(f"SELECT id, title, done FROM {TABLE} ORDER BY id").fetchall()
