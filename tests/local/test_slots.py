"""Slots on databases that are not the region's: what they retain is told, and wiping drops ours only."""

from __future__ import annotations

import psycopg
import pytest

from switchgear_local import slots
from switchgear_local.slots import Source
from tests.support.postgres import Database

pytestmark = pytest.mark.pg
SERVICE = "svc-quiet-river-abcdefghij"


def source(url: str, *, keep: bool = False) -> Source:
    return Source(namespace="team", name="db", service_id=SERVICE, url=url, keep=keep)


@pytest.fixture
def with_slot(database: Database) -> Source:
    found = source(database.url)
    with database.connect() as connection:
        # The demo of a shared server: slot names are unique in it, so leave none of an earlier test behind.
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [found.slot]
        )
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [found.slot])
        connection.execute(f"CREATE PUBLICATION {found.publication}".encode())
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [f"theirs_{database.name}"])
    return found


def slot_names(database: Database) -> set[str]:
    with database.connect() as connection:
        rows = connection.execute("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()")
        return {row[0] for row in rows.fetchall()}


def test_inactive_slot_is_warned_of_without_the_password(with_slot: Source, database: Database) -> None:
    warnings = slots.retained([with_slot])
    assert len(warnings) == 1
    assert with_slot.slot in warnings[0]
    assert "bytes" in warnings[0] or "kB" in warnings[0] or "MB" in warnings[0]
    assert database.postgres.server.password not in warnings[0]


def test_no_slot_no_warning(database: Database) -> None:
    assert slots.retained([source(database.url)]) == []


def test_drop_takes_ours_and_leaves_theirs(with_slot: Source, database: Database) -> None:
    lines = slots.drop([with_slot])
    assert lines == [f"dropped {with_slot.slot} on {with_slot.place}"]
    assert slot_names(database) == {f"theirs_{database.name}"}
    with database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM pg_publication").fetchone() == (0,)
    assert slots.drop([with_slot]) == lines  # nothing there is as good


def test_orphan_policy_keeps_the_slot(with_slot: Source, database: Database) -> None:
    kept = source(with_slot.url, keep=True)
    assert "kept" in slots.drop([kept])[0]
    assert kept.slot in slot_names(database)


def test_unreachable_database_is_told_with_what_is_left() -> None:
    gone = source("postgresql://user:hidden-password@127.0.0.1:1/app")
    for lines in (slots.drop([gone]), slots.retained([gone])):
        assert len(lines) == 1
        assert gone.slot in lines[0]
        assert "127.0.0.1:1/app" in lines[0]
        assert "hidden-password" not in lines[0]
    assert "pg_drop_replication_slot" in slots.drop([gone])[0]


def test_table_of_the_demo_is_told_and_not_dropped(database: Database) -> None:
    assert slots.tables_left([source(database.url)], "switchgear_demo") == []
    database.execute("CREATE TABLE switchgear_demo (id int)")
    assert "DROP TABLE public.switchgear_demo" in slots.tables_left([source(database.url)], "switchgear_demo")[0]
    database.execute("SELECT * FROM switchgear_demo")


def test_own_database_is_not_foreign(database: Database) -> None:
    port = database.postgres.server.port
    assert slots.foreign([source(database.url)], port) == []
    assert slots.foreign([source(database.url)], port + 1) == [source(database.url)]
    assert slots.foreign([source(database.url)], None) == [source(database.url)]
    assert issubclass(psycopg.OperationalError, psycopg.Error)
