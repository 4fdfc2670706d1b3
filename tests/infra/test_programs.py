"""Every program with Pulumi's mocks, in several configurations: what holds for all resources, and for some."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.infra import clouds
from tests.infra.configurations import MATRIX, PROGRAMS, example

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(600)
CLOUD_EXAMPLES = ("aws-eu-west-1", "gcp-europe-west1", "azure-westeurope")
REGIONS = {**MATRIX, "shared": MATRIX["plain"] | {"global": "organization/switchgear-global/main"}} | {
    name: example(name) for name in ("example", *CLOUD_EXAMPLES)
}


@cache
def recorded(program: str, text: str) -> list[dict[str, Any]]:
    done = run(program, text)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def run(program: str, text: str, *, with_clouds: bool = True) -> subprocess.CompletedProcess[str]:
    path = [str(clouds.packages())] if with_clouds else []
    environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join([str(ROOT), *path])}
    command = [sys.executable, "-m", "tests.infra.recording", program]
    return subprocess.run(
        command, cwd=ROOT, env=environment, input=text, capture_output=True, text=True, timeout=300, check=False
    )


def region_config(region: dict[str, Any]) -> str:
    config = {"switchgear-region:region": json.dumps(region), "gcp:project": "p", "aws:region": "eu-west-1"}
    if region.get("cluster", {}).get("kind", "kubeconfig") == "kubeconfig":
        config["switchgear-region:kubeconfig"] = "apiVersion: v1\nkind: Config\n"
    return json.dumps(config, sort_keys=True)


def region(name: str) -> list[dict[str, Any]]:
    return recorded("region", region_config(REGIONS[name]))


def kubernetes(resources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [r for r in resources if r["type"].startswith("kubernetes:")]


@pytest.mark.parametrize("name", REGIONS)
def test_what_holds_for_all_resources(name: str) -> None:
    resources = region(name)
    assert len(resources) > 25
    components = {r["urn"] for r in resources if r["type"].startswith("switchgear:infra:")}
    providers = [r for r in resources if r["type"] == "pulumi:providers:kubernetes"]
    assert len(providers) == 1
    assert providers[0]["secrets"] == ["kubeconfig"]
    for r in resources:
        if r["type"].startswith(("switchgear:infra:", "pulumi:pulumi:")):
            continue
        assert r["parent"], r["urn"]
    for r in kubernetes(resources):
        assert r["parent"] in components, r["urn"]
        assert r["provider"].startswith(providers[0]["urn"]), r["urn"]
        assert "-token" not in json.dumps(r["inputs"]).replace("admin-token", ""), r["urn"]
    assert len({r["urn"] for r in resources}) == len(resources)
    assert "apiVersion: v1\\nkind: Config" not in json.dumps(resources)  # nowhere but in the secret


@pytest.mark.parametrize("name", REGIONS)
def test_objects_are_valid_and_restricted(name: str) -> None:
    for r in kubernetes(region(name)):
        item = r["inputs"]
        if item["apiVersion"].split("/")[0].count(".") and not item["apiVersion"].endswith(".k8s.io/v1"):
            continue  # of other projects
        if item["kind"] != "CustomResourceDefinition":
            kubernetes_validate.validate(item, "1.32", strict=True)
        if item["kind"] == "Namespace":
            assert item["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        for rule in item.get("rules") or ():
            assert "*" not in json.dumps(rule), r["urn"]


@pytest.mark.parametrize("name", REGIONS)
def test_definitions_and_backups_outlive_the_stack(name: str) -> None:
    resources = region(name)
    kept = {r["name"] for r in resources if r["retain"]}
    definitions = {r["name"] for r in resources if r["inputs"].get("kind") == "CustomResourceDefinition"}
    assert len(definitions) == 5
    assert definitions <= kept
    buckets = [r for r in resources if r["name"] == "backups"]
    assert all(r["retain"] for r in buckets)
    if name in CLOUD_EXAMPLES:
        assert any(r["protect"] for r in buckets)
    assert not {r["name"] for r in kubernetes(resources)} & (kept - definitions)


def test_the_full_configuration() -> None:
    found = {r["name"]: r["inputs"] for r in kubernetes(region("full"))}
    certificate = found["certificate/switchgear-system/switchgear-edge"]["spec"]
    assert certificate["dnsNames"] == ["eu.sync.example.com"]
    assert (
        certificate["secretName"] == found["ingress/switchgear-system/switchgear-edge"]["spec"]["tls"][0]["secretName"]
    )
    record = found["dnsendpoint/switchgear-system/switchgear-edge"]["spec"]["endpoints"][0]
    assert (record["recordType"], record["targets"]) == ("A", ["203.0.113.7"])
    assert found["storageclass/fast"]["parameters"] == {"type": "ssd"}
    edge = found["deployment/switchgear-system/switchgear-edge"]["spec"]
    assert edge["replicas"] == 5
    image = edge["template"]["spec"]["containers"][0]["image"]
    assert image == "registry.example.com/platform/switchgear/edge:1.2.3"


def test_registry_and_tag_come_from_the_global_stack() -> None:
    found = {r["name"]: r["inputs"] for r in kubernetes(region("shared"))}
    edge = found["deployment/switchgear-system/switchgear-edge"]["spec"]["template"]["spec"]
    assert edge["containers"][0]["image"] == "registry.shared/switchgear/edge:7.7.7"


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("aws-eu-west-1", {"eks:index:Cluster", "aws:route53/record:Record", "aws:s3/bucket:Bucket"}),
        (
            "gcp-europe-west1",
            {"gcp:container/cluster:Cluster", "gcp:dns/recordSet:RecordSet", "gcp:storage/bucket:Bucket"},
        ),
        (
            "azure-westeurope",
            {
                "azure-native:containerservice:ManagedCluster",
                "azure-native:dns:RecordSet",
                "azure-native:storage:StorageAccount",
            },
        ),
    ],
)
def test_clouds(name: str, kinds: set[str]) -> None:
    resources = region(name)
    assert kinds <= {r["type"] for r in resources}
    record = next(r["inputs"] for r in resources if r["type"].lower().endswith((":record", ":recordset")))
    assert "eu" in json.dumps(record)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"cloud": "aws", "domain": "sync.example.com", "createZone": True}, "aws:route53/zone:Zone"),
        ({"cloud": "gcp", "domain": "sync.example.com", "createZone": True}, "gcp:dns/managedZone:ManagedZone"),
        (
            {"cloud": "azure", "domain": "sync.example.com", "createZone": True, "resourceGroup": "g"},
            "azure-native:dns:Zone",
        ),
        (
            yaml.safe_load((PROGRAMS / "global/Pulumi.main.yaml").read_text())["config"]["switchgear-global:global"],
            None,
        ),
    ],
    ids=["aws", "gcp", "azure", "the example"],
)
def test_global(settings: dict[str, Any], kind: str | None) -> None:
    resources = recorded("global", json.dumps({"switchgear-global:global": json.dumps(settings)}))
    zones = [r for r in resources if not r["type"].startswith("switchgear:infra:")]
    assert [r["type"] for r in zones] == ([kind] if kind else [])
    assert all(r["protect"] and r["retain"] for r in zones)


def test_a_cloud_without_its_packages_is_told_in_one_sentence() -> None:
    done = run("region", region_config(REGIONS["aws-eu-west-1"]), with_clouds=False)
    assert done.returncode != 0
    assert "eks needs the package pulumi-aws: pip install 'switchgear[infra-aws]'" in done.stderr
