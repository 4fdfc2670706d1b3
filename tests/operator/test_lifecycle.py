"""Services come, stay, heal and go, on the real API server with the rights of the operator's own account."""

from __future__ import annotations

import base64
import json
import signal
import time

import httpx
import pytest

from switchgear_model import credentials, ids, kinds
from tests.operator import databases as db
from tests.operator.conftest import Region
from tests.operator.support import API, PUBLIC_URL, Space, wait

pytestmark = pytest.mark.cluster


def service_id(space: Space, kind: str, name: str) -> str:
    found = space.get(kind, name)
    assert found is not None
    return str(found["status"]["serviceId"])


def secret_value(space: Space, name: str, key: str) -> str:
    found = space.api.get("v1", "Secret", name, space.namespace)
    assert found is not None
    return base64.b64decode(found["data"][key]).decode()


def test_everything_in_any_order_becomes_active(space: Space) -> None:
    namespace = space.namespace
    objects = [
        kinds.manifest("StreamsService", "chat", namespace, {"environmentRef": {"name": "prod"}}),
        kinds.manifest("Environment", "prod", namespace, {"projectRef": {"name": "shop"}}),
        kinds.manifest("Project", "shop", namespace, {"displayName": "Shop"}),
    ]
    space.kubectl(objects)
    assert space.wait_reason("StreamsService", "chat", "ReferenceNotReady")
    condition = space.wait_reason("Project", "shop", "ReferenceNotFound")
    assert "Workspace" in condition["message"]
    assert space.condition("Project", "shop", "Reconciling")["status"] == "True"
    space.kubectl([kinds.manifest("Workspace", "acme", namespace, {})])
    status = space.wait_state("StreamsService", "chat", "active")
    assert {c["type"] for c in status["conditions"]} == {"Ready", "PodReady"}
    assert status["observedGeneration"] == 1
    sid = status["serviceId"]
    found = space.get("StreamsService", "chat")
    assert found is not None and sid == ids.service_id(found["metadata"]["uid"])
    assert status["url"] == f"{PUBLIC_URL}/v1/stream/{sid}"
    assert status["secretRef"] == {"name": f"sg-{sid}", "key": "secret"}
    secret = secret_value(space, f"sg-{sid}", "secret")
    assert status["secretHashes"] == [{"sha256": credentials.sha256_hex(secret)}]
    for kind in ("Workspace", "Project", "Environment"):
        name = {"Workspace": "acme", "Project": "shop", "Environment": "prod"}[kind]
        assert space.state(kind, name) == "active"
    expected = [f"Secret sg-{sid}", f"Secret sg-{sid}-key", f"StatefulSet sg-{sid}", f"Pod sg-{sid}-0"]
    expected += [f"Service sg-{sid}", f"NetworkPolicy sg-{sid}", f"PersistentVolumeClaim sg-{sid}"]
    assert space.children() == sorted(expected)


def test_kubectl_shows_what_matters(space: Space) -> None:
    space.parents()
    space.streams("chat")
    space.wait_state("StreamsService", "chat", "active")
    table = space.kube.kubectl("get", "sgstreams", "-n", space.namespace).splitlines()
    assert table[0].split() == ["NAME", "STATE", "URL", "REASON", "AGE"]
    assert table[1].split()[:2] == ["chat", "active"]
    every = space.kube.kubectl("get", "switchgear", "-n", space.namespace)
    assert {line.split("/")[0].split(".")[0] for line in every.splitlines() if "/" in line} == {
        "workspace",
        "project",
        "environment",
        "streamsservice",
    }
    space.kube.kubectl("wait", "--for=condition=Ready", "-n", space.namespace, "sgstreams/chat", "--timeout=50s")


