"""Several services in one process: the file that names them, each with a secret, limits, and a place in the URLs.

Pure but for reading files. A service is found by its name behind the root path, or, if it names a host, by that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

MAX_SERVICES = 500
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_LIMITS = (
    "max_streams",
    "max_bytes",
    "max_append_rate",
    "max_live_reads",
    "max_connections",
    "retention_seconds",
    "retention_bytes",
)


@dataclass(frozen=True)
class Tenant:
    """One service. `secret` None: open to all. `limits`: those that it names."""

    id: str
    secret: bytes | None
    host: bytes | None = None
    limits: dict[str, int] = field(default_factory=dict)


def read(path: Path, problems: list[str]) -> list[Tenant]:
    """The services of a file: {"services": [{"id", "secret_file" or "insecure", "host", limits}]}."""
    try:
        content = orjson.loads(path.read_bytes())
    except OSError as error:
        problems.append(f"--services cannot be read: {error.strerror}")
        return []
    except orjson.JSONDecodeError as error:
        problems.append(f"--services is not JSON: {error}")
        return []
    listed = content.get("services") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_SERVICES:
        problems.append(f'--services must be {{"services": [...]}} with 1 to {MAX_SERVICES} of them')
        return []
    found = [made for number, one in enumerate(listed) if (made := _one(number, one, path.parent, problems))]
    for what, names in (("id", [one.id for one in found]), ("host", [one.host for one in found if one.host])):
        if len(set(names)) != len(names):
            problems.append(f"--services: two services have the same {what}")
    return found


def _one(number: int, given: Any, folder: Path, problems: list[str]) -> Tenant | None:
    where = f"--services: service {number + 1}"
    if not isinstance(given, dict) or not isinstance(given.get("id"), str) or not _ID.fullmatch(given["id"]):
        problems.append(f"{where} needs an id of letters, digits, - and _, 100 at most")
        return None
    where = f"--services: {given['id']}"
    unknown = given.keys() - {"id", "secret_file", "insecure", "host", *_LIMITS}
    if unknown:
        problems.append(f"{where} has what is not known: {', '.join(sorted(unknown))}")
    host = given.get("host")
    if host is not None and not (isinstance(host, str) and _HOST.fullmatch(host)):
        problems.append(f"{where}: host must be a host name in lower case, without port")
        host = None
    limits = {name: given[name] for name in _LIMITS if name in given}
    for name, value in limits.items():
        if type(value) is not int or not 0 < value < 1 << 53:
            problems.append(f"{where}: {name} must be a whole number from 1")
    secret = _secret(where, given, folder, problems)
    return Tenant(given["id"], secret, None if host is None else host.encode(), limits)


def _secret(where: str, given: dict[str, Any], folder: Path, problems: list[str]) -> bytes | None:
    file, insecure = given.get("secret_file"), given.get("insecure", False)
    if (file is not None) == (insecure is True) or insecure not in (True, False):
        problems.append(f'{where}: give a secret_file, or "insecure": true')
        return None
    if file is None:
        return None
    try:
        secret = (folder / str(file)).read_bytes().strip()
    except OSError as error:
        problems.append(f"{where}: secret_file cannot be read: {error.strerror}")
        return None
    problem = secret_problem(secret)
    if problem is not None:
        problems.append(f"{where}: {problem}")
    return secret


def secret_problem(secret: bytes) -> str | None:
    if not secret:
        return "the secret is empty"
    if any(byte <= 0x20 or byte >= 0x7F for byte in secret):
        return "the secret must consist of visible ASCII characters"
    return None
