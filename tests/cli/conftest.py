"""Fixtures of the command line's tests: the real command, with an environment and a home of its own."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from switchgear_cli import main
from switchgear_local import paths
from tests.api.server import ApiServer, Workspace, api_server, workspace

__all__ = ["api_server", "cli", "logged_in", "workspace"]

PROGRAM = Path(sys.executable).parent / "switchgear"


@dataclass(frozen=True)
class Cli:
    """Runs `switchgear` with an environment that has nothing of this machine's user in it, nor of its region."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs it in this process, which saves half a second of starting Python each time."""
        out, err = io.StringIO(), io.StringIO()
        given = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8")
        environment = self._environment(**variables)
        with (
            patch.dict(os.environ, environment, clear=True),
            patch.object(paths, "SYSTEM_DATA", self.home / "var"),
            patch("sys.stdin", given),
            chdir(self.home),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            status = main.run(arguments)
        return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())

    def process(self, *arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs it as users do."""
        return subprocess.run(
            [PROGRAM, *arguments],
            env=self._environment(**variables),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=self.home,
        )

    def at_terminal(self, *arguments: str, typed: str) -> tuple[int, str]:
        """Exit status and everything shown, when stdin, stdout and stderr are a terminal."""
        process, ours = self.start_at_terminal(*arguments)
        os.write(ours, typed.encode())
        shown = b""
        try:
            while chunk := os.read(ours, 65_536):
                shown += chunk
        except OSError:
            pass  # the end, on Linux
        finally:
            os.close(ours)
        return process.wait(60), shown.decode(errors="replace")

    def start_at_terminal(self, *arguments: str) -> tuple[subprocess.Popen[bytes], int]:
        """The running command, and our end of its terminal, to be closed by the caller."""
        ours, theirs = pty.openpty()
        environment = self._environment(TERM="xterm", COLUMNS="100")
        process = subprocess.Popen(
            [PROGRAM, *arguments], env=environment, stdin=theirs, stdout=theirs, stderr=theirs, cwd=self.home
        )
        os.close(theirs)
        return process, ours

    def _environment(self, **variables: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "SWITCHGEAR_CACHE_DIR", "LANG") if name in os.environ}
        own = {"HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home / "config")}
        return {**kept, **own, **self.environment, **variables}

    def ok(self, *arguments: str, **more: str) -> str:
        done = self(*arguments, **more)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def json(self, *arguments: str, **more: str) -> Any:
        done = self(*arguments, "--json", **more)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        assert done.stderr == "", "with --json nothing but errors goes to stderr"
        return json.loads(done.stdout)

    def fails(self, status: int, *arguments: str, **more: str) -> dict[str, Any]:
        """The error of a command that must end with this status."""
        done = self(*arguments, "--json", **more)
        assert done.returncode == status, (arguments, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        error: dict[str, Any] = json.loads(done.stderr)
        assert set(error) == {"error", "message", "exitCode"}
        assert error["exitCode"] == status
        return error


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def logged_in(cli: Cli) -> Callable[[ApiServer, Workspace], Cli]:
    """Makes a command line that is told API, token and workspace by its environment."""

    def make(server: ApiServer, workspace: Workspace) -> Cli:
        variables = {
            "SWITCHGEAR_API_URL": server.url,
            "SWITCHGEAR_API_TOKEN": server.token,
            "SWITCHGEAR_WORKSPACE": workspace.name,
        }
        return Cli(cli.home, variables)

    return make
