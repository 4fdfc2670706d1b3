"""The rendered objects: valid for the oldest and newest Kubernetes, restricted, and read by our processes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from charts import values as chart_values
from switchgear_api import settings as api_settings
from switchgear_edge import settings as edge_settings
from switchgear_model import labels
from switchgear_operator import settings as operator_settings
from tests.charts.matrix import MATRIX, PUBLIC
from tests.support.helm import CHARTS, helm, objects, rendered, template

VERSIONS = ("1.32", kubernetes_validate.latest_version())
# Kinds of others, whose schemas are in no package here: rendered and parsed only.
FOREIGN = {"ServiceMonitor", "HTTPRoute"}


@pytest.fixture(scope="module", params=MATRIX)
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MATRIX[request.param]


@pytest.fixture(scope="module")
def found(case: dict[str, Any]) -> list[dict[str, Any]]:
    return rendered(case)


def test_lint(case: dict[str, Any]) -> None:
    done = helm("lint", "--strict", str(CHARTS / "switchgear"), values=case)
    assert done.returncode == 0, done.stdout + done.stderr


def test_lint_of_the_definitions() -> None:
    done = helm("lint", "--strict", str(CHARTS / "switchgear-crds"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_strict_schemas(found: list[dict[str, Any]], version: str) -> None:
    checked = 0
    for obj in found:
        if obj["kind"] not in FOREIGN:
            kubernetes_validate.validate(obj, version, strict=True)
            checked += 1
    assert checked >= 7


def test_the_oldest_version_is_checked_by_helm() -> None:
    template("switchgear", PUBLIC, "--kube-version", "1.32.0")
    done = helm("template", "sg", str(CHARTS / "switchgear"), "--kube-version", "1.31.9", values=PUBLIC)
    assert done.returncode != 0 and "1.32" in done.stderr


def pods(found: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for obj in found:
        if "template" in obj.get("spec", {}):
            yield obj["metadata"]["name"], obj["spec"]["template"]["spec"]


def test_pods_are_restricted(found: list[dict[str, Any]]) -> None:
    seen = 0
    for name, pod in pods(found):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True and security["runAsUser"] == labels.POD_UID, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
        assert {next(iter(set(volume) - {"name"})) for volume in pod["volumes"]} <= {"secret", "emptyDir"}
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] is True
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
            assert not container["image"].endswith(":latest") and re.search(r"[:@]", container["image"])
            names = [entry["name"] for entry in container["env"]]
            assert len(names) == len(set(names)), "server-side apply refuses a variable twice"
            seen += 1
    assert seen >= 2


def test_no_wildcards_and_no_secrets(found: list[dict[str, Any]]) -> None:
    for obj in found:
        assert obj["kind"] != "Secret"
        for rule in obj.get("rules", []) if "Role" in obj["kind"] else []:
            for field in ("apiGroups", "resources", "verbs"):
                assert "*" not in rule[field]
            if "secrets" in rule["resources"]:
                assert not {"list", "watch"} & set(rule["verbs"])


def test_metadata(found: list[dict[str, Any]], case: dict[str, Any]) -> None:
    assert len({(obj["kind"], obj["metadata"].get("namespace"), obj["metadata"]["name"]) for obj in found}) == len(
        found
    )
    for obj in found:
        if obj["metadata"]["name"] == "extra":
            continue
        own = obj["metadata"]["labels"]
        assert own["app.kubernetes.io/part-of"] == "switchgear" and own["app.kubernetes.io/managed-by"] == "Helm"
        assert case.get("commonLabels", {}).items() <= own.items()
        if obj["kind"] not in ("ClusterRole", "ClusterRoleBinding"):
            assert obj["metadata"]["namespace"] == "sg-test"


def test_services_and_policies_select_pods(found: list[dict[str, Any]]) -> None:
    """Each selector finds exactly the pods of the Deployment of that name, and named ports are the container's."""
    templates = {o["metadata"]["name"]: o["spec"]["template"] for o in found if o["kind"] == "Deployment"}
    for obj in found:
        if obj["kind"] not in ("Service", "NetworkPolicy", "PodDisruptionBudget"):
            continue
        selector = obj["spec"].get("podSelector") or obj["spec"]["selector"]
        selector = selector.get("matchLabels", selector)
        hits = [n for n, t in templates.items() if selector.items() <= t["metadata"]["labels"].items()]
        assert hits == [obj["metadata"]["name"].removesuffix("-internal")]
        ports = {port["name"] for port in templates[hits[0]]["spec"]["containers"][0]["ports"]}
        if obj["kind"] == "Service":
            assert {port["targetPort"] for port in obj["spec"]["ports"]} <= ports
        if obj["kind"] == "NetworkPolicy":
            admitted = {port["port"] for rule in obj["spec"]["ingress"] for port in rule["ports"]}
            assert admitted <= ports


