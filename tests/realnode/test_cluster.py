"""Switchgear on a real node, from `helm install` to the last volume: kubelet, kube-proxy, containerd, cluster DNS.

The tests run in this order on one cluster; each builds on what the one before has left. What pods may not reach by
NetworkPolicy is not tested: the node's bridge does not enforce it.
"""

from __future__ import annotations

import base64
import json
import shutil
import ssl
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
import pytest

from switchgear_local import pki
from switchgear_local.postgres import PostgresServer
from switchgear_model import labels
from tests.realnode import machine, node, programs
from tests.realnode.cluster import Cluster
from tests.realnode.conftest import timed
from tests.realnode.load import CLIENTS, Follower, Load
from tests.support import nodejs
from tests.support.helm import CHARTS, helm
from tests.support.region import ROOT, Endpoint, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.cluster, pytest.mark.node, pytest.mark.timeout(900)]
SYSTEM: Final = labels.SYSTEM_NAMESPACE
QUICKSTART: Final = "quickstart"
INGRESS: Final = "10.217.0.20"
SYNC: Final = ("syncsource", "app-production-db")
STREAMS: Final = ("streamsservice", "app-production-events")
NEXT: Final = "0.1.1-test"
VALUES: Final[dict[str, Any]] = {
    "region": {"publicUrl": f"https://{INGRESS}"},
    "image": {"registry": "localhost", "pullPolicy": "Never"},
    "edge": {"trustedProxies": [machine.PODS]},
    "networkPolicy": {"apiServerPorts": [443, 6443]},
}


@dataclass
class Installed:
    """The cluster with Switchgear and the quickstart on it."""

    cluster: Cluster
    postgres: PostgresServer
    ca: Path

    def status(self, service: tuple[str, str]) -> dict[str, Any]:
        found = json.loads(self.cluster.kube.kubectl("get", *service, "-n", QUICKSTART, "-o", "json"))
        status: dict[str, Any] = found.get("status", {})
        return status

    def endpoint(self, service: tuple[str, str]) -> Endpoint:
        status = self.status(service)
        secret = status["secretRef"]
        found = self.cluster.kube.kubectl("get", "secret", secret["name"], "-n", QUICKSTART, "-o", "json")
        value = base64.b64decode(json.loads(found)["data"][secret["key"]]).decode()
        return Endpoint(status["url"], status["serviceId"], value)

    def wait_active(self, seconds: float = 120) -> None:
        wait_until(
            lambda: all(self.status(one).get("state") == "active" for one in (SYNC, STREAMS)),
            seconds,
            lambda: f"{self.status(SYNC)} {self.status(STREAMS)}\n{self.cluster.report(QUICKSTART)}",
        )

    def wait_served(self) -> None:
        """Both services answer through the proxy."""
        sync, streams = self.endpoint(SYNC), self.endpoint(STREAMS)
        with httpx.Client(verify=ssl.create_default_context(cafile=self.ca), trust_env=False, timeout=10) as client:
            shape = {"table": "items", "offset": "-1", **sync.params}
            probe = f"{streams.url}/probe-{uuid.uuid4().hex}"
            wait_until(lambda: client.get(sync.url, params=shape).status_code == 200, 120, self.report)
            wait_until(lambda: client.put(probe, headers=streams.bearer).status_code in (200, 201), 120, self.report)

    def report(self) -> str:
        return self.cluster.report(SYSTEM) + self.cluster.report(QUICKSTART)


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
    ca = start_ingress(cluster)
    with timed("quickstart"):
        kube.kubectl("create", "namespace", QUICKSTART)
        url = node_postgres.url.replace("127.0.0.1", machine.HOST)
        secret = ("secret", "generic", "quickstart-database", "-n", QUICKSTART)
        kube.kubectl("create", *secret, f"--from-literal=url={url}")
        kube.kubectl("apply", "-f", str(ROOT / "examples/quickstart.yaml"))
        running = Installed(cluster, node_postgres, ca)
        running.wait_active()
        for kind, name in (SYNC, STREAMS):
            kube.kubectl("wait", "--for=condition=Ready", f"{kind}/{name}", "-n", QUICKSTART, "--timeout=30s")
    yield running


