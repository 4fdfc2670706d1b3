"""`switchgear down --wipe` drops the region's slots on other people's databases, then removes the region's state."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from switchgear_local import binaries, commands, install
from switchgear_local.controlplane import ControlPlane
from switchgear_local.state import State
from switchgear_local.supervisor import Layout
from switchgear_model import ids, labels
from tests.support.postgres import Database, PostgresServers, create_database, drop_database

pytestmark = [pytest.mark.pg, pytest.mark.cluster]
SERVICE = "svc-silent-harbor-0123456789"


@pytest.fixture
def layout() -> Iterator[Layout]:
    with tempfile.TemporaryDirectory(prefix="sg-wipe-") as root:
        made = Layout(Path(root) / "region")
        made.create()
        State(ports={"edge": 1}).save(made.state)
        yield made


@pytest.fixture
def own_database(postgres_servers: PostgresServers) -> Iterator[Database]:
    made = create_database(postgres_servers.get(18))
    yield made
    drop_database(made)


def declare_source(layout: Layout, database: Database) -> None:
    """A stopped region whose operator made a slot for a SyncSource on `database`."""
    control_plane = ControlPlane(layout.control_plane, binaries.ensure(), durable=False)
    control_plane.start()
    try:
        with control_plane.api() as api:
            api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})
            api.apply(install.secret(ids.database_secret_name(SERVICE), "team", {"url": database.url}))
            source = {
                "apiVersion": labels.API_VERSION,
                "kind": "SyncSource",
                "metadata": {"name": "db", "namespace": "team"},
                "spec": {
                    "environmentRef": {"name": "main"},
                    "database": {"urlSecretRef": {"name": "app-database", "key": "url"}},
                },
            }
            api.apply(source)
            path = api.path(source) + "/status"
            status = {"status": {"serviceId": SERVICE, "state": "active"}}
            api.request("PATCH", path, status, content_type="application/merge-patch+json")
    finally:
        control_plane.stop()
    with database.connect() as connection:
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [ids.slot_name(SERVICE)])
        connection.execute(f"CREATE PUBLICATION {ids.publication_name(SERVICE)}".encode())


def test_wipe_drops_foreign_slots_and_removes_everything(layout: Layout, own_database: Database) -> None:
    database = own_database
    declare_source(layout, database)
    (layout.root / "mine.txt").write_text("not the region's")
    told: list[str] = []
    assert commands.down(data_dir=layout.root, wipe=True, say=told.append) == 0
    with database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM pg_publication").fetchone() == (0,)
        query = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s"
        assert connection.execute(query, [ids.slot_name(SERVICE)]).fetchone() == (0,)
    assert {entry.name for entry in layout.root.iterdir()} == {"mine.txt"}
    assert any(line.startswith(f"dropped {ids.slot_name(SERVICE)}") for line in told)
    assert database.postgres.server.password not in "\n".join(told)


def test_wipe_of_a_damaged_region_says_what_is_left(layout: Layout) -> None:
    layout.foreign_slots.write_text("electric_slot_x on db.example.com:5432/app\n")
    (layout.control_plane / "kubeconfigs").mkdir()
    layout.admin_kubeconfig.write_text("{}")
    (layout.control_plane / "etcd").write_text("not a directory")
    told: list[str] = []
    assert commands.down(data_dir=layout.root, wipe=True, say=told.append) == 0
    assert "LEFT: electric_slot_x on db.example.com:5432/app" in told
    assert any("cannot be read" in line for line in told)
    assert not layout.root.exists()
