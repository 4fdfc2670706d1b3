"""A whole region as a user starts it: `switchgear up` in a process of its own, with kubectl and the CLI beside it."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from switchgear_local import binaries, processes

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Endpoint:
    """A service as its status and Secret describe it."""

    url: str
    service_id: str
    secret: str

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}

    @property
    def params(self) -> dict[str, str]:
        return {"source_id": self.service_id, "secret": self.secret}


class Region:
    """`start` and `stop` as often as wanted: the data directory keeps the state."""

    def __init__(self, data_dir: Path, *arguments: str) -> None:
        self.data_dir = data_dir
        self.arguments = arguments
        self.log_path = data_dir.parent / f"{data_dir.name}-up.log"
        self.environment = dict(
            os.environ,
            SWITCHGEAR_DATA_DIR=str(data_dir),
            XDG_CONFIG_HOME=str(data_dir.parent / f"{data_dir.name}-config"),
        )
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def start(self, timeout: float = 240) -> None:
        """Start and wait until the API, the operator and the edge serve (`up` says "ready"). Raises AssertionError."""
        offset = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [BIN / "switchgear", "up", *self.arguments],
                env=self.environment,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                preexec_fn=processes.die_with_parent(signal.SIGINT),
            )
        deadline = time.monotonic() + timeout
        while "Ctrl-C" not in self.log_path.read_bytes()[offset:].decode(errors="replace"):
            assert self.process.poll() is None, f"`up` ended early:\n{self.log[-4000:]}"
            assert time.monotonic() < deadline, f"`up` not ready within {timeout} s:\n{self.log[-4000:]}"
            time.sleep(0.1)

    def stop(self, timeout: float = 180) -> None:
        """Ctrl-C, and wait. Raises AssertionError if it does not end with status 0."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            status = self.process.wait(timeout)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            self.process = None
        assert status == 0, f"`up` ended with status {status}:\n{self.log[-4000:]}"

    def cli(self, *arguments: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return self._run([str(BIN / "switchgear"), *arguments], check, stdin)

    def kubectl(
        self, *arguments: str, check: bool = True, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return self._run([self._kubectl, "--kubeconfig", self.kubeconfig, *arguments], check, stdin)

    def _run(self, command: list[str], check: bool, stdin: str | None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
            input=stdin,
            cwd=ROOT,
        )
        assert not check or done.returncode == 0, f"{command[:4]} gave {done.returncode}: {done.stdout}{done.stderr}"
        return done

    @cached_property
    def kubeconfig(self) -> str:
        return self.cli("kubeconfig").stdout.strip()

    @cached_property
    def _kubectl(self) -> str:
        return str(binaries.ensure(lambda text: None).kubectl)

    def get(self, kind: str, namespace: str, name: str | None = None, *more: str) -> Any:
        """kubectl get as JSON; the items of a list."""
        arguments = ["get", kind, "-n", namespace, "-o", "json", *more] + ([name] if name else [])
        found = json.loads(self.kubectl(*arguments).stdout)
        return found if name else found["items"]

    def wait_active(self, namespace: str, *services: tuple[str, str], timeout: float = 120) -> None:
        """Wait until each (kind, name) is `active`. Raises AssertionError with the statuses."""

        def all_active() -> bool:
            return all(
                self.get(kind, namespace, name).get("status", {}).get("state") == "active" for kind, name in services
            )

        wait_until(
            all_active, timeout, lambda: json.dumps([self.get(k, namespace, n).get("status") for k, n in services])
        )

    def endpoint(self, kind: str, namespace: str, name: str) -> Endpoint:
        status = self.get(kind, namespace, name)["status"]
        reference = status["secretRef"]
        data = self.get("secret", namespace, reference["name"])["data"]
        return Endpoint(status["url"], status["serviceId"], base64.b64decode(data[reference["key"]]).decode())


def wait_until(condition: Callable[[], bool], timeout: float, what: Callable[[], str] | str) -> None:
    """Poll until the condition holds. Raises AssertionError with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            if condition():
                return
            last = ""
        except (AssertionError, httpx.TransportError, KeyError) as error:
            last = str(error)[:500]
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what if isinstance(what, str) else what()} {last}")
        time.sleep(0.2)
