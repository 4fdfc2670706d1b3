"""What a region remembers between two starts, and who may use its data directory.

Invariants: one `switchgear up` at a time per data directory (an flock, which the kernel releases however that process
ends); ports are chosen once, because they are part of `status.url`, of Secrets and of people's shells.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from . import paths
from .errors import BusyError, StartError
from .processes import free_port, port_is_free, write_private

DEFAULT_PORTS = {"edge": 4400, "edge-internal": 4401, "api": 4480, "operator-health": 4481, "demo": 4490}


@dataclass
class State:
    """The contents of `region.json`."""

    ports: dict[str, int] = field(default_factory=dict)
    postgres: bool = False
    """Whether the region has a Postgres of its own: started once for the demo, it stays a part of the region."""
    postgres_dir: str = ""

    @staticmethod
    def load(file: Path) -> State:
        """The kept state, or an empty one. Raises StartError when the file is damaged."""
        try:
            content = json.loads(file.read_text())
            return State(
                ports={str(name): int(port) for name, port in content["ports"].items()},
                postgres=bool(content["postgres"]),
                postgres_dir=str(content["postgres_dir"]),
            )
        except FileNotFoundError:
            return State()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StartError(
                f"{file} cannot be read ({type(error).__name__}). Restore it, or remove the region with "
                "`switchgear down --wipe`."
            ) from error

    def save(self, file: Path) -> None:
        """Write the state, atomically."""
        write_private(file, json.dumps(asdict(self), indent=2) + "\n")


def choose_ports(state: State, data_dir: Path) -> None:
    """Fill in the ports: those of the last time, well-known ones for the default region, else free ones.

    Raises StartError when another program took a port that this region has used before.
    """
    well_known = data_dir == paths.data_dir(environ={})
    for name, usual in DEFAULT_PORTS.items():
        kept = state.ports.get(name)
        if kept is None:
            taken = set(state.ports.values())
            port = usual if well_known and usual not in taken and port_is_free(usual) else free_port()
            while port in taken:
                port = free_port()
            state.ports[name] = port
        elif not port_is_free(kept):
            raise StartError(
                f"Port {kept} on 127.0.0.1, this region's {name} port, is taken by another program. Its URLs name it, "
                f"so it cannot change. Stop that program (`ss -ltnp sport = :{kept}` shows it), then try again."
            )


class DataDirLock:
    """The lock file of a data directory; it holds the pid of the owner."""

    def __init__(self, data_dir: Path) -> None:
        self.file = data_dir / "lock"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Own the directory. Raises BusyError at once when someone else does."""
        fd = self._lock()
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    os.ftruncate(fd, 0)
        finally:
            os.close(fd)

    def owner(self) -> int | None:
        """The pid of whoever holds the lock now, or None when it is free."""
        try:
            fd = os.open(self.file, os.O_RDWR)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._read_pid()
        else:
            return None
        finally:
            os.close(fd)

    def wait_free(self, limit: float) -> bool:
        """Wait until nobody holds the lock; False when that takes longer than `limit` seconds."""
        deadline = time.monotonic() + limit
        while self.owner() is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def remove(self) -> None:
        """Remove the file, by whoever holds the lock; it stays held until the block ends."""
        self.file.unlink(missing_ok=True)

    def _lock(self) -> int:
        for _ in range(10):
            fd = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self.file.exists() and os.path.samestat(os.fstat(fd), self.file.stat()):
                    return fd
            except BlockingIOError:
                os.close(fd)
                break
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # removed by whoever held it before: what we locked is nobody's lock any more
        raise BusyError(
            f"A region already runs on {self.file.parent} (process {self.owner() or 'unknown'}). "
            "Stop it with `switchgear down`, or give another --data-dir."
        )

    def _read_pid(self) -> int:
        # Between taking the lock and writing the number there is a moment without one.
        for _ in range(20):
            with contextlib.suppress(FileNotFoundError):
                text = self.file.read_text().strip()
                if text.isdigit():
                    return int(text)
            time.sleep(0.05)
        return 0
