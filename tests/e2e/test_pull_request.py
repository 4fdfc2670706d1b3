"""An environment per pull request: made, used and deleted under the same names three times over, leaving nothing."""

from __future__ import annotations

import httpx
import psycopg
import pytest

from tests.e2e.conftest import Place
from tests.support.postgres import Database
from tests.support.region import Region
from tests.support.shape_follower import ShapeFollower


def left_over(region: Region, namespace: str, service_ids: list[str], database: Database) -> list[str]:
    """Names of everything that still belongs to the services."""
    found = []
    for kind in ("pod", "persistentvolumeclaim", "secret", "statefulset", "service", "networkpolicy"):
        for item in region.get(kind, namespace):
            name = item["metadata"]["name"]
            if any(service_id in name for service_id in service_ids):
                found.append(f"{kind}/{name}")
    with psycopg.connect(database.url) as connection:
        for query in (
            "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()",
            "SELECT pubname FROM pg_publication",
        ):
            found += [row[0] for row in connection.execute(query.encode()).fetchall()]
    return found


@pytest.mark.timeout(900)
def test_pr_environment_three_times(region: Region, place: Place) -> None:
    namespace = place.namespace
    for attempt in range(3):
        region.kubectl("apply", "-n", namespace, "-f", "-", stdin=place.yaml())
        region.wait_active(namespace, place.sync, place.streams)
        sync = region.endpoint(place.sync[0], namespace, place.sync[1])
        streams = region.endpoint(place.streams[0], namespace, place.streams[1])

        follower = ShapeFollower(sync.url, {"table": "items", **sync.params}).start()
        follower.wait_for(lambda f, n=1000 + attempt: len(f.rows) == n, 60, "the rows of the table")
        with psycopg.connect(place.database.url, autocommit=True) as connection:
            connection.execute("INSERT INTO items VALUES (%s, 'from the pull request', 1)", [2000 + attempt])
        follower.wait_for(lambda f, n=1001 + attempt: len(f.rows) == n, 60, "the new row")
        follower.stop()
        made = httpx.put(f"{streams.url}/log", headers=streams.bearer | {"content-type": "text/plain"}, content="a")
        assert made.status_code == 201, made.text
        read = httpx.get(f"{streams.url}/log", headers=streams.bearer, params={"offset": "-1"})
        assert read.text == "a", "a new service must not have the streams of the one before it"

        region.kubectl("delete", "environment", place.environment, "-n", namespace, "--timeout=90s")
        assert left_over(region, namespace, [sync.service_id, streams.service_id], place.database) == []
        for kind in ("environment", "syncsource", "streamsservice"):
            names = [item["metadata"]["name"] for item in region.get(kind, namespace)]
            assert not [name for name in names if name.startswith(place.environment)], names
