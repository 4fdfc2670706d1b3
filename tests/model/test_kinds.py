"""Resources are read as they stand in the API, and what is malformed is refused by name."""

from typing import Any

import pytest

from switchgear_model import kinds as k

META = {"name": "a", "namespace": "ns", "uid": "u1", "generation": 3, "creationTimestamp": "2026-11-23T00:00:00Z"}
SOURCE = {
    "environmentRef": {"name": "prod"},
    "database": {"urlSecretRef": {"name": "db", "key": "url"}},
}


def raw(kind: str, spec: dict[str, Any], **status: Any) -> dict[str, Any]:
    return k.manifest(kind, "a", "ns", spec) | {"metadata": META} | ({"status": status} if status else {})


def test_a_manifest_is_read_back() -> None:
    assert k.parse(raw(k.PROJECT, {"displayName": "Shop"})).spec == k.ProjectSpec("Shop")
    assert k.parse(raw(k.ENVIRONMENT, {"projectRef": {"name": "shop"}})).spec == k.EnvironmentSpec("shop")
    source = k.parse(raw(k.SYNC_SOURCE, SOURCE))
    assert isinstance(source, k.SyncSource)
    assert source.spec.database == k.Database(k.SecretKeyRef("db", "url"))
    assert (source.spec.storage.size, source.spec.deletion_policy) == ("10Gi", "Delete")
    assert source.meta.generation == 3


def test_a_manifest_has_no_empty_fields_and_knows_its_kinds() -> None:
    made = k.manifest(k.STREAMS_SERVICE, "a", "ns", {"environmentRef": {"name": "e"}, "region": None})
    assert made["spec"] == {"environmentRef": {"name": "e"}}
    assert made["apiVersion"] == "switchgear.dev/v1alpha1"
    with pytest.raises(k.ModelError, match="unknown kind"):
        k.manifest("Nope", "a", "ns", {})


@pytest.mark.parametrize(
    ("kind", "spec", "field"),
    [
        (k.ENVIRONMENT, {}, "spec.projectRef.name"),
        (k.ENVIRONMENT, {"projectRef": "x"}, "spec.projectRef"),
        (k.SYNC_SOURCE, {"environmentRef": {"name": "e"}}, "spec.database.urlSecretRef"),
        (k.SYNC_SOURCE, SOURCE | {"serviceId": "Bad"}, "spec.serviceId"),
        (k.SYNC_SOURCE, SOURCE | {"storage": {"size": 10}}, "spec.storage.size"),
        (k.SYNC_SOURCE, SOURCE | {"manualTablePublishing": "yes"}, "spec.manualTablePublishing"),
        (k.STREAMS_SERVICE, {"environmentRef": {"name": "e"}, "displayName": 7}, "spec.displayName"),
    ],
)
def test_what_is_malformed_is_named(kind: str, spec: dict[str, Any], field: str) -> None:
    with pytest.raises(k.ModelError) as caught:
        k.parse(raw(kind, spec))
    assert caught.value.field == field


@pytest.mark.parametrize("text", [None, 1, "x", []])
def test_an_object_that_is_none_is_refused_and_nothing_else_happens(text: object) -> None:
    with pytest.raises(k.ModelError):
        k.parse({"kind": k.PROJECT, "metadata": text, "spec": {}})


def test_a_status_survives_the_round_trip() -> None:
    conditions = [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Active",
            "message": "",
            "lastTransitionTime": "2026-11-23T00:00:00Z",
            "observedGeneration": 3,
        }
    ]
    given = {
        "observedGeneration": 3,
        "state": "active",
        "conditions": conditions,
        "serviceId": "svc-a",
        "url": "https://x/v1/shape",
        "secretRef": {"name": "sg-svc-a", "key": "secret"},
        "secretHashes": [{"sha256": "0" * 64}],
    }
    assert k.parse(raw(k.SYNC_SOURCE, SOURCE, **given)).status.to_dict() == given


def test_fields_without_a_value_are_null_so_that_a_merge_patch_removes_them() -> None:
    written = k.Status(observed_generation=1, state="error").to_dict()
    assert {key for key, value in written.items() if value is None} == {
        "serviceId",
        "url",
        "secretRef",
        "secretHashes",
    }


def test_the_oldest_is_by_time_and_then_by_uid() -> None:
    first = k.Meta("b", "ns", uid="2", created="2026-11-23T00:00:00Z")
    second = k.Meta("a", "ns", uid="1", created="2026-11-23T00:00:01Z")
    third = k.Meta("c", "ns", uid="1", created="2026-11-23T00:00:00Z")
    assert sorted([first, second, third], key=lambda m: m.age_order) == [third, first, second]
