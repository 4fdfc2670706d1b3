"""Makes `.venv` of the hashed lock: `make setup` runs this with the machine's Python, before anything is installed.

One at a time for a checkout, and all or nothing: the stamp comes last, and an environment whose making was cut off
(a kill, Ctrl-C, power) is made anew, because packages that an installer left half-way can look whole to the next one.
A registry that fails is asked again; what pip has downloaded it keeps in its own cache.

Must not: import anything but the standard library, nor name a registry (pip's own settings do).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".switchgear-setup"
BEGUN = VENV / ".switchgear-begun"
SOURCES = (ROOT / "locks" / "dev.txt", ROOT / "pyproject.toml")
ATTEMPTS = 3
PAUSE = 5.0
HEARTBEAT = 20.0
HELP = (
    "The packages could not be installed; pip says why above. Nothing half-made is used: run the same command again, "
    "and pip goes on with what it has downloaded. Behind a proxy or a mirror, pip's settings apply "
    "(HTTPS_PROXY, PIP_INDEX_URL, PIP_CERT)."
)


def main() -> int:
    with _alone() as lock:
        if _done():
            return 0
        was_whole = STAMP.exists()
        if BEGUN.exists() or not _has_pip():
            shutil.rmtree(VENV, ignore_errors=True)
            was_whole = False
        VENV.mkdir(exist_ok=True)
        BEGUN.touch()
        if not was_whole and subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=False).returncode:
            shutil.rmtree(VENV, ignore_errors=True)
            _say("Could not make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv")
            return 1
        _say(f"installing what {SOURCES[0].relative_to(ROOT)} names into .venv (a minute or two the first time)")
        for arguments in (
            ("--require-hashes", "-r", str(SOURCES[0])),
            ("--no-deps", "--no-build-isolation", "-e", "."),
        ):
            if not _pip(lock, *arguments):
                _say(HELP)
                if was_whole:  # pip ended by itself, and undoes what it could not finish
                    BEGUN.unlink()
                return 1
        STAMP.touch()
        BEGUN.unlink()
    return 0


@contextmanager
def _alone() -> Iterator[int]:
    """Hold the checkout's lock. pip inherits it: as long as one runs that lost its parent, nobody else begins."""
    folder = os.open(ROOT / "locks", os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another `make setup` is at work in this checkout; waiting for it")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(folder)


def _done() -> bool:
    if BEGUN.exists() or not STAMP.exists():
        return False
    made = STAMP.stat().st_mtime_ns
    return all(source.stat().st_mtime_ns <= made for source in SOURCES)


def _has_pip() -> bool:
    command = [str(PYTHON), "-m", "pip", "--version"]
    try:
        return not subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode
    except OSError:
        return False


def _pip(lock: int, *arguments: str) -> bool:
    """`pip install`, asked again when it fails. Says now and then that it is still at work."""
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *arguments]
    for attempt in range(1, ATTEMPTS + 1):
        ended = threading.Event()
        threading.Thread(target=_tell, args=(ended,), daemon=True).start()
        try:
            if not subprocess.run(command, cwd=ROOT, pass_fds=(lock,), check=False).returncode:
                return True
        finally:
            ended.set()
        if attempt < ATTEMPTS:
            _say(f"pip failed; once more in {PAUSE:.0f} s (that was {attempt} of {ATTEMPTS})")
            time.sleep(PAUSE)
    return False


def _tell(ended: threading.Event) -> None:
    started = time.monotonic()
    while not ended.wait(HEARTBEAT):
        _say(f"… {time.monotonic() - started:.0f} s")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
