"""What the command line calls: `up`, `down`, `kubeconfig`.

`up` owns the terminal until Ctrl-C (or SIGTERM, SIGHUP, or `down` from elsewhere) and then stops everything. Every
function raises LocalError with a message for a person when something on this machine is in the way.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from . import binaries, paths, quickstart, slots
from . import demo as demo_page
from .controlplane import ControlPlane
from .errors import LocalError, StartError
from .state import DataDirLock, State
from .supervisor import SIGNALS, Layout, Region, api_url, remove, running

Say = Callable[[str], None]
STOP_LIMIT = 180.0


class InterruptedStartError(BaseException):
    """A signal asked to stop while the region was starting."""


def up(
    *,
    data_dir: Path | None = None,
    demo: bool = False,
    database_url: str | None = None,
    say: Say | None = None,
) -> int:
    """Start a region and keep it until a signal; returns the exit status.

    `demo` adds the quickstart and its page, on `database_url` when given, else on a Postgres of the region's own.
    """
    if database_url is not None and not demo:
        raise StartError("--database-url belongs to --demo: `switchgear up --demo --database-url URL`.")
    if database_url is not None and not database_url.startswith(("postgresql://", "postgres://")):
        raise StartError("--database-url must look like postgresql://user:password@host:5432/database.")
    directory = paths.data_dir(data_dir)
    tell = say or _timed_printer()
    with _signals() as asked:
        try:
            with running(directory, tell) as region:
                with asked.raising():
                    region.start(own_database=demo and database_url is None)
                    summary = _start_demo(region, database_url, tell) if demo else []
                print("\n".join(["", *_overview(region), *summary, "", "Ctrl-C stops everything."]), flush=True)
                asked.event.wait()
                tell("stopping")
        except InterruptedStartError:
            return 130
    tell("stopped")
    return 0


def down(*, data_dir: Path | None = None, wipe: bool = False, say: Say | None = None) -> int:
    """Stop the region, whoever started it; `wipe` removes its state too, slots on foreign databases included."""
    directory = paths.data_dir(data_dir)
    tell = say or _printer
    lock = DataDirLock(directory)
    owner = lock.owner()
    if owner:
        tell(f"stopping the region on {directory} (process {owner})")
        _interrupt(owner)
    if not lock.wait_free(STOP_LIMIT):
        raise StartError(f"Process {owner} did not stop within {STOP_LIMIT:.0f} s. Look at its terminal, or kill it.")
    warnings = Layout(directory).warnings
    if owner and warnings.exists() and not wipe:
        for line in warnings.read_text().splitlines():
            tell(f"WARNING: {line}")
    if wipe:
        _wipe(directory, tell)
    else:
        tell("stopped" if owner else f"no region runs on {directory}")
    return 0


def kubeconfig(*, data_dir: Path | None = None) -> Path:
    """Where the administrator's kubeconfig of the region is; it exists once the region was started."""
    return Layout(paths.data_dir(data_dir)).admin_kubeconfig


def _start_demo(region: Region, database_url: str | None, say: Say) -> list[str]:
    url = database_url or region.own_database_url()
    with region.api() as api:
        say("applying the quickstart")
        quickstart.apply(api, url)
        sync, streams = quickstart.wait_active(api, say)
    login = quickstart.log_in(region.api_url, region.admin_token)
    state_file = region.layout.secrets / "demo.json"
    quickstart.write_demo_state(state_file, region.edge_url, url, sync, streams)
    region.start_demo(state_file)
    region.wait_for_demo()
    lines = quickstart.describe(sync, streams, demo_page.TABLE, demo_page.STREAM)
    return ["", *lines, "", f"Demo page       {region.demo_url}", f"The command line is logged in ({login})."]


def _overview(region: Region) -> list[str]:
    return [
        "The region is ready.",
        f"Kubernetes      export KUBECONFIG={region.layout.admin_kubeconfig}",
        f"Edge            {region.edge_url}",
        f"API             {region.api_url}   (admin token: {region.layout.admin_token})",
        f"Logs            {region.layout.logs}",
    ]


def _wipe(directory: Path, say: Say) -> None:
    layout = Layout(directory)
    if not layout.state.exists() and not layout.control_plane.exists():
        say(f"nothing to remove in {directory}")
        return
    lock = DataDirLock(directory)
    with lock.held():
        if layout.admin_kubeconfig.exists():
            for line in _drop_foreign_slots(layout, say):
                say(line)
        _log_out(layout, say)
        remove(directory)
        lock.remove()
        with suppress(OSError):  # not empty: someone keeps other things there
            directory.rmdir()
    say(f"removed the region's state in {directory}")


def _log_out(layout: Layout, say: Say) -> None:
    with suppress(LocalError):
        port = State.load(layout.state).ports.get("api")
        if port is not None and quickstart.log_out(api_url(port)):
            say("removed the command line's login")


def _drop_foreign_slots(layout: Layout, say: Say) -> list[str]:
    """Look the SyncSources up in the stopped region's API server, started once more for it, and drop their slots."""
    say("looking for replication slots on databases that are not the region's")
    try:
        control_plane = ControlPlane(layout.control_plane, binaries.ensure(say), say=say)
        control_plane.start(controllers=False)
        try:
            with control_plane.api() as api:
                found = slots.sources(api)
        finally:
            control_plane.stop()
    except LocalError as error:
        known = layout.foreign_slots.read_text().splitlines() if layout.foreign_slots.exists() else []
        return [f"the region's objects cannot be read: {error}", *(f"LEFT: {line}" for line in known)]
    foreign = slots.foreign(found, _own_postgres_port(layout))
    demo = [
        source for source in foreign if (source.namespace, source.name) == (quickstart.NAMESPACE, quickstart.SYNC[1])
    ]
    return [*slots.drop(foreign), *slots.tables_left(demo, demo_page.TABLE)]


def _own_postgres_port(layout: Layout) -> int | None:
    state = State.load(layout.state)
    try:
        return int((Path(state.postgres_dir) / "port").read_text()) if state.postgres_dir else None
    except (OSError, ValueError):
        return None


def _interrupt(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGINT)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise StartError(f"The region belongs to another user (process {pid}). Stop it as that user.") from error


class _Asked:
    """Whether someone asked to stop. While `raising`, the request interrupts the main thread."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self._raise = False

    def on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.event.set()
        if self._raise:
            self._raise = False
            raise InterruptedStartError

    @contextmanager
    def raising(self) -> Iterator[None]:
        self._raise = True
        if self.event.is_set():
            raise InterruptedStartError
        try:
            yield
        finally:
            self._raise = False


@contextmanager
def _signals() -> Iterator[_Asked]:
    asked = _Asked()
    # A terminal that went away does not matter to whoever used nohup.
    wanted = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, asked.on_signal) for number in wanted}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _printer(line: str) -> None:
    print(line, flush=True)


def _timed_printer() -> Say:
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - started:6.1f} s] {line}", flush=True)

    return say
