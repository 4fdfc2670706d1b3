"""Fixtures with real Postgres servers, versions 15 and 18, one of each per test process and started on first use.

`postgres` (session, parametrised over the versions) yields a `Postgres`; `database` a fresh `Database` on it, dropped
afterwards together with its replication slots; `databases` a factory for tests that need several.
A version whose binaries are missing is skipped, naming the version.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from switchgear_local.postgres import PostgresError, PostgresServer, find

VERSIONS = (15, 18)


@dataclass(frozen=True)
class Postgres:
    """A running server: `admin_url` is the superuser's URL of the database `postgres`."""

    version: int
    admin_url: str
    server: PostgresServer


@dataclass(frozen=True)
class Database:
    """A fresh database; `url` connects as superuser."""

    name: str
    url: str
    version: int
    postgres: Postgres = field(repr=False)

    def connect(self, *, autocommit: bool = True) -> psycopg.Connection:
        """A new synchronous connection."""
        return psycopg.connect(self.url, autocommit=autocommit, connect_timeout=60)

    def execute(self, statement: str) -> None:
        """Run SQL in a connection of its own."""
        with self.connect() as connection:
            connection.execute(statement.encode())


class PostgresServers:
    """Starts a server of a version when it is first asked for, and keeps it until the session ends."""

    def __init__(self) -> None:
        self._root: Path | None = None
        self._running: dict[int, Postgres] = {}

    def get(self, version: int) -> Postgres:
        if version not in self._running:
            self._running[version] = self._start(version)
        return self._running[version]

    @property
    def root(self) -> Path:
        """A folder that goes with the session."""
        if self._root is None:
            self._root = Path(tempfile.mkdtemp(prefix="sg-pg-"))
            self._root.chmod(0o755)  # as root, Postgres runs as another user
        return self._root

    @property
    def binary_copies(self) -> Path:
        """For programs that the other user cannot reach where they are. Else they would be left in /var/lib."""
        return self.root / "binaries"

    def _start(self, version: int) -> Postgres:
        try:
            binaries = find(version)
        except PostgresError as error:
            pytest.skip(f"Postgres {version} is not installed: {error}")
        server = PostgresServer(
            binaries,
            self.root / str(version),
            durable=False,
            # Autovacuum has transactions that no test made: snapshots tell of them, and the log gets longer.
            settings={
                "shared_buffers": "32MB",
                "max_wal_senders": "100",
                "max_replication_slots": "100",
                "autovacuum": "off",
            },
            binary_copies=self.binary_copies,
        )
        server.start()
        return Postgres(version, server.url, server)

    def close(self) -> None:
        for running in self._running.values():
            running.server.stop()
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_servers() -> Iterator[PostgresServers]:
    servers = PostgresServers()
    yield servers
    servers.close()


@pytest.fixture(scope="session", params=VERSIONS, ids=[f"pg{version}" for version in VERSIONS])
def postgres(request: pytest.FixtureRequest, postgres_servers: PostgresServers) -> Postgres:
    return postgres_servers.get(request.param)


@pytest.fixture
def databases(postgres: Postgres) -> Iterator[Callable[[], Database]]:
    made: list[Database] = []

    def make() -> Database:
        database = create_database(postgres)
        made.append(database)
        return database

    yield make
    for database in made:
        drop_database(database)


@pytest.fixture
def database(databases: Callable[[], Database]) -> Database:
    return databases()


def create_database(postgres: Postgres) -> Database:
    """A new empty database on a running server."""
    name = f"t_{uuid.uuid4().hex[:16]}"
    with psycopg.connect(postgres.admin_url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return Database(name, postgres.server.url_of(name), postgres.version, postgres)


def drop_slot(database: Database, name: str) -> None:
    """Drop a replication slot whose reader has just gone: its walsender may need a moment to notice."""
    deadline = time.monotonic() + 60
    while True:
        try:
            database.execute(f"SELECT pg_drop_replication_slot('{name}')")
            return
        except psycopg.errors.ObjectInUse:
            assert time.monotonic() < deadline, f"somebody still reads {name}"
            time.sleep(0.05)


def drop_database(database: Database) -> None:
    """Drop a database with its replication slots, whoever still holds them."""
    with psycopg.connect(database.postgres.admin_url, autocommit=True) as admin:
        deadline = time.monotonic() + 60
        while True:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [database.name])
            admin.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
                " WHERE database = %s AND active_pid IS NOT NULL",
                [database.name],
            )
            slots = admin.execute(
                "SELECT slot_name, active FROM pg_replication_slots WHERE database = %s", [database.name]
            ).fetchall()
            for slot, active in slots:
                if active:
                    continue
                try:
                    admin.execute("SELECT pg_drop_replication_slot(%s)", [slot])
                except psycopg.Error:
                    continue  # taken again in between, or just gone: look once more
            remaining = admin.execute(
                "SELECT count(*) FROM pg_replication_slots WHERE database = %s", [database.name]
            ).fetchone()
            if remaining == (0,) and _dropped(admin, database.name):
                break
            if time.monotonic() > deadline:
                raise AssertionError(f"{database.name} could not be dropped, or replication slots of it: {slots}")
            time.sleep(0.05)


def _dropped(admin: psycopg.Connection, name: str) -> bool:
    try:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
    except psycopg.errors.ObjectInUse:  # a session that was told to end has not, within Postgres' five seconds
        return False
    return True
