"""Finds the programs of the Kubernetes control plane, or gets them.

For each program, in this order: the folder SWITCHGEAR_KUBE_BIN, PATH (the right minor version), the cache, the official
download with its published checksum (skipped at once without a route), a build from Go modules.

Invariants: a program appears in the cache complete or not at all (temporary file, then rename), under a name that holds
its version; one process at a time downloads or builds, and removes what a killed one left. Must not: run anything from
a folder that others can write to without asking, nor fall back silently when SWITCHGEAR_KUBE_BIN holds a wrong version.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import download, gobuild, paths
from .errors import BinariesError
from .versions import PROGRAMS, Program, architecture

Progress = Callable[[str], None]
_LOCK_LIMIT = 3600.0
_HEARTBEAT = 10.0


@dataclass(frozen=True)
class KubeBinaries:
    """The programs of a control plane, each at a path where it can be executed."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    kubectl: Path


def ensure(
    progress: Progress = lambda line: None,
    environ: Mapping[str, str] | None = None,
) -> KubeBinaries:
    """Find or get every program; `progress` is called with lines for a human.

    Raises BinariesError (what was tried and how to go on) or UnsupportedMachineError.
    """
    env = os.environ if environ is None else environ
    cache = Cache(paths.cache_dir(env))
    found = {program.name: locate(program, env, cache) for program in PROGRAMS}
    if any(path is None for path in found.values()):
        with cache.locked(progress):
            for program in PROGRAMS:
                # Looked at again: whoever held the lock before may just have made it.
                found[program.name] = locate(program, env, cache) or _get(program, cache, progress, env)
    ready = {name: path for name, path in found.items() if path is not None}
    return KubeBinaries(
        etcd=ready["etcd"],
        kube_apiserver=ready["kube-apiserver"],
        kube_controller_manager=ready["kube-controller-manager"],
        kubectl=ready["kubectl"],
    )


class Cache:
    """The folder of programs that were downloaded or built before."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, program: Program) -> Path:
        """Where a program of exactly this version and architecture is, if it is there."""
        return self.root / program.family / f"v{program.version}-linux-{architecture()}" / program.name

    def find(self, program: Program) -> Path | None:
        """The cached program, if there is one."""
        path = self.path(program)
        return path if os.access(path, os.X_OK) else None

    @contextmanager
    def locked(self, progress: Progress) -> Iterator[None]:
        """Hold the cache's lock; waits (saying so) while another process downloads or builds."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = (self.root / "lock").open("w")
        except OSError as error:
            raise BinariesError(
                f"The cache folder {self.root} cannot be written ({error.strerror}). "
                "Set SWITCHGEAR_CACHE_DIR to another."
            ) from error
        with lock:
            self._wait(lock.fileno(), progress)
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Remove what somebody left who was killed while downloading or building."""
        families = {program.family for program in PROGRAMS}
        hidden = [path for family in families for path in self.root.glob(f"{family}/*/.*")]
        for path in [*hidden, *self.root.glob(".go-*")]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _wait(self, fd: int, progress: Progress) -> None:
        started = time.monotonic()
        said = started - _HEARTBEAT
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                now = time.monotonic()
                if now - started > _LOCK_LIMIT:
                    raise BinariesError(
                        f"Another process has held the lock of {self.root} for an hour. End it, then try again."
                    ) from None
                if now - said >= _HEARTBEAT:
                    said = now
                    progress(f"another process fills {self.root}; waiting for it ({now - started:.0f} s)")
                time.sleep(0.25)
            else:
                return


def locate(program: Program, environ: Mapping[str, str], cache: Cache) -> Path | None:
    """Where the program is already on this machine, or None. Raises BinariesError for a bad SWITCHGEAR_KUBE_BIN."""
    explicit = environ.get("SWITCHGEAR_KUBE_BIN")
    if explicit:
        path = _in_explicit_folder(program, Path(explicit).expanduser())
        if path is not None:
            return path
    on_path = shutil.which(program.name, path=environ.get("PATH", ""))
    if on_path and has_right_version(program, Path(on_path)):
        return Path(on_path).absolute()
    return cache.find(program)


def _in_explicit_folder(program: Program, folder: Path) -> Path | None:
    if not folder.is_dir():
        raise BinariesError(f"SWITCHGEAR_KUBE_BIN is {folder}, which is no folder. Correct or unset it.")
    path = folder / program.name
    if not path.exists():
        return None
    if not has_right_version(program, path):
        raise BinariesError(
            f"{path} (SWITCHGEAR_KUBE_BIN) is version {version_of(program, path) or 'unknown'}, and Switchgear needs "
            f"{program.minor}.x. Put {program.name} {program.version} there, or remove it to let Switchgear find "
            "its own."
        )
    return path.absolute()


def has_right_version(program: Program, path: Path) -> bool:
    """True when the executable says that it is of the minor version that we need."""
    version = version_of(program, path)
    return version is not None and version.startswith(program.minor + ".")


def version_of(program: Program, path: Path) -> str | None:
    """What the executable says its version is (`1.34.4`), or None."""
    arguments = ["version", "--client", "-o", "json"] if program.name == "kubectl" else ["--version"]
    try:
        answer = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    match = re.search(r'(?:etcd Version: |Kubernetes v|"gitVersion": *"v)(\d+\.\d+\.\d+)', answer)
    return match.group(1) if match else None


def _get(program: Program, cache: Cache, progress: Progress, environ: Mapping[str, str]) -> Path:
    target = cache.path(program)
    target.parent.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    for way, attempt in (("download", download.fetch), ("build", gobuild.build)):
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            attempt(program, temporary, progress, environ)
            temporary.chmod(0o755)
            if not has_right_version(program, temporary):
                raise BinariesError(f"the result is not {program.name} {program.minor}")
            gobuild.keep(temporary, target)
        except BinariesError as error:
            failures.append(f"{way}: {error}")
            continue
        finally:
            temporary.unlink(missing_ok=True)
        return target
    raise BinariesError(
        f"{program.name} {program.version} could not be had:\n  " + "\n  ".join(failures) + "\n"
        f"Put etcd {PROGRAMS[0].minor}, and kube-apiserver, kube-controller-manager and kubectl {PROGRAMS[1].minor} "
        "into a folder and set SWITCHGEAR_KUBE_BIN to it."
    )
