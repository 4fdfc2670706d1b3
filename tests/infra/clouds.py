"""The clouds' Pulumi packages: large, and needed by few tests, so they lie in the cache and not in the environment."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.support import nodejs
from tests.support.network import fetch

LOCK = Path(__file__).resolve().parents[2] / "locks" / "clouds.txt"


def packages(progress: Callable[[str], None] = lambda line: None) -> Path:
    """A folder for PYTHONPATH. Installed the first time."""
    digest = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:12]
    target = nodejs.cache_dir() / f"clouds-{digest}"
    with nodejs.locked(target.with_suffix(".lock")):
        if not target.exists():
            for left in target.parent.glob(".clouds-*"):  # by one who was killed
                shutil.rmtree(left, ignore_errors=True)
            progress("installing the clouds' Pulumi packages into the cache")
            with tempfile.TemporaryDirectory(prefix=".clouds-", dir=target.parent) as folder:
                made = Path(folder) / "packages"
                command = [
                    sys.executable,
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                    "--no-deps",
                ]
                command += ["--no-compile", "--require-hashes", "--target", str(made), "-r", str(LOCK)]
                fetch(command, timeout=900, env=dict(os.environ), capture_output=True).check_returncode()
                shutil.move(str(made), target)
    return target