def test_the_pod_is_the_same_everywhere_and_carries_no_secret(space: Space) -> None:
    space.parents()
    space.streams("chat")
    sid = space.wait_state("StreamsService", "chat", "active")["serviceId"]
    pod = space.api.get("v1", "Pod", f"sg-{sid}-0", space.namespace)
    assert pod is not None
    spec = pod["spec"]
    assert "nodeSelector" not in spec and spec["automountServiceAccountToken"] is False
    assert {"key": "switchgear.dev/process-node", "operator": "Exists"} in spec["tolerations"]
    container = spec["containers"][0]
    assert container["command"] == ["switchgear-streams"]
    assert container["args"][-4:] == ["--root-path", f"/v1/stream/{sid}", "--public-url", PUBLIC_URL]
    secret, key = secret_value(space, f"sg-{sid}", "secret"), secret_value(space, f"sg-{sid}-key", "key")
    assert secret not in json.dumps(pod) and key not in json.dumps(pod)
    region_key = space.api.get("v1", "Secret", "switchgear-region-key", "switchgear-system")
    assert region_key is not None
    assert key == credentials.pod_key(base64.b64decode(region_key["data"]["key"]), sid)
    owner = pod["metadata"]["labels"]
    assert (owner["switchgear.dev/kind"], owner["switchgear.dev/name"]) == ("StreamsService", "chat")


