"""Which worker runs what, and in which order, when tests run on several (`tests.run`).

A file runs on one worker, and so do the files that share something costly that lasts a whole session (a control plane,
a region): each worker that met one of them would start its own. The longest come first, so that no worker is left
alone with one at the end. A wrong figure here costs time, never a result.
"""

from __future__ import annotations

from collections import Counter

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

SHARING = {
    "control plane": (
        "tests/api/",
        "tests/charts/test_install.py",
        "tests/cli/test_api_commands.py",
        "tests/cli/test_cluster_commands.py",
        "tests/edge/",
    ),
    "process node": ("tests/local/test_region_processes.py", "tests/node/"),
    "operator": ("tests/operator/test_lifecycle.py", "tests/operator/test_sync_sources.py"),
    "region": (
        "tests/e2e/test_clients.py",
        "tests/e2e/test_kills.py",
        "tests/e2e/test_pull_request.py",
        "tests/e2e/test_secrets.py",
    ),
}
#: About the seconds on two cores; what is not here counts by its tests.
SECONDS = {
    "control plane": 250,
    "operator": 190,
    "tests/realnode/test_cluster.py": 190,
    "tests/shapes/test_oracle.py": 125,
    "process node": 140,
    "tests/shapes/test_faults.py": 130,
    "tests/shapes/test_live.py": 120,
    "tests/shapes/test_rolling_oracle.py": 120,
    "tests/infra/test_engine.py": 110,
    "tests/shapes/test_start.py": 110,
    "region": 90,
    "tests/shapes/test_subqueries_oracle.py": 70,
    "tests/e2e/test_demo.py": 65,
    "tests/shapes/test_standby.py": 55,
    "tests/streams/test_model.py": 55,
    "tests/shapes/test_large.py": 50,
    "tests/streams/test_recovery.py": 50,
    "tests/streams/test_workers.py": 50,
    "tests/streams/test_yjs.py": 50,
    "tests/demo/test_region.py": 45,
    "tests/shapes/test_filtered_oracle.py": 45,
    "tests/streams/test_subscriptions.py": 45,
    "tests/shapes/test_standby_seams.py": 40,
    "tests/shapes/test_where_large.py": 40,
    "tests/shapes/test_where_postgres.py": 40,
    "tests/streams/test_clients.py": 40,
    "tests/shapes/test_npm_client.py": 33,
    "tests/demo/test_page.py": 30,
    "tests/demo/test_proxy.py": 30,
    "tests/local/test_controlplane.py": 30,
    "tests/shapes/test_http.py": 30,
    "tests/streams/test_live.py": 30,
    "tests/shapes/test_together.py": 28,
    "tests/shapes/test_protocol.py": 27,
    "tests/streams/test_simulation.py": 27,
    "tests/shapes/test_partitions.py": 25,
    "tests/streams/test_crash.py": 25,
    "tests/streams/test_retention.py": 22,
    "tests/shapes/test_settings.py": 21,
    "tests/infra/test_programs.py": 20,
    "tests/local/test_wipe.py": 20,
    "tests/shapes/test_behind_subqueries.py": 20,
    "tests/shapes/test_behind_the_back.py": 20,
    "tests/shapes/test_behind_types.py": 20,
    "tests/shapes/test_tanstack.py": 20,
    "tests/streams/test_workers_races.py": 20,
    "tests/shapes/test_subqueries_clients.py": 18,
    "tests/shapes/test_subset_log.py": 18,
    "tests/shapes/test_own_settings.py": 16,
    "tests/demo/test_shape.py": 15,
    "tests/local/test_setup.py": 15,
    "tests/streams/test_keys.py": 15,
}
SECONDS_A_TEST = 0.3


def unit(nodeid: str) -> str:
    """The name of what runs on one worker: the file, or what it shares with others."""
    path = nodeid.partition("::")[0]
    return next((name for name, files in SHARING.items() if path.startswith(files)), path)


def in_order(nodeids: list[str]) -> list[int]:
    """Indices of the tests, the longest unit first and each unit in one piece; the order within stays."""
    tests = Counter(unit(nodeid) for nodeid in nodeids)

    def key(index: int) -> tuple[float, str]:
        name = unit(nodeids[index])
        return -SECONDS.get(name, tests[name] * SECONDS_A_TEST), name

    return sorted(range(len(nodeids)), key=key)


class LongestFirst(LoadFileScheduling):  # type: ignore[misc]
    """Hands out units in the order in which the workers have collected them (`--no-loadscope-reorder`)."""

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LongestFirst | None:
    return LongestFirst(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On a worker only; the controller of xdist collects nothing."""
    if hasattr(config, "workerinput"):
        items[:] = [items[index] for index in in_order([item.nodeid for item in items])]
