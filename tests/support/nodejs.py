"""The npm clients for tests, installed once from the committed lock file.

`node_project()` returns a directory with `node_modules`; scripts run there with `node <script>` find the packages. The
directory is under the cache, named after the lock file's hash, and made under a lock, so that parallel test processes
share it and a changed lock makes a new one.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = Path(__file__).parent / "node"
_FILES = ("package.json", "package-lock.json")


def cache_directory() -> Path:
    """`SWITCHGEAR_CACHE_DIR`, or the cache that the local region uses."""
    configured = os.environ.get("SWITCHGEAR_CACHE_DIR")
    if configured:
        return Path(configured)
    if os.geteuid() == 0:
        return Path("/var/cache/switchgear")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "switchgear"


@functools.lru_cache(maxsize=1)
def node_project() -> Path:
    """The directory with the installed packages; tests are skipped when there is no Node.js."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node.js and npm are not installed")
    digest = hashlib.sha256(b"".join((_SOURCE / name).read_bytes() for name in _FILES)).hexdigest()[:16]
    root = cache_directory() / "node"
    root.mkdir(parents=True, exist_ok=True)
    target = root / digest
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / "installed").exists():
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            for name in _FILES:
                shutil.copy(_SOURCE / name, target / name)
            subprocess.run(
                [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--omit-lockfile-registry-resolved=true"],
                cwd=target,
                check=True,
                capture_output=True,
                timeout=300,
            )
            (target / "installed").touch()
    return target


def run_node(script: str, *arguments: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a module's text in the project (standard input), with arguments behind it; output captured, not checked."""
    return subprocess.run(
        ["node", "--input-type=module", "-", *arguments],
        cwd=node_project(),
        input=script,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