def test_the_operator_finds_edges_and_services_admit_them(found: list[dict[str, Any]]) -> None:
    deployment = next(o for o in found if o["metadata"]["name"] == "switchgear-edge" and o["kind"] == "Deployment")
    template = deployment["spec"]["template"]
    assert template["metadata"]["labels"][labels.APP_NAME] == labels.APP_EDGE
    ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    assert labels.EDGE_INTERNAL_PORT_NAME in ports


def environment(found: list[dict[str, Any]], name: str) -> dict[str, str]:
    pod = next(pod for deployment, pod in pods(found) if deployment == name)
    return {entry["name"]: entry.get("value", "sg-test") for entry in pod["containers"][0]["env"]}


def test_our_processes_accept_their_environment(
    found: list[dict[str, Any]], case: dict[str, Any], tmp_path: Path
) -> None:
    environ = environment(found, "switchgear-operator")
    operator = operator_settings.load([], environ)
    assert operator.public_url == case["region"]["publicUrl"].rstrip("/")
    assert operator.namespace == "sg-test" and operator.health_port == 8081
    assert list(operator.metrics_namespaces) == case.get("networkPolicy", {}).get(
        "monitoringNamespaces", ["monitoring"]
    )
    key = tmp_path / "key"
    key.write_text("k" * 64)
    edge = edge_settings.parse([], environment(found, "switchgear-edge") | {"SWITCHGEAR_REGION_KEY_FILE": str(key)})
    assert len(edge.trusted_proxies) == len(case.get("edge", {}).get("trustedProxies", []))
    assert (edge.port, edge.internal_port) == (4400, 4401)
    own = case.get("api", {})
    if own.get("enabled", True):
        api = api_settings.read([], environment(found, "switchgear-api"))
        assert api.port == 4480
        assert bool(operator.admin_token_secret) == ("adminToken" not in own)
    else:
        assert not operator.admin_token_secret
    known = {
        *re.findall(r"SWITCHGEAR_\w+", (CHARTS.parent / "docs" / "operating.md").read_text("utf-8")),
    }
    for name in ("switchgear-operator", "switchgear-edge"):
        assert set(environment(found, name)) <= known


def test_a_stopping_edge_has_time() -> None:
    own = {"preStopSeconds": 100, "drainSeconds": 300}
    pod = dict(pods(rendered({**PUBLIC, "edge": own})))["switchgear-edge"]
    assert pod["terminationGracePeriodSeconds"] > 400


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({}, "region.publicUrl is required"),
    ({"region": {"publicUrl": "sync.example.com"}}, "publicUrl"),
    ({"region": {"publicUrl": "https://user:pw@example.com"}}, "publicUrl"),
    ({**PUBLIC, "regoin": {}}, "additional properties 'regoin' not allowed"),
    ({**PUBLIC, "edge": {"replica": 3}}, "additional properties 'replica' not allowed"),
    ({**PUBLIC, "edge": {"replicas": 0}}, "replicas"),
    ({**PUBLIC, "edge": {"resources": {"limits": {"memory": "1Gi"}, "requests": None}}}, "requests"),
    ({"region": {"name": "EU West", "publicUrl": "https://a.example.com"}}, "name"),
    ({**PUBLIC, "image": {"tag": "latest"}}, "the tag latest"),
    ({**PUBLIC, "shapes": {"image": {"tag": "latest"}}}, "shapes.image: the tag latest"),
    ({**PUBLIC, "edge": {"image": {"digest": "sha256:abc"}}}, "digest"),
    (
        {**PUBLIC, "edge": {"ingress": {"enabled": True}, "gateway": {"enabled": True, "parentRefs": [{"name": "g"}]}}},
        "choose one way in",
    ),
    ({**PUBLIC, "edge": {"gateway": {"enabled": True}}}, "edge.gateway.parentRefs is empty"),
    ({**PUBLIC, "edge": {"gateway": {"parentRefs": [{"name": "g"}]}}}, "edge.gateway.enabled is false"),
    ({**PUBLIC, "edge": {"ingress": {"tlsSecretName": "x"}}}, "edge.ingress.enabled is false"),
    ({**PUBLIC, "api": {"ingress": {"enabled": True}}}, "api.publicUrl is required with"),
    (
        {"region": {"publicUrl": "https://a.example.com/x"}, "edge": {"ingress": {"enabled": True}}},
        "leave the path away",
    ),
    ({"region": {"publicUrl": "https://192.0.2.1"}, "edge": {"ingress": {"enabled": True}}}, "not an address"),
    (
        {"region": {"publicUrl": "http://a.example.com"}, "edge": {"ingress": {"enabled": True, "tlsSecretName": "x"}}},
        "make the URL https",
    ),
    ({**PUBLIC, "api": {"enabled": False, "adminToken": {"existingSecret": "x"}}}, "api.enabled is false"),
    ({**PUBLIC, "edge": {"service": {"nodePort": 30000}}}, "edge.service.type is ClusterIP"),
    ({**PUBLIC, "edge": {"service": {"loadBalancerSourceRanges": ["10.0.0.0/8"]}}}, "is not LoadBalancer"),
    (
        {**PUBLIC, "serviceMonitor": {"enabled": True}, "networkPolicy": {"monitoringNamespaces": []}},
        "Prometheus could reach nothing",
    ),
    ({**PUBLIC, "edge": {"replicas": 1, "podDisruptionBudget": {"maxUnavailable": 2}}}, "protects nothing"),
]


