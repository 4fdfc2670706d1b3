"""Settings of `switchgear-api`: flags, else environment variables; all problems are told at once.

Pure but for reading the environment that is passed in. Secrets are only ever named by file.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Settings:
    """What the process needs to run. `port` 0 takes any free port."""

    host: str
    port: int
    admin_token_file: Path
    public_url: str | None


class SettingsError(Exception):
    """One or more settings are wrong; `problems` lists each with its fix."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


def read(argv: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Settings from the command line and the environment. Raises SettingsError; SystemExit on unknown flags."""
    flags = _parser().parse_args(argv)
    problems: list[str] = []

    def pick(flag: str | None, variable: str, default: str = "") -> str:
        return flag if flag is not None else environment.get(variable) or default

    host = pick(flags.host, "SWITCHGEAR_HOST", "127.0.0.1")
    port = _port(pick(flags.port, "SWITCHGEAR_PORT", "4480"), problems)
    token_file = pick(flags.admin_token_file, "SWITCHGEAR_ADMIN_TOKEN_FILE")
    if not token_file:
        problems.append("--admin-token-file (SWITCHGEAR_ADMIN_TOKEN_FILE) is required: the file with the admin token")
    public_url = pick(flags.public_url, "SWITCHGEAR_PUBLIC_URL") or None
    if public_url is not None and not _is_url(public_url):
        problems.append("--public-url (SWITCHGEAR_PUBLIC_URL) must be an http or https URL without credentials")
    if problems:
        raise SettingsError(problems)
    return Settings(host, port, Path(token_file), public_url.rstrip("/") if public_url else None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="switchgear-api",
        description="The management API of Switchgear. Kubernetes is found by KUBECONFIG or the pod's ServiceAccount.",
    )
    parser.add_argument("--host", help="address to listen on (SWITCHGEAR_HOST, default 127.0.0.1)")
    parser.add_argument("--port", help="port to listen on, 0 for any (SWITCHGEAR_PORT, default 4480)")
    parser.add_argument("--admin-token-file", help="file with the admin token (SWITCHGEAR_ADMIN_TOKEN_FILE)")
    parser.add_argument("--public-url", help="where callers reach this API (SWITCHGEAR_PUBLIC_URL)")
    return parser


def _port(text: str, problems: list[str]) -> int:
    if text.isascii() and text.isdigit() and int(text) <= 65_535:
        return int(text)
    problems.append(f"--port (SWITCHGEAR_PORT) must be a number from 0 to 65535, not {text!r}")
    return 0


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
