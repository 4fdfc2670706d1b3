"""A whole region on one machine: which processes there are, in which order they start and stop.

Start: Postgres (when asked for) beside the control plane → installation objects → node, operator, edge and API at once
→ wait until each says that it is ready. Stop, in the opposite order: demo, operator, edge, API → node (its pods get
SIGTERM and their grace) → control plane → Postgres. Each process is supervised and started again when it dies.

Invariants: state stays in the data directory, and a region found there starts as it was; each process has the
kubeconfig of its own ServiceAccount; secrets travel in files (mode 0600) and never in argument lists.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from switchgear_model import labels

from . import binaries, install, node, paths, slots
from .accounts import for_postgres
from .controlplane import ControlPlane
from .demodatabase import DemoDatabase
from .errors import LocalError, StartError
from .kubeapi import KubeApi, KubeError
from .processes import write_private
from .state import DataDirLock, State, choose_ports
from .supervise import Command, Keeper, end_orphan, wait_until
from .versions import KUBERNETES

Say = Callable[[str], None]
HOST = "127.0.0.1"
_READY_LIMIT = 120.0
_NODE_GRACE = 60.0
_SERVICES = ("switchgear-operator", "switchgear-edge", "switchgear-api")


class Layout:
    """Where everything is in a data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir
        self.state = data_dir / "region.json"
        self.control_plane = data_dir / "control-plane"
        self.node = data_dir / "node"
        self.secrets = data_dir / "secrets"
        self.region_key = self.secrets / "region-key"
        self.admin_token = self.secrets / "admin-token"
        self.logs = data_dir / "logs"
        self.run = data_dir / "run"
        self.warnings = data_dir / "stopped.txt"
        self.foreign_slots = data_dir / "foreign-slots.txt"

    @property
    def admin_kubeconfig(self) -> Path:
        return self.control_plane / "kubeconfigs" / "admin.yaml"

    def create(self) -> None:
        """Make the folders. Raises StartError when the place cannot be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for folder in (self.control_plane, self.node, self.secrets, self.logs, self.run):
                folder.mkdir(exist_ok=True)
                folder.chmod(0o700)
        except OSError as error:
            raise StartError(
                f"{self.root} cannot be used as data directory: {error.strerror}. Give another with --data-dir."
            ) from error


class Region:
    """The region of one data directory; `start`, then `stop`. Used from one thread, under the directory's lock."""

    def __init__(self, data_dir: Path, say: Say) -> None:
        self.layout = Layout(data_dir)
        self.say = say
        self.state = State()
        self.control_plane: ControlPlane | None = None
        self.database: DemoDatabase | None = None
        self._keepers: dict[str, Keeper] = {}
        self._pool = ThreadPoolExecutor(1, "postgres-start")
        self._database_started: Future[None] | None = None

    @property
    def edge_url(self) -> str:
        """The edge's public base URL."""
        return f"http://{HOST}:{self.state.ports['edge']}"

    @property
    def api_url(self) -> str:
        """The management API's base URL."""
        return api_url(self.state.ports["api"])

    @property
    def demo_url(self) -> str:
        """The demo page's URL."""
        return f"http://{HOST}:{self.state.ports['demo']}/"

    @property
    def admin_token(self) -> str:
        """The API's bootstrap token."""
        return self.layout.admin_token.read_text().strip()

    def api(self) -> KubeApi:
        """A Kubernetes client with the administrator's rights; the control plane must have been started."""
        return KubeApi(self.layout.admin_kubeconfig)

    def start(self, *, own_database: bool) -> None:
        """Start everything and return when it is ready; `own_database` adds a Postgres. Raises LocalError."""
        self.layout.create()
        self._end_orphans()
        self.state = State.load(self.layout.state)
        choose_ports(self.state, self.layout.root)
        self.state.postgres = self.state.postgres or own_database
        if self.state.postgres:
            self._place_postgres()
        self.state.save(self.layout.state)
        self.layout.warnings.unlink(missing_ok=True)
        programs = binaries.ensure(self.say)
        self._start_database()
        self._start_control_plane(programs)
        self._start_processes()
        if self._database_started is not None:
            self._database_started.result()

    def start_demo(self, region_state: Path) -> Keeper:
        """Start the demo page, which reads the services' URLs and secrets from `region_state`."""
        arguments = ("-m", "switchgear_local.demo", "--port", str(self.state.ports["demo"]))
        argv = (sys.executable, *arguments, "--region-state", str(region_state))
        return self._keep("demo", argv)

    def own_database_url(self) -> str:
        """The URL of the region's own demo database, once it runs; contains a password."""
        assert self.database is not None
        return self.database.url

    def wait_for_demo(self) -> None:
        """Wait for the demo page, its table and its stream. Raises StartError."""
        self._wait_for("demo", f"{self.demo_url}ready")

    def stop(self) -> None:
        """Stop everything; never raises for a part that does not stop properly."""
        warn = self._sources_to_warn_of()
        self._stop_keepers([name for name in self._keepers if name not in ("node", "postgres")])
        self._stop_keepers(["node"])
        warnings = slots.retained(warn or [])
        if self.control_plane is not None:
            self.control_plane.stop()
        if self._database_started is not None:
            with suppress(LocalError, TimeoutError):
                self._database_started.result(timeout=120)
        self._stop_keepers(["postgres"])
        self._pool.shutdown()
        for warning in warnings:
            self.say(f"WARNING: {warning}")
        if warnings:
            write_private(self.layout.warnings, "\n".join(warnings) + "\n")
        if warn is not None:
            write_private(self.layout.foreign_slots, "".join(f"{s.slot} on {s.place}\n" for s in warn))

    def _end_orphans(self) -> None:
        """End what an earlier `up` left when it was killed. Pods stay: the node takes them over."""
        for pid_file in self.layout.run.glob("*.pid"):
            if pid_file.stem != "postgres":  # shut down in its own way
                end_orphan(pid_file)

    def _place_postgres(self) -> None:
        """Choose Postgres's folder: in the data directory, or as root elsewhere when its account cannot get there."""
        if not self.state.postgres_dir:
            account = for_postgres()
            inside = account.uid is None or account.can_enter(self.layout.root)
            folder = self.layout.root
            if not inside:
                folder = paths.SYSTEM_DATA / f"postgres-{secrets.token_hex(6)}"
                folder.mkdir(parents=True)
                folder.chmod(0o755)
            self.state.postgres_dir = str(folder / "postgres")

    def _start_database(self) -> None:
        if not self.state.postgres:
            return
        copies = Path(self.state.postgres_dir).with_name("postgres-binaries")
        self.database = DemoDatabase(Path(self.state.postgres_dir), copies)
        self._database_started = self._pool.submit(self._run_database, self.database)

    def _run_database(self, database: DemoDatabase) -> None:
        command = database.prepare()
        keeper = Keeper(command, self.layout.run / "postgres.pid", self.say)
        self._keepers["postgres"] = keeper
        keeper.start()
        database.wait_ready(keeper)
        self.say(f"Postgres {database.version} is ready")

    def _start_control_plane(self, programs: binaries.KubeBinaries) -> None:
        self.control_plane = ControlPlane(self.layout.control_plane, programs, say=self.say)
        self.control_plane.start()
        with self.api() as api:
            install.install(self.control_plane, api)
            install.install_node(self.control_plane, api)
            install.write_region_key(api, self.layout.region_key)
        if not self.layout.admin_token.exists():
            write_private(self.layout.admin_token, f"sg_admin_{secrets.token_urlsafe(32)}\n")
        self.say(f"Kubernetes {KUBERNETES} is ready")

    def _start_processes(self) -> None:
        assert self.control_plane is not None
        ports = self.state.ports
        internal = f"http://{HOST}:{ports['edge-internal']}"
        self._keep("node", node_argv(self.control_plane, self.layout.node), grace=_NODE_GRACE)
        edge = ["--host", HOST, "--port", str(ports["edge"]), "--internal-port", str(ports["edge-internal"])]
        self._keep_service("switchgear-edge", *edge, "--region-key-file", str(self.layout.region_key))
        operator = ["--namespace", labels.SYSTEM_NAMESPACE, "--region", labels.DEFAULT_REGION]
        operator += ["--edge-url", internal, "--public-url", self.edge_url]
        self._keep_service("switchgear-operator", *operator, "--health-port", str(ports["operator-health"]))
        api = ["--host", HOST, "--port", str(ports["api"]), "--public-url", self.api_url]
        self._keep_service("switchgear-api", *api, "--admin-token-file", str(self.layout.admin_token))
        self._wait_for("switchgear-edge", f"{internal}/ready")
        self._wait_for("switchgear-operator", f"http://{HOST}:{ports['operator-health']}/ready")
        self._wait_for("switchgear-api", f"{self.api_url}/ready")
        with self.api() as kube:
            wait_until(lambda: node_is_ready(kube), _READY_LIMIT, "process node", (self._keepers["node"],))
        self.say("node, operator, edge and API are ready")

    def _keep_service(self, name: str, *arguments: str) -> Keeper:
        assert self.control_plane is not None
        kubeconfig = str(self.control_plane.kubeconfig(name))
        return self._keep(name, (*_program(name), *arguments), {"KUBECONFIG": kubeconfig})

    def _keep(
        self, name: str, argv: tuple[str, ...], extra: dict[str, str] | None = None, grace: float = 30.0
    ) -> Keeper:
        command = Command(
            name=name,
            argv=argv,
            environ=child_environment() | {"SWITCHGEAR_DATA_DIR": str(self.layout.root)} | (extra or {}),
            log_file=self.layout.logs / f"{name}.log",
            grace=grace,
        )
        keeper = Keeper(command, self.layout.run / f"{name}.pid", self.say)
        self._keepers[name] = keeper
        keeper.start()
        return keeper

    def _wait_for(self, name: str, url: str) -> None:
        wait_until(lambda: _answers(url), _READY_LIMIT, name, (self._keepers[name],))

    def _stop_keepers(self, names: list[str]) -> None:
        keepers = [self._keepers[name] for name in names if name in self._keepers]
        for keeper in keepers:
            keeper.signal_stop()
        for keeper in keepers:
            keeper.stop()
        for name in names:
            self._keepers.pop(name, None)

    def _sources_to_warn_of(self) -> list[slots.Source] | None:
        """The sync sources on foreign databases; None when the API server cannot say."""
        if self.control_plane is None or "kube-apiserver" not in self.control_plane.keepers:
            return None
        try:
            with self.api() as api:
                found = slots.sources(api)
        except (KubeError, OSError):
            return None
        return slots.foreign(found, self.database.port if self.database is not None else None)