@pytest.mark.parametrize(("values", "message"), CONTRADICTIONS, ids=[message for _, message in CONTRADICTIONS])
def test_contradictions_are_named(values: dict[str, Any], message: str) -> None:
    done = helm("template", "sg", str(CHARTS / "switchgear"), values=values)
    assert done.returncode != 0 and not done.stdout
    assert message in done.stderr
    assert done.stderr.count("execution error") + done.stderr.count("don't meet the specifications") == 1


def _other(value: chart_values.Value) -> Any:
    """Another value than the default that the schema allows."""
    special: dict[str, Any] = {
        "region.publicUrl": "https://other.example.com",
        "api.publicUrl": "https://other-api.example.com",
        "edge.service.nodePort": 30001,
        "listenAddress": "::",
        "serviceMonitor.interval": "45s",
    }
    path = ".".join(value.path)
    if path in special:
        return special[path]
    schema = value.schema
    if "enum" in schema:
        return next(choice for choice in schema["enum"] if choice not in (value.default, "ClusterIP"))
    if schema == chart_values.NAMED["digest"]:
        return "sha256:" + "cd" * 32
    if value.path[-1] == "resources":
        return {"requests": {"cpu": "77m", "memory": "77Mi"}}
    if value.path[-1] == "parentRefs":
        return [{"name": "another"}]
    if value.path[-1] == "affinity":
        return {"podAffinity": {}}
    if value.path[-1] in ("tolerations", "extraObjects"):
        return [{"key": "k", "kind": "ConfigMap", "metadata": {"name": "n"}}]
    if schema["type"] == "array":
        return [4321] if schema["items"]["type"] == "integer" else ["192.0.2.0/25"]
    return {
        "boolean": not value.default,
        "integer": value.default + 1 if isinstance(value.default, int) else 0,
        "object": {"changed": "yes"},
        "string": "changed",
    }[schema["type"]]


def _with(base: dict[str, Any], path: tuple[str, ...], other: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(base))
    place = made
    for name in path[:-1]:
        place = place.setdefault(name, {})
    place[path[-1]] = other
    return made


@pytest.mark.long
@pytest.mark.timeout(600)
def test_every_value_has_an_effect() -> None:
    known = chart_values.parse((CHARTS / "switchgear" / "values.yaml").read_text("utf-8"))
    # Not to be changed alone: that would be a contradiction.
    known = [value for value in known if value.path[1:] != ("gateway", "enabled")]
    least = {**PUBLIC, "api": {"publicUrl": "https://api.example.com"}}
    bases = (MATRIX["ingress"], MATRIX["load balancer"], MATRIX["gateway"], least)
    plain = [template(values=base) for base in bases]

    def changes(value: chart_values.Value) -> bool:
        for base, before in zip(bases, plain, strict=True):
            done = helm(
                "template",
                "sg",
                str(CHARTS / "switchgear"),
                "-n",
                "sg-test",
                values=_with(base, value.path, _other(value)),
            )
            if done.returncode == 0 and done.stdout != before:
                objects(done.stdout)
                return True
        return False

    with ThreadPoolExecutor(2) as pool:
        without = [".".join(v.path) for v, changed in zip(known, pool.map(changes, known), strict=True) if not changed]
    assert len(known) > 80
    assert without == []