def start_ingress(cluster: Cluster) -> Path:
    """A proxy that ends TLS, at an address of its own; the file of its certificate authority."""
    store = pki.Pki(cluster.folder / "ingress")
    authority = store.authority("ingress-ca")
    pair = store.server(authority, "ingress", addresses=[INGRESS])
    files = {"tls.crt": pair.cert_file.read_text(), "tls.key": pair.key_file.read_text()}
    to = f"http://switchgear-edge.{SYSTEM}.svc.cluster.local"
    command = ["/bin/nodetools", "ingress", "-cert=/tls/tls.crt", "-key=/tls/tls.key", f"-to={to}"]
    container = {
        "name": "ingress",
        "image": programs.TOOLS_IMAGE,
        "imagePullPolicy": "Never",
        "command": command,
        "readinessProbe": {"tcpSocket": {"port": 8443}, "periodSeconds": 1},
        "volumeMounts": [{"name": "tls", "mountPath": "/tls"}],
    }
    match = {"app": "ingress"}
    template = {
        "metadata": {"labels": match},
        "spec": {"containers": [container], "volumes": [{"name": "tls", "secret": {"secretName": "ingress"}}]},
    }
    meta = {"name": "ingress", "namespace": "default"}
    deployment = {"replicas": 1, "selector": {"matchLabels": match}, "template": template}
    service = {"clusterIP": INGRESS, "selector": match, "ports": [{"port": 443, "targetPort": 8443}]}
    with cluster.kube.api() as api:
        api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": files})
        api.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": deployment})
        api.apply({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": service})
    cluster.kube.kubectl("rollout", "status", "deployment/ingress", "--timeout=60s", timeout=70)
    return authority.cert_file


@pytest.fixture(scope="module")
def load(installed: Installed) -> Iterator[tuple[Load, Follower]]:
    """What is written and followed through everything that happens to the node."""
    sync = installed.endpoint(SYNC)
    follower = Follower(sync.url, {"table": "items", **sync.params}, installed.ca)
    writing = Load(installed.postgres.url, installed.endpoint(STREAMS), installed.ca)
    try:
        yield writing, follower
    finally:
        writing.stop()
        follower.stop()


def pods_of(cluster: Cluster, *namespaces: str) -> list[dict[str, Any]]:
    found = json.loads(cluster.kube.kubectl("get", "pods", "-A", "-o", "json"))["items"]
    return [pod for pod in found if pod["metadata"]["namespace"] in namespaces]


def test_the_quickstart_is_active_on_a_real_node(installed: Installed) -> None:
    ours = pods_of(installed.cluster, SYSTEM, QUICKSTART)
    assert len(ours) == 6  # operator, two edges, API, and one pod for each service
    assert all(
        status["ready"] and not status["restartCount"] for p in ours for status in p["status"]["containerStatuses"]
    )
    claims = json.loads(installed.cluster.kube.kubectl("get", "pvc", "-n", QUICKSTART, "-o", "json"))["items"]
    assert [claim["status"]["phase"] for claim in claims] == ["Bound", "Bound"]


@pytest.mark.parametrize("way", ["service", "ingress"])
def test_the_npm_clients(installed: Installed, way: str) -> None:
    sync, streams = installed.endpoint(SYNC), installed.endpoint(STREAMS)
    get = ("get", "service", "switchgear-edge", "-n", SYSTEM, "-o", "jsonpath={.spec.clusterIP}")
    base = f"http://{installed.cluster.kube.kubectl(*get)}" if way == "service" else f"https://{INGRESS}"
    sync_url, streams_url = (one.url.replace(f"https://{INGRESS}", base) for one in (sync, streams))
    with timed(f"npm clients, {way}"):
        follower = Follower(sync_url, {"table": "items", **sync.params}, installed.ca)
        try:
            wait_until(lambda: len(follower.rows) == 500, 60, lambda: f"{len(follower.rows)} rows, {follower.error}")
            with psycopg.connect(installed.postgres.url, autocommit=True) as connection:
                connection.execute("UPDATE items SET title = %s WHERE id = 7", [way])
            key = '"public"."items"/"7"'
            wait_until(lambda: follower.rows[key]["title"] == way, 60, lambda: follower.error)
        finally:
            follower.stop()
        for live in ("long-poll", "sse"):
            use_stream(f"{streams_url}/{way}-{live}", streams.secret, live, installed.ca)


def use_stream(url: str, secret: str, live: str, ca: Path) -> None:
    """Durable Streams' own client appends 20 records and reads them, live."""
    done = subprocess.run(
        [nodejs.node_bin() / "node", nodejs.script(CLIENTS / "use_stream.mjs"), url, "20", live],
        env=nodejs.environment() | {"STREAM_SECRET": secret, "NODE_EXTRA_CA_CERTS": str(ca)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["seen"] == list(range(20))


def test_processes_are_killed(installed: Installed, load: tuple[Load, Follower]) -> None:
    writing, _ = load
    cluster = installed.cluster
    writing.wait_progress()
    with timed("processes killed"):
        for namespace, count in ((QUICKSTART, 2), (SYSTEM, 4)):
            killed = cluster.node.kill(namespace)
            assert len(killed) == count
            wait_until(
                lambda namespace=namespace: all(  # type: ignore[misc]
                    status["restartCount"] >= 1 and status["ready"]
                    for pod in pods_of(cluster, namespace)
                    for status in pod["status"]["containerStatuses"]
                ),
                120,
                installed.report,
            )
            installed.wait_served()
            writing.wait_progress()


def test_pods_are_killed(installed: Installed, load: tuple[Load, Follower]) -> None:
    """All at once and without a warning, as when a node is lost and comes back."""
    kube = installed.cluster.kube
    with timed("pods killed"):
        for namespace in (QUICKSTART, SYSTEM):
            kube.kubectl("delete", "pods", "--all", "-n", namespace, "--grace-period=0", "--force", "--wait=false")
        installed.wait_served()
        load[0].wait_progress()


def test_the_chart_is_upgraded(installed: Installed, load: tuple[Load, Follower], tmp_path: Path) -> None:
    """To the next version, with images of its own: everything is replaced, while clients go on."""
    cluster = installed.cluster
    chart = tmp_path / "switchgear"
    shutil.copytree(CHARTS / "switchgear", chart)
    described = (chart / "Chart.yaml").read_text()
    version = next(line.split()[1] for line in described.splitlines() if line.startswith("appVersion:"))
    (chart / "Chart.yaml").write_text(described.replace(version, NEXT))
    images = [name for name in cluster.node.ctr("images", "list", "-q").split() if name.endswith(f":{version}")]
    assert len(images) == 5
    for image in images:
        cluster.node.ctr("images", "tag", image, image.replace(f":{version}", f":{NEXT}"))
    before = {pod["metadata"]["uid"] for pod in pods_of(cluster, SYSTEM, QUICKSTART)}
    # On one node a drain would wait for ever for an edge elsewhere: both may be away (docs/install.md, Availability).
    values = {**VALUES, "edge": {**VALUES["edge"], "podDisruptionBudget": {"maxUnavailable": 2}}}
    with timed("helm upgrade"):
        place = ("--namespace", SYSTEM, "--wait", "--timeout=150s")
        run_helm(cluster, "upgrade", "switchgear", str(chart), *place, values=values)

        def replaced() -> bool:
            pods = pods_of(cluster, SYSTEM, QUICKSTART)
            images = [container["image"] for pod in pods for container in pod["spec"]["containers"]]
            return len(pods) == 6 and all(image.endswith(f":{NEXT}") for image in images)

        wait_until(replaced, 120, installed.report)
        installed.wait_active()
        installed.wait_served()
        load[0].wait_progress()
    assert not before & {pod["metadata"]["uid"] for pod in pods_of(cluster, SYSTEM, QUICKSTART)}


def test_the_node_is_drained(installed: Installed, load: tuple[Load, Follower]) -> None:
    kube = installed.cluster.kube
    with timed("drain"):
        drain = ("drain", node.NAME, "--ignore-daemonsets", "--delete-emptydir-data", "--force")
        kube.kubectl(*drain, "--timeout=120s", timeout=130)
        assert not [pod for pod in pods_of(installed.cluster, SYSTEM, QUICKSTART) if pod["spec"].get("nodeName")]
        kube.kubectl("uncordon", node.NAME)
        installed.cluster.wait_ready()
        installed.wait_served()
        load[0].wait_progress()


def test_nothing_was_lost(installed: Installed, load: tuple[Load, Follower]) -> None:
    """Of all that was written through kills, upgrade and drain: there once, in order, for both kinds of client."""
    writing, follower = load
    writing.stop()
    recorded = writing.recorded()
    acknowledged = set(writing.acknowledged)
    assert len(acknowledged) > 100
    assert [n for n in recorded if n in acknowledged] == writing.acknowledged
    assert writing.refused <= {429, 502, 503, 504}
    with psycopg.connect(installed.postgres.url) as connection:
        truth = connection.execute("SELECT id, title FROM items").fetchall()
    follower.wait_rows({f'"public"."items"/"{number}"': {"id": number, "title": title} for number, title in truth})


def test_nothing_is_left(installed: Installed) -> None:
    cluster = installed.cluster
    kube = cluster.kube
    with timed("delete everything"):
        with psycopg.connect(installed.postgres.url) as connection:
            assert connection.execute("SELECT count(*) FROM pg_replication_slots").fetchall() == [(1,)]
        kube.kubectl("delete", "workspaces", "--all", "--all-namespaces", "--timeout=120s", timeout=130)
        with psycopg.connect(installed.postgres.url) as connection:
            assert connection.execute("SELECT slot_name FROM pg_replication_slots").fetchall() == []
            assert connection.execute("SELECT pubname FROM pg_publication").fetchall() == []
        run_helm(cluster, "uninstall", "switchgear", "--namespace", SYSTEM, "--wait")
        run_helm(cluster, "uninstall", "switchgear-crds")
        kube.kubectl("delete", "crd", "-l", "app.kubernetes.io/part-of=switchgear", "--timeout=60s", timeout=90)
        kube.kubectl("delete", "namespace", QUICKSTART, SYSTEM, "--timeout=120s", timeout=130)
        wait_until(
            lambda: not kube.kubectl("get", "pv", "-o", "name").strip() and not [*cluster.node.volumes.iterdir()],
            90,
            lambda: kube.kubectl("get", "pv,pvc", "-A", check=False) + cluster.report("local-path-storage"),
        )
    kinds = kube.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    left = kube.kubectl("get", ",".join(kinds), "-A", "-o", "name", timeout=60)
    assert "switchgear" not in left
