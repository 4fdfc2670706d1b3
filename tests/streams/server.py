"""A real `switchgear-streams` process on a free port, and small helpers to speak to it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

HOST = "127.0.0.1"
# So that any test can be run against several workers, too.
WORKERS = os.environ.get("STREAMS_TEST_WORKERS", "")
ZERO = "0000000000000000_0000000000000000"
JSON = {"content-type": "application/json"}
TEXT = {"content-type": "text/plain"}
OCTETS = {"content-type": "application/octet-stream"}


class StreamsServer:
    """One process. `module`: what to run instead (the server with a disk that can be made to fail)."""

    def __init__(
        self,
        folder: Path,
        *flags: str,
        secret: str | None = None,
        module: str = "switchgear_streams",
        environment: dict[str, str] | None = None,
        long_poll_ms: int = 500,
        flags_only: bool = False,
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._flags = flags
        self._secret = secret
        self._flags_only = flags_only
        """Neither a secret nor --insecure."""
        self._module = module
        self._environment = environment or {}
        self._long_poll_ms = long_poll_ms
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.started = 0
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, *, wait: bool = True, port: int = 0) -> StreamsServer:
        command = [sys.executable, "-m", self._module, "--port", str(port), "--data-dir", str(self.data)]
        command += ["--long-poll-timeout-ms", str(self._long_poll_ms), *self._flags]
        if WORKERS and self._module == "switchgear_streams" and "--workers" not in self._flags:
            command += ["--workers", WORKERS]
        environment = {**os.environ, **self._environment}
        environment.pop("STREAMS_SECRET", None)
        if self._flags_only:
            pass
        elif self._secret is None:
            command.append("--insecure")
        else:
            environment["STREAMS_SECRET"] = self._secret
        self.started += 1
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
        if wait:
            try:
                self.wait_ready()
            except BaseException:
                self.end()
                raise
        return self

    @property
    def log_path(self) -> Path:
        return self.folder / f"server-{self.started}.log"

    @property
    def log(self) -> str:
        return self.log_path.read_text("utf-8", "replace")

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def stream(self, name: str) -> str:
        return f"{self.url}/v1/stream/{name}"

    def wait_ready(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            found = re.search(r"listening on http://[^:]+:(\d+)", self.log)
            if found:
                self.port = int(found[1])
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{self.url}/ready", trust_env=False).status_code == 200:
                        return
            if self.process.poll() is not None:
                raise AssertionError(f"exited with {self.process.returncode}: {self.log}")
            time.sleep(0.02)
        raise AssertionError(f"not ready: {self.log}")

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(90)

    @property
    def workers(self) -> list[int]:
        """The processes of its workers, if it has several."""
        assert self.process is not None
        pid = self.process.pid
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def kill(self, chance: random.Random | None = None) -> None:
        """kill -9; with `chance`, of any of its processes, which is the end of all."""
        assert self.process is not None
        pids = [self.process.pid]
        if chance is not None and "--workers" in self._flags:
            pids += self.workers
        os.kill(pids[0] if chance is None else chance.choice(pids), signal.SIGKILL)
        self.process.wait(60)

    def end(self) -> None:
        """Whatever state it is in."""
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics", trust_env=False).text
        text = re.sub(r',?worker="\d+"', "", text).replace("{}", "")
        found = re.findall(rf"^{re.escape(name)} (\S+)$", text, re.M)
        assert found, f"no metric {name} in {text}"
        return sum(map(float, found))


@contextlib.contextmanager
def serving(folder: Path, *flags: str, long_poll_ms: int = 500) -> Iterator[StreamsServer]:
    """A server that stops in good order in the end, and has logged no error of its own."""
    running = StreamsServer(folder, *flags, long_poll_ms=long_poll_ms).start()
    try:
        yield running
        status = running.stop()
    finally:
        running.end()
    assert status == 0, running.log
    assert "Traceback" not in running.log, running.log


def events(text: str) -> list[tuple[str, str]]:
    """(event, data) of everything complete in an SSE text."""
    made = []
    for block in text.split("\n\n")[:-1]:
        name, data = "", []
        for line in block.split("\n"):
            if line.startswith("event:"):
                name = line[6:].strip()
            elif line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
        made.append((name, "\n".join(data)))
    return made


def control(text: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(text)
    return made


def read_all(client: httpx.Client, url: str, headers: dict[str, str] | None = None) -> tuple[bytes, str]:
    """Every byte from the start by catch-up reads, and the tail's offset."""
    offset, parts = "-1", []
    while True:
        answer = client.get(url, params={"offset": offset}, headers=headers)
        assert answer.status_code == 200, answer.text
        parts.append(answer.content)
        offset = answer.headers["stream-next-offset"]
        if "stream-up-to-date" in answer.headers:
            return b"".join(parts), offset


def read_messages(client: httpx.Client, url: str) -> list[Any]:
    """Every message of a JSON stream by catch-up reads."""
    offset, made = "-1", []
    while True:
        answer = client.get(url, params={"offset": offset})
        assert answer.status_code == 200, answer.text
        made += answer.json()
        offset = answer.headers["stream-next-offset"]
        if "stream-up-to-date" in answer.headers:
            return made