def versions(space: Space) -> dict[str, str]:
    found = {}
    for version, kind in (
        ("v1", "Secret"),
        ("v1", "PersistentVolumeClaim"),
        ("v1", "Service"),
        ("apps/v1", "StatefulSet"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("rbac.authorization.k8s.io/v1", "RoleBinding"),
        *((API, kind) for kind in kinds.KINDS),
    ):
        for obj in space.api.list(version, kind, space.namespace):
            found[f"{kind} {obj['metadata']['name']}"] = obj["metadata"]["resourceVersion"]
    return found


def settled(space: Space) -> dict[str, str]:
    """The versions once nothing has changed for five seconds: longer than an operator may be held up."""
    before = versions(space)
    quiet = 0
    while quiet < 5:
        time.sleep(1)
        after = versions(space)
        quiet = quiet + 1 if after == before else 0
        before = after
    return before


def test_reconciling_an_unchanged_world_writes_nothing(space: Space, url: str) -> None:
    space.parents()
    space.streams("chat")
    space.secret("db", url=url)
    space.source("orders")
    space.wait_state("StreamsService", "chat", "active")
    space.wait_state("SyncSource", "orders", "active")
    before = settled(space)
    # Longer than two walks; and kubectl annotate makes an event of its own on each.
    for kind, name in (("StreamsService", "chat"), ("SyncSource", "orders"), ("Environment", "prod")):
        space.merge(kind, name, {"metadata": {"annotations": {"example.com/touched": "yes"}}})
    touched = versions(space)
    time.sleep(11)
    assert versions(space) == touched
    assert {k for k in touched if touched[k] != before[k]} == {
        "StreamsService chat",
        "SyncSource orders",
        "Environment prod",
    }
    assert len(before) >= 18
    for obj in space.api.list(API, "StreamsService", space.namespace):
        assert not [key for key in obj["metadata"].get("annotations", {}) if "kopf" in key]


def test_what_others_change_or_delete_is_put_back(region: Region, space: Space) -> None:
    space.parents()
    space.streams("chat")
    sid = space.wait_state("StreamsService", "chat", "active")["serviceId"]
    name = f"sg-{sid}"
    space.merge("Service", name, {"spec": {"ports": [{"name": "http", "port": 9, "targetPort": 9}]}}, "v1")
    space.api.delete("networking.k8s.io/v1", "NetworkPolicy", name, space.namespace)
    space.merge("StatefulSet", name, {"spec": {"replicas": 3}, "metadata": {"labels": {"x": "y"}}}, "apps/v1")
    secret_before = secret_value(space, name, "secret")

    def healed() -> bool:
        service = space.api.get("v1", "Service", name, space.namespace)
        policy = space.api.get("networking.k8s.io/v1", "NetworkPolicy", name, space.namespace)
        statefulset = space.api.get("apps/v1", "StatefulSet", name, space.namespace)
        if service is None or statefulset is None:
            return False
        ports = [p["port"] for p in service["spec"]["ports"]]
        return policy is not None and 4437 in ports and statefulset["spec"]["replicas"] == 1

    wait("drift repaired", healed)
    statefulset = space.api.get("apps/v1", "StatefulSet", name, space.namespace)
    # What is not ours stays: another label is nobody's mistake.
    assert statefulset is not None and statefulset["metadata"]["labels"]["x"] == "y"
    assert secret_value(space, name, "secret") == secret_before


def test_a_deleted_service_secret_is_made_anew_and_published(space: Space) -> None:
    space.parents()
    space.streams("chat")
    before = space.wait_state("StreamsService", "chat", "active")
    name = before["secretRef"]["name"]
    space.api.delete("v1", "Secret", name, space.namespace)

    def renewed() -> bool:
        status = (space.get("StreamsService", "chat") or {})["status"]
        return status.get("secretHashes", before["secretHashes"]) != before["secretHashes"]

    wait("new hashes", renewed)
    secret = secret_value(space, name, "secret")
    status = (space.get("StreamsService", "chat") or {})["status"]
    assert status["secretHashes"] == [{"sha256": credentials.sha256_hex(secret)}]


def test_deleting_an_environment_deletes_what_is_below_and_frees_the_names(space: Space) -> None:
    space.parents()
    for _ in range(3):
        space.apply("Environment", "pr-42", {"projectRef": {"name": "shop"}})
        space.apply("StreamsService", "pr-42-chat", {"environmentRef": {"name": "pr-42"}, "displayName": "chat"})
        space.apply("StreamsService", "pr-42-log", {"environmentRef": {"name": "pr-42"}, "displayName": "log"})
        space.wait_state("StreamsService", "pr-42-chat", "active")
        space.wait_state("StreamsService", "pr-42-log", "active")
        space.kube.kubectl("delete", "environment", "pr-42", "-n", space.namespace, "--timeout=60s", timeout=70)
        assert space.children() == []
        assert space.api.list(API, "StreamsService", space.namespace) == []


def test_nothing_new_starts_below_a_parent_that_is_going(space: Space) -> None:
    space.parents()
    # Something that stays for a while below it, so that the environment keeps going.
    held = {"finalizers": ["example.com/hold"]}
    space.apply("StreamsService", "chat", {"environmentRef": {"name": "prod"}}, **held)
    space.wait_state("StreamsService", "chat", "active")
    space.delete("Environment", "prod")
    space.wait_state("Environment", "prod", "deleting")
    assert "StreamsService chat" in space.condition("Environment", "prod")["message"]
    late = ids.service_id(space.streams("late")["metadata"]["uid"])
    space.wait_gone("StreamsService", "late")
    events = space.api.list("events.k8s.io/v1", "Event", space.namespace)
    assert not [e for e in events if e["regarding"]["name"] == f"sg-{late}"]
    space.merge("StreamsService", "chat", {"metadata": {"finalizers": []}})
    space.wait_gone("Environment", "prod")


def test_a_workspace_takes_everything_with_it(space: Space) -> None:
    space.parents()
    space.streams("chat")
    space.wait_state("StreamsService", "chat", "active")
    space.kube.kubectl("delete", "workspace", "acme", "-n", space.namespace, "--timeout=60s", timeout=70)
    for kind in kinds.KINDS:
        assert space.api.list(API, kind, space.namespace) == []
    assert space.children() == []
    # The rights in the namespace go with the last of our objects.
    rbac = "rbac.authorization.k8s.io/v1"
    wait("role bindings gone", lambda: space.api.list(rbac, "RoleBinding", space.namespace) == [])


def test_the_second_workspace_owns_nothing(space: Space) -> None:
    space.parents()
    space.wait_state("Environment", "prod", "active")
    # Ages are in whole seconds.
    time.sleep(1.1)
    space.apply("Workspace", "second")
    condition = space.wait_reason("Workspace", "second", "NamespaceTaken")
    assert "acme" in condition["message"]
    assert space.condition("Workspace", "second", "Stalled")["status"] == "True"
    space.delete("Workspace", "second")
    space.wait_gone("Workspace", "second")
    assert space.state("Environment", "prod") == "active"
    space.apply("Workspace", "second")
    space.wait_reason("Workspace", "second", "NamespaceTaken")
    space.delete("Workspace", "acme")
    space.wait_gone("Workspace", "acme")
    space.wait_state("Workspace", "second", "active")
    space.apply("Project", "shop")
    space.wait_state("Project", "shop", "active")


def test_a_taken_name_stalls_the_younger_one(space: Space) -> None:
    space.parents()
    space.streams("prod-chat", displayName="chat")
    space.wait_state("StreamsService", "prod-chat", "active")
    time.sleep(1.1)
    space.streams("other", displayName="chat")
    condition = space.wait_reason("StreamsService", "other", "NameTaken")
    assert "prod-chat" in condition["message"] and "displayName" in condition["message"]
    assert space.condition("StreamsService", "other", "Stalled")["status"] == "True"
    space.delete("StreamsService", "prod-chat")
    space.wait_state("StreamsService", "other", "active")


def test_two_claims_on_one_service_id(space: Space) -> None:
    space.parents()
    claimed = f"moved-{space.namespace[-10:]}"
    space.streams("first", serviceId=claimed)
    space.streams("second", serviceId=claimed)
    names = {"first", "second"}

    def settled() -> set[str]:
        return {n for n in names if space.reason("StreamsService", n) == "ServiceIdTaken"}

    wait("one of them stalls", settled)
    (loser,) = settled()
    (winner,) = names - {loser}
    assert space.wait_state("StreamsService", winner, "active")["serviceId"] == claimed
    assert winner in space.condition("StreamsService", loser)["message"]
    assert "serviceId" not in (space.get("StreamsService", loser) or {})["status"]
    # A third one in another namespace does not get it either.
    other = Space(space.kube, space.api, space.kube.new_namespace("op"))
    other.parents()
    other.streams("third", serviceId=claimed)
    other.wait_reason("StreamsService", "third", "ServiceIdTaken")
    space.delete("StreamsService", winner)
    space.wait_gone("StreamsService", winner)
    assert space.wait_state("StreamsService", loser, "active")["serviceId"] == claimed
    space.delete("StreamsService", loser)
    other.wait_state("StreamsService", "third", "active")
    space.api.delete("v1", "Namespace", other.namespace)
    wait("namespace gone", lambda: space.api.get("v1", "Namespace", other.namespace) is None)


def test_a_pod_that_stays_away_degrades_the_service_and_its_return_heals_it(region: Region, space: Space) -> None:
    space.parents()
    space.streams("chat")
    sid = space.wait_state("StreamsService", "chat", "active")["serviceId"]
    region.pods.unready.add(space.namespace)
    wait("PodReady False", lambda: space.condition("StreamsService", "chat", "PodReady").get("status") == "False")
    # A restart is no incident.
    assert space.state("StreamsService", "chat") == "active"
    space.wait_state("StreamsService", "chat", "degraded", 60)
    assert space.condition("StreamsService", "chat")["reason"] == "PodNotReady"
    region.pods.unready.discard(space.namespace)
    space.wait_state("StreamsService", "chat", "active")
    events = space.api.list("events.k8s.io/v1", "Event", space.namespace)
    assert {("Normal", "Active"), ("Warning", "PodNotReady")} <= {
        (e["type"], e["reason"]) for e in events if e["regarding"]["name"] == "chat"
    }
    assert space.api.get("v1", "Pod", f"sg-{sid}-0", space.namespace)


def test_killing_the_operator_at_any_moment_and_starting_it_again_converges(region: Region, space: Space) -> None:
    space.parents()
    for round_ in range(3):
        for n in range(3):
            space.streams(f"s{round_}-{n}")
        time.sleep(0.15 + 0.25 * round_)
        region.operator.end(signal.SIGKILL)
        region.operator.start()
    for round_ in range(3):
        for n in range(3):
            space.wait_state("StreamsService", f"s{round_}-{n}", "active")
    hashes = {
        n["metadata"]["name"]: n["status"]["secretHashes"]
        for n in space.api.list(API, "StreamsService", space.namespace)
    }
    space.delete("Environment", "prod")
    time.sleep(0.2)
    region.operator.end(signal.SIGKILL)
    region.operator.start()
    space.wait_gone("Environment", "prod")
    assert space.children() == [] and len(hashes) == 9


def test_a_status_that_was_lost_is_rebuilt(space: Space) -> None:
    space.parents()
    space.streams("chat")
    before = space.wait_state("StreamsService", "chat", "active")
    path = f"/apis/{API}/namespaces/{space.namespace}/streamsservices/chat/status"
    space.api.request("PATCH", path, {"status": None}, content_type="application/merge-patch+json")
    after = space.wait_state("StreamsService", "chat", "active")
    for field in ("serviceId", "url", "secretRef", "secretHashes"):
        assert after[field] == before[field]


def test_no_edge_is_said(region: Region, space: Space) -> None:
    region.edge.end()
    try:
        space.parents()
        space.streams("chat")
        condition = space.wait_reason("StreamsService", "chat", "EdgeUnavailable")
        assert condition["status"] == "False"
        assert space.state("StreamsService", "chat") == "provisioning"
    finally:
        region.edge.start()
    space.wait_state("StreamsService", "chat", "active")


def test_the_health_listener_says_how_it_is(region: Region, space: Space) -> None:
    base = f"http://127.0.0.1:{region.operator.health_port}"
    space.apply("Workspace", "acme")
    space.wait_state("Workspace", "acme", "active")
    assert httpx.get(f"{base}/live").json() == {"status": "ok", "problem": None}
    wait("ready", lambda: httpx.get(f"{base}/ready").status_code == 200)
    metrics = httpx.get(f"{base}/metrics").text
    assert 'switchgear_operator_reconcile_total{kind="Workspace",result="changed"}' in metrics
    assert "switchgear_operator_stale_changes 0\n" in metrics


def test_what_the_api_server_refuses_is_told_and_heals(space: Space) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": space.namespace}}
    space.api.apply(quota | {"spec": {"hard": {"persistentvolumeclaims": "0"}}})
    wait("quota counted", lambda: (space.api.get("v1", "ResourceQuota", "q", space.namespace) or {}).get("status"))
    space.parents()
    space.streams("chat")
    condition = space.wait_reason("StreamsService", "chat", "ChildRejected")
    assert "exceeded quota" in condition["message"] and "PersistentVolumeClaim" in condition["message"]
    assert space.condition("StreamsService", "chat", "Stalled")["status"] == "True"
    space.api.delete("v1", "ResourceQuota", "q", space.namespace)
    space.wait_state("StreamsService", "chat", "active")


def test_a_volume_that_cannot_grow_is_told_and_the_service_goes_on(space: Space) -> None:
    space.parents()
    space.streams("chat", storage={"size": "1Gi"})
    sid = space.wait_state("StreamsService", "chat", "active")["serviceId"]
    # A claim that is not bound cannot.
    space.streams("chat", storage={"size": "2Gi"})
    condition = space.wait_reason("StreamsService", "chat", "ChildRejected")
    assert f"PersistentVolumeClaim {space.namespace}/sg-{sid}" in condition["message"]
    assert space.state("StreamsService", "chat") == "degraded"
    space.api.delete("v1", "Service", f"sg-{sid}", space.namespace)
    wait("still looked after", lambda: space.api.get("v1", "Service", f"sg-{sid}", space.namespace))


def test_rights_that_somebody_took_away_are_put_back_and_no_slot_is_forgotten(space: Space, url: str) -> None:
    space.parents()
    space.secret("db", url=url)
    space.source("orders")
    sid = space.wait_state("SyncSource", "orders", "active")["serviceId"]
    db.make_slot(url, sid)
    rbac, name = "rbac.authorization.k8s.io/v1", "switchgear-operator-secrets"
    # With force: the finalizer taken off by hand.
    space.api.delete(rbac, "RoleBinding", name, space.namespace)
    space.merge("RoleBinding", name, {"metadata": {"finalizers": []}}, rbac)
    space.delete("SyncSource", "orders")
    space.wait_gone("SyncSource", "orders")
    assert db.left(url, sid) == set()
    assert space.children() == []
    assert space.api.get(rbac, "RoleBinding", name, space.namespace) is not None
