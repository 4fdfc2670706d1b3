"""What the node must find again after its own death: one small JSON file a pod, replaced atomically.

Holds names, the address, pids with start times, restart counts and exit codes; no environment, no arguments, no
secret. Unreadable or foreign records are treated as none: the marker in the processes' environment still finds them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from .process import Identity
from .status import Terminated

VERSION: Final = 1
FILE: Final = "record.json"


@dataclass
class ContainerRecord:
    """One container. `starts` counts its starts and names its log; `identity` is its process while it runs."""

    identity: Identity | None = None
    starts: int = 0
    started_at: str = ""
    probed_started: bool = False
    ready: bool = False
    last: Terminated | None = None
    done: bool = False


@dataclass
class PodRecord:
    """One pod. `volumes` maps volume names to real directories."""

    uid: str
    namespace: str
    name: str
    address: str = ""
    start_time: str = ""
    volumes: dict[str, str] = field(default_factory=dict)
    containers: dict[str, ContainerRecord] = field(default_factory=dict)

    def container(self, name: str) -> ContainerRecord:
        """The container's record, made when there is none."""
        return self.containers.setdefault(name, ContainerRecord())


def save(directory: Path, record: PodRecord) -> None:
    """Write the record into the pod's directory."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    body = orjson.dumps({"version": VERSION, "pod": record})
    temporary = directory / f".{FILE}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as stream:
        stream.write(body)
    temporary.replace(directory / FILE)


def load(directory: Path) -> PodRecord | None:
    """The record in a pod's directory, or None when there is none that can be used."""
    try:
        body = orjson.loads((directory / FILE).read_bytes())
        if body["version"] != VERSION or body["pod"]["uid"] != directory.name:
            return None
        return _pod(body["pod"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def load_all(base: Path) -> Iterator[tuple[Path, PodRecord | None]]:
    """Every pod directory with its record."""
    with contextlib.suppress(FileNotFoundError):
        for directory in sorted(base.iterdir()):
            if directory.is_dir() and not directory.name.startswith("."):
                yield directory, load(directory)


def _pod(body: dict[str, Any]) -> PodRecord:
    containers = {name: _container(entry) for name, entry in body["containers"].items()}
    return PodRecord(**{**body, "containers": containers})


def _container(body: dict[str, Any]) -> ContainerRecord:
    identity, last = body["identity"], body["last"]
    return ContainerRecord(
        **{
            **body,
            "identity": Identity(**identity) if identity else None,
            "last": Terminated(**last) if last else None,
        }
    )
