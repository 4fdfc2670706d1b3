"""What the tests need of the machine, installed where that is possible: Postgres 15, PgBouncer, Chromium, what a
real node needs, and programs built with Go.

As root on Debian by apt; as an ordinary user Postgres 15 is unpacked into the cache. What cannot be had is left to the
tests that need it, which skip and say so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.support.network import fetch

Progress = Callable[[str], None]


def prepare(progress: Progress) -> None:
    """Install and build once; a second call finds everything there."""
    from tests.realnode import programs as realnode
    from tests.support import nodejs

    wanted = {
        "postgresql-15": postgres_15(),
        "chromium": chromium(),
        "pgbouncer": shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin"),
    }
    if os.geteuid() == 0:
        wanted |= realnode.packages()
    missing = [name for name, found in wanted.items() if found is None]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        progress(f"installing {' '.join(missing)}")
        with nodejs.locked(nodejs.cache_dir() / "apt.lock"):
            apt(["update", "-qq"])
            for name in missing:
                apt(["install", "-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=600", name])
    elif missing:
        progress(f"not installed and not root, so some tests will skip: {' '.join(missing)}")
    from switchgear_local import binaries

    binaries.ensure(progress)
    if realnode.obstacle() is None:
        realnode.ensure(progress)
    from tests.infra import clouds, engine

    engine.programs(progress)
    clouds.packages(progress)


def postgres_15() -> Path | None:
    """The folder with Debian's Postgres 15, if it is installed."""
    folder = Path("/usr/lib/postgresql/15/bin")
    return folder if (folder / "postgres").exists() else None


def chromium() -> str | None:
    """The path of a Chromium, if there is one."""
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


def apt(arguments: list[str]) -> None:
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    done = fetch(["apt-get", *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode:
        print(f"apt-get {' '.join(arguments)} failed: {done.stderr.decode(errors='replace')[-500:]}", flush=True)
