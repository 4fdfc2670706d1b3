"""Where a local region keeps its state and its cache. Pure but for reading the environment and the user id."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SYSTEM_DATA = Path("/var/lib/switchgear")
SYSTEM_CACHE = Path("/var/cache/switchgear")


def data_dir(explicit: str | Path | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """The data directory: the argument, SWITCHGEAR_DATA_DIR, /var/lib/switchgear as root, else the XDG data home."""
    env = os.environ if environ is None else environ
    chosen = explicit or env.get("SWITCHGEAR_DATA_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if os.geteuid() == 0:
        return SYSTEM_DATA
    return Path(env.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "switchgear"


def cache_dir(environ: Mapping[str, str] | None = None) -> Path:
    """The cache directory: SWITCHGEAR_CACHE_DIR, /var/cache/switchgear as root, else ~/.cache/switchgear."""
    env = os.environ if environ is None else environ
    chosen = env.get("SWITCHGEAR_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return SYSTEM_CACHE if os.geteuid() == 0 else Path.home() / ".cache" / "switchgear"
