"""The demo's own Postgres: a server of the region with one database and one role that may replicate.

The role owns its database and has REPLICATION, no more: what a sync source needs, shown by example. Passwords are in
files (mode 0600) beside the data. Must not: hand the superuser's URL to anyone.
"""

from __future__ import annotations

import secrets
import signal
from pathlib import Path

import psycopg
from psycopg import sql

from .postgres import PostgresBinaries, PostgresServer, child_environment, find
from .processes import write_private
from .supervise import Command, Keeper

NAME = "quickstart"


class DemoDatabase:
    """`prepare`, then run its command, then `wait_ready`; afterwards `url` can be used."""

    def __init__(self, folder: Path, binary_copies: Path) -> None:
        self._folder = folder
        self._binary_copies = binary_copies
        self._server: PostgresServer | None = None

    @property
    def server(self) -> PostgresServer:
        assert self._server is not None, "prepare comes first"
        return self._server

    @property
    def version(self) -> int:
        """Postgres's major version."""
        return self.server.version

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1."""
        return self.server.port

    @property
    def url(self) -> str:
        """The URL of the demo's database as its owner; contains the password."""
        return f"postgresql://{NAME}:{self._password()}@127.0.0.1:{self.port}/{NAME}"

    def prepare(self) -> Command:
        """Initialise the server when needed; the command that runs it. Raises PostgresError."""
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        self._server = PostgresServer(self._binaries(), self._folder, binary_copies=self._binary_copies)
        self._server.initialise()
        self._server.stop_orphan()
        return Command(
            name="postgres",
            argv=tuple(self._server.command()),
            environ=child_environment(),
            log_file=self._server.log_file,
            stop_signal=signal.SIGINT,
            grace=40.0,
            parent_death_signal=signal.SIGINT,
            account=self._server.account,
        )

    def wait_ready(self, keeper: Keeper) -> None:
        """Return when the database can be used; makes role and database. Raises PostgresError."""
        self.server.wait_ready(lambda: "it keeps ending" if keeper.restarts >= 3 else None)
        password_file = self._password_file()
        if not password_file.exists():
            write_private(password_file, secrets.token_urlsafe(24) + "\n")
        role, password = sql.Identifier(NAME), sql.Literal(self._password())
        with psycopg.connect(self.server.url, autocommit=True, connect_timeout=10) as connection:
            if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [NAME]).fetchone() is None:
                statement = sql.SQL("CREATE ROLE {} LOGIN REPLICATION PASSWORD {}")
                connection.execute(statement.format(role, password))
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [NAME]).fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role))

    def _binaries(self) -> PostgresBinaries:
        version_file = self._folder / "pgdata" / "PG_VERSION"
        return find(int(version_file.read_text())) if version_file.exists() else find()

    def _password_file(self) -> Path:
        return self._folder / f"{NAME}-password"

    def _password(self) -> str:
        return self._password_file().read_text().strip()
