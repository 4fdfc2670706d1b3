"""Settings of the demo: flags for what anyone may see, a private file for what nobody may."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


class SettingsError(Exception):
    """The demo cannot start as asked; the message says why and holds no secret."""


@dataclass(frozen=True)
class Service:
    """One service as its clients know it."""

    service_id: str
    url: str
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Settings:
    """What the demo needs. `interval` is the number of seconds between writes."""

    port: int
    interval: float
    database_url: str = field(repr=False)
    sync: Service
    streams: Service


def read(argv: Sequence[str]) -> Settings:
    """Settings from the command line and the state file. Raises SettingsError; SystemExit on unknown flags."""
    parser = argparse.ArgumentParser(prog="python -m switchgear_local.demo")
    parser.add_argument("--port", type=int, required=True, help="port of the page, on 127.0.0.1 (0: any)")
    parser.add_argument("--region-state", type=Path, required=True, help="private file with URLs and secrets")
    parser.add_argument("--interval", type=float, default=2.5, help="seconds between writes")
    flags = parser.parse_args(argv)
    if not 0 <= flags.port <= 65_535:
        raise SettingsError("--port must be a number from 0 to 65535")
    if not flags.interval > 0:
        raise SettingsError("--interval must be more than 0 seconds")
    state = _state(flags.region_state)
    return Settings(
        port=flags.port,
        interval=flags.interval,
        database_url=_text(state, "database_url"),
        sync=_service(state, "sync"),
        streams=_service(state, "streams"),
    )


def _state(path: Path) -> Mapping[str, Any]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"--region-state {path} cannot be read: {error.strerror}") from error
    except ValueError:
        # Not chained: the error holds the text.
        raise SettingsError(f"--region-state {path} is not JSON") from None
    if not isinstance(state, dict):
        raise SettingsError(f"--region-state {path} must be a JSON object")
    return state


def _service(state: Mapping[str, Any], name: str) -> Service:
    found = state.get(name)
    if not isinstance(found, dict):
        raise SettingsError(f"--region-state: {name} is missing")
    url = _text(found, "url", name).rstrip("/")
    if urlsplit(url).scheme not in ("http", "https"):
        raise SettingsError(f"--region-state: {name}.url must be an http URL")
    return Service(_text(found, "service_id", name), url, _text(found, "secret", name))


def _text(state: Mapping[str, Any], name: str, inside: str = "") -> str:
    found = state.get(name)
    if not isinstance(found, str) or not found:
        raise SettingsError(f"--region-state: {inside + '.' if inside else ''}{name} is missing")
    return found
