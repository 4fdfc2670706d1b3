"""Under which account a program runs, and whether that account can reach a path.

Only Postgres needs this: it refuses to run as root, while the rest of a region runs as whoever called.
Invariant: nobody but root ever changes account; for an ordinary user every function here is a no-op.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .errors import LocalError

_CANDIDATES = ("postgres", "nobody")


class NoAccountError(LocalError):
    """Root called, and the machine has no account that Postgres could run under."""


@dataclass(frozen=True)
class Account:
    """The account for a child process. `uid` and `gid` are None when the child keeps the caller's own."""

    name: str
    uid: int | None = None
    gid: int | None = None

    def popen_args(self) -> dict[str, object]:
        """Keyword arguments for `subprocess` that start the child under this account."""
        if self.uid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def give(self, path: Path) -> None:
        """Make this account the owner of `path` (not of what is inside)."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def can_enter(self, directory: Path) -> bool:
        """True when this account may list and enter `directory` (all parents included)."""
        test = f"{directory}/."
        command = ["test", "-r", test, "-a", "-x", test]
        return subprocess.run(command, check=False, cwd="/", **self.popen_args()).returncode == 0  # type: ignore[call-overload, no-any-return]


def for_postgres() -> Account:
    """The account for Postgres: the caller's own, or for root an existing unprivileged one.

    Raises NoAccountError when root has none of the well-known accounts.
    """
    if os.geteuid() != 0:
        return Account(name=_name_of(os.geteuid()))
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise NoAccountError(
        "Postgres refuses to run as root and there is no account `postgres` or `nobody`. "
        "Create one (`useradd --system postgres`) or run as an ordinary user."
    )


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
