"""One region for the whole pass (`switchgear up`, without the demo) and a database for its sync sources."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
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


@pytest.fixture(scope="session")
def namespace(region: Region) -> str:
    """A workspace namespace with Workspace and Project, for all tests; it goes with the region."""
    name = f"team-{uuid.uuid4().hex[:8]}"
    region.kubectl("create", "namespace", name)
    region.kubectl("apply", "-n", name, "-f", "-", stdin=PARENTS)
    return name


@dataclass(frozen=True)
class Place:
    """Where a test's services live: an environment of its own and the database that its sync source follows."""

    namespace: str
    environment: str
    database: Database

    @property
    def sync(self) -> tuple[str, str]:
        return "syncsource", f"{self.environment}-db"

    @property
    def streams(self) -> tuple[str, str]:
        return "streamsservice", f"{self.environment}-events"

    def yaml(self) -> str:
        """The environment, a SyncSource and a StreamsService."""
        return YAML.format(environment=self.environment)


@pytest.fixture(params=[18], ids=["pg18"])
def place(
    request: pytest.FixtureRequest, region: Region, namespace: str, postgres_servers: PostgresServers
) -> Iterator[Place]:
    """A database with a table `items` of 1,000 rows, its Secret, and a fresh environment's name. Cleaned up."""
    database = create_database(postgres_servers.get(request.param))
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE items (id int PRIMARY KEY, title text NOT NULL, n int)")
        connection.execute("INSERT INTO items SELECT i, 'item ' || i, i % 7 FROM generate_series(1, 1000) i")
    environment = f"env-{uuid.uuid4().hex[:8]}"
    secret = f"{environment}-url"
    region.kubectl("create", "secret", "generic", secret, "-n", namespace, f"--from-literal=url={database.url}")
    yield Place(namespace, environment, database)
    region.kubectl("delete", "environment", environment, "-n", namespace, "--ignore-not-found", "--timeout=90s")
    region.kubectl("delete", "secret", secret, "-n", namespace)
    drop_database(database)


@pytest.fixture
def running(region: Region, place: Place) -> Place:
    """`place` with both services applied and `active`."""
    region.kubectl("apply", "-n", place.namespace, "-f", "-", stdin=place.yaml())
    region.wait_active(place.namespace, place.sync, place.streams)
    return place


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
"""

YAML = """
apiVersion: switchgear.dev/v1alpha1
kind: Environment
metadata: {{name: {environment}}}
spec: {{projectRef: {{name: app}}}}
---
apiVersion: switchgear.dev/v1alpha1
kind: SyncSource
metadata: {{name: {environment}-db}}
spec:
  environmentRef: {{name: {environment}}}
  database: {{urlSecretRef: {{name: {environment}-url, key: url}}}}
---
apiVersion: switchgear.dev/v1alpha1
kind: StreamsService
metadata: {{name: {environment}-events}}
spec:
  environmentRef: {{name: {environment}}}
"""
