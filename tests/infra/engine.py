"""The real Pulumi engine on a stack of its own: state in a folder, our programs unchanged, the stand-in provider."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from switchgear_local import paths
from tests.infra.configurations import PROGRAMS
from tests.support import gomodules

ROOT = Path(__file__).resolve().parents[2]
VERSION = "3.250.0"
SECONDS = 240.0


def programs(progress: gomodules.Progress = lambda line: None) -> Path:
    """A folder with `pulumi`, its Python language host and the stand-in provider. Built the first time (minutes)."""
    flags = f"-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v{VERSION}"
    cli = gomodules.program("pulumi", "pulumi", "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi", flags, progress)
    host = gomodules.program(
        "pulumi-language-python",
        "pulumi-language",
        "github.com/pulumi/pulumi/sdk/v3/python/cmd/pulumi-language-python",
        progress=progress,
    )
    folder = paths.cache_dir(os.environ) / "test-programs" / f"pulumi-bin-{cli.parent.name}"
    folder.mkdir(parents=True, exist_ok=True)
    for path in (cli, host):
        link = folder / path.name
        with contextlib.suppress(FileExistsError):
            link.hardlink_to(path)  # the host looks for its script beside the file that a link points to
    script = folder / "pulumi-language-python-exec"
    if not script.exists():
        part = folder / f".exec-{os.getpid()}"
        part.write_bytes(
            gomodules.module_file("pulumi", "github.com/pulumi/pulumi/sdk/v3", "python/cmd/pulumi-language-python-exec")
        )
        part.chmod(0o755)
        part.rename(script)
    return folder


class Stack:
    """One stack of one of our programs."""

    def __init__(self, folder: Path, program: str, name: str, config: dict[str, Any], secrets: dict[str, str]) -> None:
        self.name = name
        # A copy, because the engine writes the stack's file beside the program.
        self.program = _made(folder / program)
        for part in ("Pulumi.yaml", "__main__.py"):
            shutil.copy(PROGRAMS / program / part, self.program / part)
        self.config_file = self.program / f"Pulumi.{name}.yaml"
        self._environment = _environment(folder)
        self.run("login", f"file://{_made(folder / 'state')}")
        self.run("stack", "init", name)
        text = self.config_file.read_text() if self.config_file.exists() else ""
        self.config_file.write_text(text + "\n" + json_as_yaml(config))
        for key, value in secrets.items():
            self.run("config", "set", "--secret", key, stdin=value)

    def run(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """`pulumi …`; its output. Raises AssertionError with it when the command fails."""
        command = [str(programs() / "pulumi"), *arguments, "--non-interactive"]
        if arguments[0] not in ("login", "stack"):
            command += ["--stack", self.name]
        done = subprocess.run(
            command,
            cwd=self.program,
            env=self._environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        output = done.stdout + done.stderr
        if check:
            assert done.returncode == 0, output[-6000:]
        else:
            assert done.returncode != 0, output[-6000:]
        return output

    def up(self, *options: str) -> str:
        return self.run("up", "--yes", "--skip-preview", *options)

    def outputs(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("stack", "output", "--json", "--stack", self.name))
        return found

    def state(self) -> str:
        return self.run("stack", "export", "--stack", self.name)


def json_as_yaml(config: dict[str, Any]) -> str:
    """A `config:` section; JSON is YAML."""
    return f"config: {json.dumps(config)}\n"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _environment(folder: Path) -> dict[str, str]:
    """Secrets' passphrase, no look-ups outside of this machine, this virtual environment's Python first."""
    plugin = _made(folder / "bin") / "pulumi-resource-kubernetes"
    if not plugin.exists():
        plugin.write_text(f'#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m tests.infra.standin "$@"\n')
        plugin.chmod(0o755)
    # The language host looks for `python3` on the path.
    for name in ("python", "python3"):
        if not (folder / "bin" / name).exists():
            (folder / "bin" / name).write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
            (folder / "bin" / name).chmod(0o755)
    return {
        "PATH": f"{folder / 'bin'}:{programs()}:{os.environ['PATH']}",
        "HOME": str(_made(folder / "home")),
        "PULUMI_HOME": str(_made(folder / "pulumi")),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        "PULUMI_CONFIG_PASSPHRASE": "a passphrase for tests",
    }
