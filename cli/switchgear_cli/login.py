"""The stored login: where the API is, its token, the workspace. One file, readable by its owner only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Login:
    """What is stored. An empty text means unknown."""

    api_url: str
    token: str
    workspace: str = ""

    def __repr__(self) -> str:
        return f"Login(api_url={self.api_url!r}, workspace={self.workspace!r})"


def path(environment: Mapping[str, str] | None = None) -> Path:
    """Where the login is stored: below XDG_CONFIG_HOME when that is an absolute path, else ~/.config."""
    env = os.environ if environment is None else environment
    base = env.get("XDG_CONFIG_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".config"
    return root / "switchgear" / "auth.json"


def save(api_url: str, token: str, workspace: str = "", environment: Mapping[str, str] | None = None) -> Path:
    """Stores a login, replacing the one before, in one step and with mode 0600. Raises OSError."""
    target = path(environment)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(Login(api_url, token, workspace)), file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return target


def load(environment: Mapping[str, str] | None = None) -> Login | None:
    """The stored login, or None when there is none that can be read."""
    try:
        stored = json.loads(path(environment).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(stored, dict):
        return None
    fields = [stored.get(name) for name in ("api_url", "token", "workspace")]
    api_url, token, workspace = (field if isinstance(field, str) else "" for field in fields)
    return Login(api_url, token, workspace)


def remove(environment: Mapping[str, str] | None = None) -> bool:
    """Removes the stored login; answers whether there was one."""
    try:
        path(environment).unlink()
    except FileNotFoundError:
        return False
    return True
