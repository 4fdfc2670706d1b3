"""A region without a node: control plane, operator, edge, and pods that become Ready."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from switchgear_local.kubeapi import KubeApi
from tests.operator.support import Edge, Operator, PodStatus, Space, wait
from tests.support.kube import Kube, running_kube
from tests.support.postgres import PostgresServers, create_database, drop_database


@dataclass
class Region:
    kube: Kube
    api: KubeApi
    operator: Operator
    edge: Edge
    pods: PodStatus


@pytest.fixture(scope="session")
def kube() -> Iterator[Kube]:
    """Not the one that other folders share: a running operator would act on their objects, too."""
    with running_kube() as running:
        yield running


@pytest.fixture(scope="session")
def region(kube: Kube, postgres_servers: PostgresServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Region]:
    # The servers are asked for so that they outlive the operator, which needs them to clean up.
    folder = tmp_path_factory.mktemp("region")
    edge = Edge(kube, folder)
    edge.start()
    operator = Operator(kube, folder, "--edge-url", edge.url)
    operator.start()
    pods = PodStatus(kube)
    pods.start()
    try:
        with kube.api() as api:
            yield Region(kube, api, operator, edge, pods)
            wait("the tests' namespaces gone", lambda: not _left(api), 120)
        code = operator.end()
    finally:
        pods.close()
        operator.close()
        edge.close()
    assert code == 0, operator.text()[-5000:]
    faults = [line for line in operator.text().splitlines() if " error operator " in line]
    assert not faults, "\n".join(faults[:5])


def _left(api: KubeApi) -> list[str]:
    return [n["metadata"]["name"] for n in api.list("v1", "Namespace") if n["metadata"]["name"].startswith("op-")]


@pytest.fixture
def space(region: Region) -> Iterator[Space]:
    made = Space(region.kube, region.api, region.kube.new_namespace("op"))
    yield made
    # Not waited for here (it takes Kubernetes seconds each): whatever a test leaves must be gone when all are done.
    region.pods.unready.discard(made.namespace)
    region.api.delete("v1", "Namespace", made.namespace)


@pytest.fixture
def url(postgres_servers: PostgresServers) -> Iterator[str]:
    """One version is enough here: test_preflight.py goes through them."""
    made = create_database(postgres_servers.get(15))
    yield made.url
    # Nothing may be left in it, and nothing is: else the server would keep its WAL for ever.
    with psycopg.connect(made.url) as connection:
        found = connection.execute("select slot_name from pg_replication_slots where database = current_database()")
        slots = found.fetchall()
    drop_database(made)
    assert slots == []
