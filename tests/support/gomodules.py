"""Programs that only tests need, built from their published Go modules and kept in the cache, outside the repo.

A module in `gomod/<folder>` pins a program and all that it is made of (go.sum). Built again when the module changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from switchgear_local import gobuild, paths
from switchgear_local.processes import die_with_parent
from tests.support.network import fetch

FOLDER = Path(__file__).parent / "gomod"
BUILD_SECONDS = 3000.0
Progress = Callable[[str], None]


def program(name: str, folder: str, package: str, flags: str = "", progress: Progress = lambda line: None) -> Path:
    """The path of the program, built if need be. Raises RuntimeError with the end of the compiler's output."""
    module = FOLDER / folder
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(module.iterdir())) + flags.encode())
    target = paths.cache_dir(os.environ) / "test-programs" / f"{name}-{digest.hexdigest()[:16]}" / name
    if os.access(target, os.X_OK):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in target.parent.glob(".build-*"):  # by one who was killed
            shutil.rmtree(left, ignore_errors=True)
        if not os.access(target, os.X_OK):
            progress(f"building {name} with Go (the first time takes minutes)")
            started = time.monotonic()
            _build(module, package, flags, target, progress)
            progress(f"{name} is built ({time.monotonic() - started:.0f} s)")
    return target


def _build(module: Path, package: str, flags: str, target: Path, progress: Progress) -> None:
    go, environment = toolchain(progress)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as work:
        copy = Path(work) / "module"
        shutil.copytree(module, copy)
        output = Path(work) / target.name
        environment["GOTMPDIR"] = work
        command = [str(go), "build", "-trimpath", "-ldflags", f"-s -w {flags}".strip(), "-o", str(output), package]
        done = fetch(
            command,
            cwd=copy,
            env=environment,
            capture_output=True,
            timeout=BUILD_SECONDS,
            preexec_fn=die_with_parent(signal.SIGTERM),
        )
        if done.returncode:
            raise RuntimeError(f"building {target.name} failed: {done.stderr.decode(errors='replace')[-2000:]}")
        gobuild.keep(output, target)


def toolchain(progress: Progress = lambda line: None) -> tuple[Path, dict[str, str]]:
    """The `go` command and the environment to run it in."""
    go, own_caches = gobuild.toolchain(progress, os.environ)
    environment = dict(os.environ) | {
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=readonly -buildvcs=false",
    }
    if own_caches is not None:
        environment |= {"GOPATH": str(own_caches / "path"), "GOCACHE": str(own_caches / "cache"), "GOENV": "off"}
        environment.pop("GOROOT", None)
    return go, environment


def module_file(folder: str, module: str, path: str) -> bytes:
    """A file of a module that `gomod/<folder>` requires, from Go's module cache."""
    go, environment = toolchain()
    command = [str(go), "list", "-m", "-f", "{{.Dir}}", module]
    download = [str(go), "mod", "download", module]
    fetch(download, cwd=FOLDER / folder, env=environment, timeout=600).check_returncode()
    found = subprocess.run(command, cwd=FOLDER / folder, env=environment, check=True, capture_output=True, timeout=60)
    return (Path(found.stdout.decode().strip()) / path).read_bytes()
