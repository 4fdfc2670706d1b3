"""Configuration → values: every problem is told at once, by path, and nothing is guessed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchgear_infra.reading import ConfigurationError
from switchgear_infra.settings import config_value, global_settings, region_settings
from tests.infra.configurations import FULL, MATRIX, PLAIN, example


@pytest.mark.parametrize("name", MATRIX)
def test_good_configurations_are_taken(name: str) -> None:
    made = region_settings(MATRIX[name])
    assert made.name == MATRIX[name]["name"]


@pytest.mark.parametrize("name", ["example", "aws-eu-west-1", "gcp-europe-west1", "azure-westeurope"])
def test_the_examples_are_good(name: str) -> None:
    made = region_settings(example(name))
    assert made.host == "eu.sync.example.com"
    assert len(made.clouds) == (0 if name == "example" else 1)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": None}, "region.name: is missing"),
    ({"name": "EU"}, "region.name: 'EU' is no region name"),
    ({"publicUrl": "eu.example.com"}, "region.publicUrl: 'eu.example.com' is no base URL"),
    ({"tag": "latest"}, "region.tag: 'latest' changes by itself"),
    ({"global": "main"}, "region.global: 'main' is no stack"),
    ({"colour": "red"}, "region.colour: is unknown; fields here: backups,"),
    ({"cluster": {"kind": "k8s"}}, "region.cluster.kind: 'k8s' is unknown; use one of: kubeconfig, eks, gke, aks"),
    ({"cluster": {"kind": "gke"}}, "region.cluster.location: is missing"),
    ({"cluster": {"kind": "aks", "location": "x"}}, "region.cluster.resourceGroup: is missing"),
    ({"cluster": {"kind": "eks", "minimum": 9}}, "region.cluster.minimum: is 9, above maximum (6)"),
    ({"cluster": {"machine": "m7i"}}, "region.cluster.machine: is for clusters that the stack makes"),
    ({"cluster": "mine"}, "region.cluster: must be a mapping of fields"),
    ({"edge": {"replicas": 0}}, "region.edge.replicas: must be a whole number from 1 to 1000"),
    ({"edge": {"replicas": True}}, "region.edge.replicas: must be a whole number from 1 to 1000"),
    ({"edge": {"ingressAnnotations": {"a": 1}}}, "region.edge.ingressAnnotations: must be a mapping from text to text"),
    ({"certificate": {"issuer": "x"}}, "region.certificate: only an Ingress uses it"),
    (
        {"edge": {"ingressClass": "nginx"}, "publicUrl": "https://a.example"},
        "region.certificate: publicUrl is https and there is an Ingress",
    ),
    ({"dns": {"kind": "external-dns"}}, "region.dns: nothing has an address that it could point to"),
    ({"dns": {"kind": "route53"}}, "region.dns.target: is missing"),
    ({"dns": {"kind": "route53", "target": "1.2.3.4"}}, "region.dns.zone: is missing"),
    ({"storage": {"name": "fast"}}, "region.storage.provisioner: is missing"),
    ({"backups": {"kind": "s3"}}, "region.backups.bucket: must be 3 to 63"),
    ({"backups": {"kind": "gcs", "bucket": "abc"}}, "region.backups.location: is missing"),
]


@pytest.mark.parametrize(("change", "text"), WRONG, ids=[text for _, text in WRONG])
def test_what_is_wrong_is_named(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        region_settings(PLAIN | change)
    assert [problem for problem in caught.value.problems if problem.startswith(text)], caught.value.problems


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        region_settings({"name": "EU", "edge": {"replicas": 0}, "typo": 1})
    assert len(caught.value.problems) == 4  # publicUrl is missing too
    assert str(caught.value).startswith("The configuration of this stack is wrong:\n  - region.")


def test_an_absent_value_is_told() -> None:
    with pytest.raises(ConfigurationError, match="region: is missing"):
        config_value(None, "region")


def test_global_settings() -> None:
    assert global_settings({"domain": "sync.example.com"}).cloud == "none"
    with pytest.raises(ConfigurationError, match=r"global.createZone: needs a cloud"):
        global_settings({"domain": "sync.example.com", "createZone": True})
    with pytest.raises(ConfigurationError, match=r"global.resourceGroup: is missing"):
        global_settings({"domain": "a.b", "createZone": True, "cloud": "azure"})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*FULL, "kind", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_any_configuration_is_taken_or_refused(value: Any) -> None:
    try:
        region_settings(value)
    except ConfigurationError as error:
        assert error.problems
