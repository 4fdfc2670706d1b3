"""Real Postgres servers: the settings that the product needs, restart, and the fixtures' own cleaning up."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

from switchgear_local import postgres as pg
from tests.support.postgres import Database, Postgres, create_database, drop_database

pytestmark = pytest.mark.pg


def test_server_speaks_the_requested_version_and_logical_wal(postgres: Postgres) -> None:
    with psycopg.connect(postgres.admin_url) as connection:
        assert connection.info.server_version // 10000 == postgres.version
        assert connection.execute("SHOW wal_level").fetchone() == ("logical",)
        assert connection.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
        assert connection.execute("SHOW password_encryption").fetchone() == ("scram-sha-256",)


def test_wrong_password_is_refused(postgres: Postgres) -> None:
    password = postgres.server.password
    assert password in postgres.admin_url
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.admin_url.replace(password, "wrong")).close()


def test_password_is_private_and_on_no_command_line(postgres: Postgres) -> None:
    mode = (postgres.server.data_dir / "password").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert postgres.server.password not in Path(f"/proc/{postgres.server.pid}/cmdline").read_text()


def test_server_does_not_run_as_root(postgres: Postgres) -> None:
    owner = Path(f"/proc/{postgres.server.pid}").stat().st_uid
    assert owner != 0
    if os.geteuid() != 0:
        assert owner == os.geteuid()


def test_database_goes_with_its_active_slot(postgres: Postgres) -> None:
    database = create_database(postgres)
    slot = f"gone_{database.name}"
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
        connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    program = postgres.server.binaries.path("pg_recvlogical")
    command = [program, "--start", f"--slot={slot}", f"--dbname={database.url}", "--file=-", "--no-loop"]
    options = ["--option=proto_version=1", "--option=publication_names=everything"]
    reader = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not slot_is_active(postgres, slot):
            assert time.monotonic() < deadline, "the slot was not taken"
            time.sleep(0.05)
        drop_database(database)
    finally:
        reader.kill()
        reader.wait()
    with psycopg.connect(postgres.admin_url) as admin:
        left = admin.execute(
            "SELECT slot_name FROM pg_replication_slots WHERE database = %s", [database.name]
        ).fetchall()
        assert left == []
        assert admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database.name]).fetchone() is None


def slot_is_active(postgres: Postgres, slot: str) -> bool:
    with psycopg.connect(postgres.admin_url) as admin:
        row = admin.execute("SELECT active FROM pg_replication_slots WHERE slot_name = %s", [slot]).fetchone()
    return row == (True,)


def test_fresh_database_is_empty(database: Database) -> None:
    with database.connect() as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert tables == (0,)


def test_restart_keeps_rows_and_port() -> None:
    with tempfile.TemporaryDirectory(prefix="sg-pg-restart-") as root:
        Path(root).chmod(0o755)
        binaries = pg.find()
        first = pg.PostgresServer(binaries, Path(root) / "data", binary_copies=Path(root) / "bin")
        first.start()
        try:
            with psycopg.connect(first.url, autocommit=True) as connection:
                connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        finally:
            first.stop()
        assert first.pid is None
        second = pg.PostgresServer(binaries, Path(root) / "data", binary_copies=Path(root) / "bin")
        second.start()
        try:
            assert second.port == first.port
            with psycopg.connect(second.url) as connection:
                assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
        finally:
            second.stop()


def test_a_server_that_outlived_its_owner_is_replaced() -> None:
    with tempfile.TemporaryDirectory(prefix="sg-pg-orphan-") as root:
        Path(root).chmod(0o755)
        binaries = pg.find()
        first = pg.PostgresServer(binaries, Path(root) / "data", durable=False, binary_copies=Path(root) / "bin")
        first.start()
        second = pg.PostgresServer(binaries, Path(root) / "data", durable=False, binary_copies=Path(root) / "bin")
        try:
            second.start()
            assert second.pid != first.pid
            assert first.pid is None
        finally:
            second.stop()
            first.stop()


def test_missing_version_is_named() -> None:
    with pytest.raises(pg.PostgresError, match=r"Postgres 99 .*SWITCHGEAR_POSTGRES_BIN"):
        pg.find(99)


def test_explicit_folder_comes_first() -> None:
    installed = pg.find_all()
    other = installed[-1]
    assert pg.find(environ={"SWITCHGEAR_POSTGRES_BIN": str(other.bin_dir), "PATH": ""}).bin_dir == other.bin_dir
