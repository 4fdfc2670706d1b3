"""One region for the whole pass (`switchgear up`, without the demo) and a database for its sync sources."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.postgres import Database, PostgresServers, create_database, drop_database
from tests.support.region import Region


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/e2e/" in str(item.path):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def region() -> Iterator[Region]:
    root = Path(tempfile.mkdtemp(prefix="sg-e2e-"))
    root.chmod(0o755)
    started = Region(root / "region")
    try:
        started.start()
        yield started
    finally:
        started.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def source_database(postgres_servers: PostgresServers) -> Iterator[Database]:
    """A database with a table `items` of 1,000 rows."""
    database = create_database(postgres_servers.get(18))
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE items (id int PRIMARY KEY, title text NOT NULL, n int)")
        connection.execute("INSERT INTO items SELECT i, 'item ' || i, i % 7 FROM generate_series(1, 1000) i")
    yield database
    drop_database(database)


@pytest.fixture
def namespace(region: Region, source_database: Database) -> Iterator[str]:
    """A fresh namespace with Workspace, Project, Environment and the database's Secret; deleted afterwards."""
    name = f"team-{uuid.uuid4().hex[:8]}"
    region.kubectl("create", "namespace", name)
    region.kubectl(
        "create", "secret", "generic", "app-database", "-n", name, f"--from-literal=url={source_database.url}"
    )
    region.kubectl("apply", "-n", name, "-f", "-", stdin=PARENTS)
    yield name
    region.kubectl("delete", "namespace", name, "--timeout=120s")


PARENTS = """
apiVersion: switchgear.dev/v1alpha1
kind: Workspace
metadata: {name: team}
spec: {}
---
apiVersion: switchgear.dev/v1alpha1
kind: Project
metadata: {name: app}
spec: {}
---
apiVersion: switchgear.dev/v1alpha1
kind: Environment
metadata: {name: main}
spec: {projectRef: {name: app}}
"""


def services(environment: str, *, with_environment: bool = False) -> str:
    """YAML of a SyncSource `<environment>-db` and a StreamsService `<environment>-events`."""
    parent = f"""
apiVersion: switchgear.dev/v1alpha1
kind: Environment
metadata: {{name: {environment}}}
spec: {{projectRef: {{name: app}}}}
---
"""
    return (
        (parent if with_environment else "")
        + f"""
apiVersion: switchgear.dev/v1alpha1
kind: SyncSource
metadata: {{name: {environment}-db}}
spec:
  environmentRef: {{name: {environment}}}
  database: {{urlSecretRef: {{name: app-database, key: url}}}}
---
apiVersion: switchgear.dev/v1alpha1
kind: StreamsService
metadata: {{name: {environment}-events}}
spec:
  environmentRef: {{name: {environment}}}
"""
    )
