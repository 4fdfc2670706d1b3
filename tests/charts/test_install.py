"""Install, upgrade, rollback and uninstall by the real Helm on the real API server, with Pod Security enforced.

There is no node here: pods are admitted and stay Pending. tests/realnode runs them.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from switchgear_local import binaries, install
from switchgear_local.controlplane import ControlPlane
from switchgear_local.processes import free_port
from switchgear_model import labels
from tests.charts.matrix import PUBLIC
from tests.support.helm import CHARTS, helm, rendered
from tests.support.kube import Kube
from tests.support.region import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
NAMESPACE = labels.SYSTEM_NAMESPACE
KINDS = "deployments,services,serviceaccounts,poddisruptionbudgets,networkpolicies,roles,rolebindings,ingresses"
CLUSTER_KINDS = "clusterroles,clusterrolebindings"


@pytest.fixture(scope="module")
def kube() -> Iterator[Kube]:
    """A control plane on which nothing of ours is installed yet, not even the definitions."""
    folder = Path(tempfile.mkdtemp(prefix="sg-kube-charts-"))
    control_plane = ControlPlane(folder, binaries.ensure(), durable=False)
    try:
        control_plane.start(crds=[])
        yield Kube(control_plane, folder)
        control_plane.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(kube: Kube, *arguments: str, values: dict[str, Any] | None = None) -> str:
    done = helm(*arguments, values=values, kubeconfig=kube.admin_kubeconfig)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def ours(kube: Kube) -> set[str]:
    found = kube.kubectl("get", KINDS, "-n", NAMESPACE, "-l", "app.kubernetes.io/part-of=switchgear", "-o", "name")
    found += kube.kubectl("get", CLUSTER_KINDS, "-l", "app.kubernetes.io/part-of=switchgear", "-o", "name")
    return set(found.split())


def deployment(kube: Kube, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kube.kubectl("get", "deployment", name, "-n", NAMESPACE, "-o", "json"))
    return found


def test_a_release_s_life(kube: Kube, tmp_path: Path) -> None:
    kube.kubectl("create", "namespace", NAMESPACE)
    kube.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    chart = str(CHARTS / "switchgear")
    place = ("--namespace", NAMESPACE)

    # The definitions, twice: installing what is there changes nothing.
    for _ in range(2):
        assert "keep: true" in run(kube, "upgrade", "--install", "switchgear-crds", str(CHARTS / "switchgear-crds"))
    kube.kubectl("wait", "--for=condition=Established", "crd", "-l", "app.kubernetes.io/part-of=switchgear")

    refused = helm("install", "switchgear", chart, *place, kubeconfig=kube.admin_kubeconfig)
    assert refused.returncode != 0 and "region.publicUrl is required" in refused.stderr
    assert not ours(kube)

    notes = run(kube, "install", "switchgear", chart, *place, values=PUBLIC)
    assert "rollout status" in notes and "Before you uninstall" in notes
    assert len(ours(kube)) == len([o for o in rendered(PUBLIC) if o["kind"] != "ConfigMap"])
    # Pod Security admits the pods: ReplicaSets could make them all.
    wait_until(
        lambda: len(json.loads(kube.kubectl("get", "pods", "-n", NAMESPACE, "-o", "json"))["items"]) == 4,
        60,
        lambda: kube.kubectl("get", "events", "-n", NAMESPACE),
    )

    second = helm(
        "install", "another", chart, "--namespace", "default", values=PUBLIC, kubeconfig=kube.admin_kubeconfig
    )
    assert second.returncode != 0 and "switchgear" in second.stderr

    _operator_starts(kube, tmp_path)

    changed = {**PUBLIC, "edge": {"replicas": 3}, "api": {"enabled": False}}
    run(kube, "upgrade", "switchgear", chart, *place, values=changed)
    assert deployment(kube, "switchgear-edge")["spec"]["replicas"] == 3
    assert not {name for name in ours(kube) if name.endswith("switchgear-api")}
    run(kube, "rollback", "switchgear", "1", *place)
    assert deployment(kube, "switchgear-edge")["spec"]["replicas"] == 2
    assert deployment(kube, "switchgear-api")["spec"]["replicas"] == 1

    _workspace(kube)
    run(kube, "uninstall", "switchgear", *place)
    assert not ours(kube)
    # What is the customers' stays, and the Secrets that everything else depends on.
    secrets = kube.kubectl("get", "secrets", "-n", NAMESPACE, "-o", "name").split()
    assert sorted(secrets) == ["secret/switchgear-admin-token", "secret/switchgear-region-key"]
    run(kube, "uninstall", "switchgear-crds")
    assert kube.kubectl("get", "workspaces", "-n", "team", "-o", "name").strip()


def _operator_starts(kube: Kube, tmp_path: Path) -> None:
    """The operator with the chart's environment and the chart's rights makes both Secrets, once."""
    with kube.api() as api:
        kubeconfig = install.account_kubeconfig(kube.control_plane, api, labels.OPERATOR_ACCOUNT, NAMESPACE)
    container = deployment(kube, "switchgear-operator")["spec"]["template"]["spec"]["containers"][0]
    port = free_port()
    environ = {entry["name"]: entry.get("value", NAMESPACE) for entry in container["env"]}
    environ |= {"SWITCHGEAR_HOST": "127.0.0.1", "SWITCHGEAR_HEALTH_PORT": str(port), "KUBECONFIG": str(kubeconfig)}
    before: list[str] = []
    for attempt in range(2):
        log = tmp_path / f"operator-{attempt}.log"
        with log.open("wb") as output:
            process = subprocess.Popen([sys.executable, "-m", "switchgear_operator"], env=environ, stderr=output)
        try:
            wait_until(lambda: _secrets(kube) is not None and _ready(port), 60, log.read_text)
        finally:
            process.terminate()
            assert process.wait(60) == 0
        found = _secrets(kube)
        assert found is not None
        assert before in ([], found)
        before = found
        assert "sg_admin_" not in log.read_text()
    assert base64.b64decode(before[1]).decode().startswith("sg_admin_")


def _secrets(kube: Kube) -> list[str] | None:
    with kube.api() as api:
        key = api.get("v1", "Secret", labels.REGION_KEY_SECRET, NAMESPACE)
        token = api.get("v1", "Secret", labels.ADMIN_TOKEN_SECRET, NAMESPACE)
    if key is None or token is None:
        return None
    return [key["data"][labels.REGION_KEY_KEY], token["data"][labels.ADMIN_TOKEN_KEY]]


def _ready(port: int) -> bool:
    return httpx.get(f"http://127.0.0.1:{port}/ready", trust_env=False).status_code == 200


def _workspace(kube: Kube) -> None:
    kube.kubectl("create", "namespace", "team")
    body = {
        "apiVersion": labels.API_VERSION,
        "kind": "Workspace",
        "metadata": {"name": "team", "namespace": "team"},
        "spec": {"displayName": "Team"},
    }
    kube.kubectl("apply", "-f", "-", stdin=json.dumps(body))
