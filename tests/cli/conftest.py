"""Fixtures of the command line's tests: the real command in a process of its own, with a home of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.api.server import ApiServer, Workspace, api_server, workspace

__all__ = ["api_server", "cli", "logged_in", "workspace"]

PROGRAM = Path(sys.executable).parent / "switchgear"


@dataclass(frozen=True)
class Cli:
    """Runs `switchgear` with an environment that has nothing of this machine's user in it."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {name: os.environ[name] for name in ("PATH", "SWITCHGEAR_CACHE_DIR", "LANG") if name in os.environ}
        environment = {
            **kept,
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            **self.environment,
            **variables,
        }
        return subprocess.run(
            [PROGRAM, *arguments],
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=self.home,
        )

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
