"""A real `switchgear-shapes` process on a free port, and a client that materialises a shape strictly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from switchgear_local import processes

HOST = "127.0.0.1"
START_SECONDS = 90
"""Ample on an idle machine; one that is busy otherwise takes half a minute to start Python."""
one_version = pytest.mark.parametrize("postgres", [18], indirect=True, ids=["pg18"])
"""For tests of what does not depend on the version of Postgres."""


class ShapesServer:
    """One process. `environment` is laid over the defaults (insecure, and long-polls that wait long for a change).

    A test whose long-polls end without a change gives `ELECTRIC_LONG_POLL_TIMEOUT`, or waits its 20 s.
    """

    def __init__(self, folder: Path, database_url: str, module: str = "switchgear_shapes", **environment: str) -> None:
        self._module = module
        self.folder = folder
        self.database_url = database_url
        self.environment = environment
        self.process: subprocess.Popen[bytes] | None = None
        self.port = processes.free_port()  # the same after each start: none that an outgoing connection may get
        self.log_path = folder / "server.log"
        folder.mkdir(parents=True, exist_ok=True)
        self.http = httpx.Client(timeout=httpx.Timeout(60.0))

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def shape_url(self) -> str:
        return f"{self.url}/v1/shape"

    def start(self, *, active: bool = True) -> ShapesServer:
        """Start it (again, on the same port); with `active`, wait until it serves."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ELECTRIC_", "DATABASE_URL"))}
        settings = {
            "DATABASE_URL": self.database_url,
            "ELECTRIC_INSECURE": "true",
            "ELECTRIC_PORT": str(self.port),
            "ELECTRIC_STORAGE_DIR": str(self.folder / "storage"),
            "ELECTRIC_LONG_POLL_TIMEOUT": "20000",
            "ELECTRIC_DB_POOL_SIZE": "6",
        } | self.environment
        settings = {key: value for key, value in settings.items() if value}
        offset = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self._module], env=inherited | settings, stdout=log, stderr=log
            )
        self._wait_port(offset)
        if active:
            self.wait_active()
        return self

    def _wait_port(self, offset: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            text = self.log_path.read_bytes()[offset:].decode(errors="replace")
            for line in text.splitlines(keepends=True):
                if "listening on" in line and line.endswith("\n"):  # the rest of it may be on its way
                    self.port = int(line.rsplit(" ", 1)[1])
                    return
            assert self.process is not None
            assert self.process.poll() is None, f"the server ended: {text[-3000:]}"
            assert time.monotonic() < deadline, f"no port within {START_SECONDS} s: {text[-3000:]}"
            time.sleep(0.02)

    def wait_active(self, seconds: float = 60.0) -> None:
        self.wait(lambda: self.health() == (200, "active"), seconds, "active")

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}\n{self.log()[-4000:]}"
            time.sleep(0.02)

    def wait_durable(self) -> None:
        """Until all shapes that were made survive a kill: a snapshot is shown before it does."""
        self.wait(lambda: self.metric("switchgear_snapshots_running") == 0, 60, "the snapshots to be durable")

    def health(self) -> tuple[int, str]:
        try:
            response = self.http.get(f"{self.url}/v1/health")
        except httpx.TransportError:
            return 0, "unreachable"
        return response.status_code, response.json()["status"]

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")  # it may end within a character

    def get(self, **params: Any) -> httpx.Response:
        """GET /v1/shape."""
        return self.http.get(self.shape_url, params={k: str(v) for k, v in params.items()})

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def terminate(self) -> None:
        """SIGTERM, without waiting for the end."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, which leaves the process no chance to do anything."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(60)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.http.close()

    def metric(self, name: str) -> float:
        for line in self.http.get(f"{self.url}/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"no metric {name}")


class Client:
    """Follows a shape request by request, and fails when the server repeats, loses or reorders a change.

    `rows` is the shape as this client has it: key → value. `restarts` counts 409 answers.
    """

    def __init__(self, server: ShapesServer, **params: str) -> None:
        self.server = server
        self.params = params
        self.rows: dict[str, dict[str, Any]] = {}
        self.messages: list[dict[str, Any]] = []
        self.offset = "-1"
        self.handle: str | None = None
        self.cursor: str | None = None
        self.up_to_date = False
        self.restarts = 0
        self.last_position = (-1, -1)
        self.full = params.get("replica") == "full"

    def step(self, *, live: bool = False) -> httpx.Response:
        """One request. Transport errors and 503 are the caller's to retry (`sync` does)."""
        params = dict(self.params, offset=self.offset)
        if self.handle is not None:
            params["handle"] = self.handle
        if live:
            params["live"] = "true"
            if self.cursor is not None:
                params["cursor"] = self.cursor
        response = self.server.http.get(self.server.shape_url, params=params)
        if response.status_code == 409:
            self.restart(response.headers.get("electric-handle"))
        elif response.status_code == 200:
            self._take(response)
        return response

    def restart(self, handle: str | None) -> None:
        self.restarts += 1
        self.rows.clear()
        self.messages.clear()
        self.offset, self.handle, self.cursor = "-1", handle, None
        self.last_position = (-1, -1)
        self.up_to_date = False

    def sync(self, seconds: float = 60.0) -> None:
        """Request until an answer says up-to-date, over failures that the protocol tells clients to retry."""
        self.up_to_date = False
        deadline = time.monotonic() + seconds
        while not self.up_to_date:
            assert time.monotonic() < deadline, f"not up to date within {seconds} s\n{self.server.log()[-4000:]}"
            try:
                response = self.step()
            except httpx.TransportError:
                time.sleep(0.05)
                continue
            if response.status_code == 503:
                time.sleep(0.1)
            elif response.status_code not in (200, 409):
                raise AssertionError(f"{response.status_code}: {response.text}")

    def sync_past(self, lsn: int, seconds: float = 60.0) -> None:
        """Request until the server has seen every commit up to `lsn`."""
        deadline = time.monotonic() + seconds
        while True:
            self.sync(seconds)
            seen = int(self.last_control["global_last_seen_lsn"])
            if seen >= lsn:
                return
            assert time.monotonic() < deadline, f"still at {seen}, before {lsn}\n{self.server.log()[-4000:]}"
            time.sleep(0.05)

    def _take(self, response: httpx.Response) -> None:
        self.handle = response.headers["electric-handle"]
        self.offset = response.headers["electric-offset"]
        self.cursor = response.headers.get("electric-cursor", self.cursor)
        for message in json.loads(response.content):
            self.apply(message)
        assert ("electric-up-to-date" in response.headers) == self.up_to_date

    def apply(self, message: dict[str, Any]) -> None:
        """One message of the log."""
        headers = message["headers"]
        self.messages.append(message)
        self.up_to_date = headers.get("control") == "up-to-date"
        if "control" in headers:
            self.last_control = headers
            return
        if "lsn" in headers:
            position = (int(headers["lsn"]), headers["op_position"])
            assert position > self.last_position, f"{position} came after {self.last_position}"
            self.last_position = position
        key, value, operation = message["key"], message["value"], headers["operation"]
        if operation == "insert":
            assert key not in self.rows, f"{key} inserted twice"
            self.rows[key] = dict(value)
            return
        assert key in self.rows, f"{operation} of {key}, which is not there"
        known = self.rows[key]
        if operation == "delete":
            if self.full:
                assert value == known
            del self.rows[key]
            return
        assert operation == "update"
        if self.full:
            changed = message["old_value"]
            assert {name: known[name] for name in changed} == changed
            assert {name for name in value if value[name] != known[name]} == set(changed)
        known.update(value)