def api_url(port: int) -> str:
    """The management API's base URL, which the stored login of the command line names."""
    return f"http://{HOST}:{port}"


@contextmanager
def running(data_dir: Path, say: Say) -> Iterator[Region]:
    """A region under its data directory's lock, stopped when the block ends. Raises BusyError, StartError."""
    layout = Layout(data_dir)
    layout.create()
    with DataDirLock(data_dir).held():
        region = Region(data_dir, say)
        try:
            yield region
        finally:
            region.stop()


def remove(data_dir: Path) -> None:
    """Remove a stopped region's state, its Postgres included; not the lock file, which is held meanwhile."""
    layout = Layout(data_dir)
    with suppress(StartError):
        folder = State.load(layout.state).postgres_dir
        if folder and Path(folder).parent != data_dir:
            shutil.rmtree(Path(folder).parent, ignore_errors=True)
    # Named one by one: the directory may be someone's own, with other things in it.
    for entry in ("postgres", "postgres-binaries", "node", "secrets", "logs", "run", "control-plane"):
        shutil.rmtree(data_dir / entry, ignore_errors=True)
    for file in (layout.warnings, layout.foreign_slots, layout.state):
        file.unlink(missing_ok=True)


def node_argv(control_plane: ControlPlane, data_dir: Path) -> tuple[str, ...]:
    """The argument list of the process node."""
    kubeconfig = control_plane.kubeconfig(node.SERVICE_ACCOUNT)
    arguments = {"--kubeconfig": kubeconfig, "--data-dir": data_dir} | control_plane.node_tls
    pairs = (text for flag, value in arguments.items() for text in (flag, str(value)))
    return (sys.executable, "-m", "switchgear_local.node", *pairs)


def _program(name: str) -> tuple[str, ...]:
    """The command that runs one of our servers: its script beside this Python, else the module."""
    script = Path(sys.executable).parent / name
    if os.access(script, os.X_OK):
        return (str(script),)
    return (sys.executable, "-m", name.replace("-", "_"))


def child_environment() -> dict[str, str]:
    """What our processes get of the caller's environment: no credentials, none of its SWITCHGEAR_* settings."""
    passed = ("HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "SSL_CERT_FILE", "PYTHONPATH", "SWITCHGEAR_LOG_LEVEL")
    environ = {name: os.environ[name] for name in passed if name in os.environ}
    own = str(Path(sys.executable).parent)
    return environ | {"PATH": f"{own}:{os.environ.get('PATH', os.defpath)}", "PYTHONUNBUFFERED": "1"}


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def node_is_ready(api: KubeApi) -> bool:
    """True when the process node says that it is ready."""
    try:
        found = api.get("v1", "Node", node.NODE_NAME) or {}
    except KubeError:
        return False
    conditions = found.get("status", {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
