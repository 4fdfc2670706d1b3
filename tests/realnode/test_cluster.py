"""Switchgear installed on a real node: kubelet, kube-proxy, containerd, cluster DNS, our images.

What pods may not reach by NetworkPolicy is not tested: the node's bridge does not enforce it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from switchgear_local.postgres import PostgresServer
from switchgear_model import labels
from tests.realnode import machine
from tests.realnode.cluster import Cluster
from tests.realnode.conftest import timed
from tests.support.helm import CHARTS, helm
from tests.support.region import ROOT, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.cluster, pytest.mark.node, pytest.mark.timeout(400)]
SYSTEM: Final = labels.SYSTEM_NAMESPACE
QUICKSTART: Final = "quickstart"
SYNC: Final = ("syncsource", "app-production-db")
STREAMS: Final = ("streamsservice", "app-production-events")
VALUES: Final[dict[str, Any]] = {
    "region": {"publicUrl": "https://sync.example.com"},
    "image": {"registry": "localhost", "pullPolicy": "Never"},
    "edge": {"trustedProxies": [machine.PODS]},
    "networkPolicy": {"apiServerPorts": [443, 6443]},
}


@dataclass
class Installed:
    """The cluster with Switchgear and the quickstart on it."""

    cluster: Cluster
    postgres: PostgresServer

    def status(self, service: tuple[str, str]) -> dict[str, Any]:
        found = json.loads(self.cluster.kube.kubectl("get", *service, "-n", QUICKSTART, "-o", "json"))
        status: dict[str, Any] = found.get("status", {})
        return status

    def wait_active(self, seconds: float = 120) -> None:
        wait_until(
            lambda: all(self.status(one).get("state") == "active" for one in (SYNC, STREAMS)),
            seconds,
            lambda: f"{self.status(SYNC)} {self.status(STREAMS)}\n{self.cluster.report(QUICKSTART)}",
        )


def run_helm(cluster: Cluster, *arguments: str, values: dict[str, Any] | None = None) -> str:
    done = helm(*arguments, values=values, kubeconfig=cluster.kube.admin_kubeconfig)
    assert done.returncode == 0, done.stderr + done.stdout + cluster.report(SYSTEM)
    return done.stdout


@pytest.fixture(scope="module")
def installed(cluster: Cluster, node_postgres: PostgresServer) -> Iterator[Installed]:
    kube = cluster.kube
    with timed("helm install"):
        run_helm(cluster, "install", "switchgear-crds", str(CHARTS / "switchgear-crds"))
        kube.kubectl("create", "namespace", SYSTEM)
        kube.kubectl("label", "namespace", SYSTEM, "pod-security.kubernetes.io/enforce=restricted")
        chart = ("switchgear", str(CHARTS / "switchgear"), "--namespace", SYSTEM, "--wait", "--timeout=120s")
        run_helm(cluster, "install", *chart, values=VALUES)
    with timed("quickstart"):
        kube.kubectl("create", "namespace", QUICKSTART)
        url = node_postgres.url.replace("127.0.0.1", machine.HOST)
        secret = ("secret", "generic", "quickstart-database", "-n", QUICKSTART)
        kube.kubectl("create", *secret, f"--from-literal=url={url}")
        kube.kubectl("apply", "-f", str(ROOT / "examples/quickstart.yaml"))
        running = Installed(cluster, node_postgres)
        running.wait_active()
        for kind, name in (SYNC, STREAMS):
            kube.kubectl("wait", "--for=condition=Ready", f"{kind}/{name}", "-n", QUICKSTART, "--timeout=30s")
    yield running


def test_the_quickstart_is_active_on_a_real_node(installed: Installed) -> None:
    pods = json.loads(installed.cluster.kube.kubectl("get", "pods", "-A", "-o", "json"))["items"]
    ours = [pod for pod in pods if pod["metadata"]["namespace"] in (SYSTEM, QUICKSTART)]
    assert len(ours) == 6  # operator, two edges, API, and one pod for each service
    assert all(
        status["ready"] and not status["restartCount"] for p in ours for status in p["status"]["containerStatuses"]
    )
    claims = json.loads(installed.cluster.kube.kubectl("get", "pvc", "-n", QUICKSTART, "-o", "json"))["items"]
    assert [claim["status"]["phase"] for claim in claims] == ["Bound", "Bound"]
