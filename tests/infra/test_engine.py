"""`pulumi up` for a region, for real: Pulumi's own engine and our programs against a real API server.

The provider is the stand-in of `standin.py` (the real one is in no registry that CI reaches), so that what stays
unproved here is the real provider's waiting for readiness.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.engine import Stack
from tests.support.kube import Kube, start_kube

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
DEPLOYMENTS = ("switchgear-operator", "switchgear-edge", "switchgear-api")
REGION = {
    "name": "eu-west-1",
    "publicUrl": "https://eu.sync.example.com",
    "global": "organization/switchgear-global/main",
    "edge": {"replicas": 2, "ingressClass": "nginx"},
    "certificate": {"secret": "edge-tls"},
    "storage": {"provisioner": "csi.example.com"},
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    """A control plane of its own: the test removes what other tests would share."""
    kube = start_kube(tmp_path_factory.mktemp("kube"), crds=[])
    yield kube
    kube.control_plane.stop()


def settings(region: dict[str, Any]) -> dict[str, Any]:
    return {"pulumi:disable-default-providers": ["*"], "switchgear-region:region": region}


def test_a_region_from_nothing_to_nothing(cluster: Kube, tmp_path: Path) -> None:
    kubeconfig = cluster.admin_kubeconfig.read_text()
    shared = {"domain": "sync.example.com", "registry": "registry.example.com/platform", "tag": "1.2.3"}
    common = Stack(tmp_path, "global", "main", {"switchgear-global:global": shared}, {})
    common.up()
    region = Stack(tmp_path, "region", "eu", settings(REGION), {"kubeconfig": kubeconfig})
    preview = region.run("preview")
    assert "create" in preview
    with cluster.api() as api:
        before = api.get("v1", "Namespace", "switchgear-system")
        region.up()
        edge = api.get("apps/v1", "Deployment", "switchgear-edge", "switchgear-system")
        assert edge is not None
        container = edge["spec"]["template"]["spec"]["containers"][0]
        assert container["image"] == "registry.example.com/platform/switchgear/edge:1.2.3"
        assert api.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", "syncsources.switchgear.dev")
        assert api.get("storage.k8s.io/v1", "StorageClass", "switchgear")
        assert before is None or before["metadata"]["name"] == "switchgear-system"
        assert region.outputs()["region"] == {
            "name": "eu-west-1",
            "publicUrl": "https://eu.sync.example.com",
            "namespace": "switchgear-system",
            "storageClass": "switchgear",
            "backupBucket": "",
        }

        region.up("--expect-no-changes")
        _no_secret_in_state(region, tmp_path, kubeconfig)

        _drift_is_repaired(region, api)
        _a_change_touches_what_it_should(region, api)

        region.run("destroy", "--yes", "--skip-preview")
        for name in DEPLOYMENTS:
            assert api.get("apps/v1", "Deployment", name, "switchgear-system") is None
        assert api.get("storage.k8s.io/v1", "StorageClass", "switchgear") is None
        # Customers' resources hang on the definitions: they stay.
        assert api.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", "syncsources.switchgear.dev")


def _no_secret_in_state(region: Stack, folder: Path, kubeconfig: str) -> None:
    user = yaml.safe_load(kubeconfig)["users"][0]["user"]
    key = user["client-key-data"]
    pieces = [key[100:160], base64.b64decode(key).decode().splitlines()[3]]
    exported = region.state()
    written = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # Pulumi's own, gone since it was listed
            if path.is_file() and "bin" not in path.parts:
                written.append(path.read_bytes())
    assert written
    for piece in pieces:
        assert piece not in exported
        assert not any(piece.encode() in data for data in written)


def _drift_is_repaired(region: Stack, api: Any) -> None:
    """Somebody scales the edge down and removes the API's Service."""
    edge = api.path(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "switchgear-edge", "namespace": "switchgear-system"},
        }
    )
    api.request("PATCH", edge, {"spec": {"replicas": 0}}, content_type="application/merge-patch+json")
    assert api.delete("v1", "Service", "switchgear-api", "switchgear-system")
    region.run("refresh", "--yes", "--skip-preview")
    region.up()
    found = api.get("apps/v1", "Deployment", "switchgear-edge", "switchgear-system")
    assert found["spec"]["replicas"] == 2
    assert api.get("v1", "Service", "switchgear-api", "switchgear-system")
    region.up("--expect-no-changes")


def _a_change_touches_what_it_should(region: Stack, api: Any) -> None:
    config = yaml.safe_load(region.config_file.read_text())
    config["config"]["switchgear-region:region"]["edge"]["replicas"] = 3
    region.config_file.write_text(yaml.safe_dump(config))
    output = region.up()
    assert "1 updated" in output, output
    assert api.get("apps/v1", "Deployment", "switchgear-edge", "switchgear-system")["spec"]["replicas"] == 3


@pytest.mark.parametrize(
    ("region", "secrets", "texts"),
    [
        (
            {"name": "EU", "publicUrl": "x", "typo": 1},
            True,
            ["region.name: 'EU' is no region name", "region.publicUrl: 'x' is no base URL", "region.typo: is unknown"],
        ),
        ({"name": "eu", "publicUrl": "https://a.example"}, False, ["kubeconfig: is missing; set it as a secret"]),
    ],
    ids=["several problems", "no kubeconfig"],
)
def test_bad_configurations_change_nothing(
    cluster: Kube, tmp_path: Path, region: dict[str, Any], secrets: bool, texts: list[str]
) -> None:
    kubeconfig = {"kubeconfig": cluster.admin_kubeconfig.read_text()} if secrets else {}
    stack = Stack(tmp_path, "region", "bad", settings(region), kubeconfig)
    output = stack.run("up", "--yes", "--skip-preview", check=False)
    assert [text for text in texts if text not in output] == []
    assert "Traceback" not in output
    assert '"kubernetes:' not in stack.state()
