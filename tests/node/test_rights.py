"""The node's identity can do its work and nothing else; strangers read no logs; settings are checked."""

from __future__ import annotations

import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from switchgear_local import pki
from switchgear_local.kubeapi import KubeApi, KubeError
from switchgear_local.node import bootstrap_objects, rbac_objects
from switchgear_local.node.__main__ import locked
from switchgear_local.node.errors import NodeError
from switchgear_local.node.logs_server import Options, is_api_server, parse_options
from tests.support.kube import Kube

from .conftest import Place, eventually, pod_manifest


def test_rules_are_enumerated() -> None:
    rules = [rule for obj in rbac_objects("ns") for rule in obj.get("rules", ())]
    assert rules
    for rule in rules:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        if "secrets" in rule["resources"]:
            assert rule["verbs"] == ["get"]
    assert all(obj["metadata"].get("namespace") in ("ns", "kube-node-lease", None) for obj in rbac_objects("ns"))


def test_the_class_is_the_default_and_deletes() -> None:
    (storage,) = bootstrap_objects()
    assert storage["metadata"]["annotations"] == {"storageclass.kubernetes.io/is-default-class": "true"}
    assert storage["reclaimPolicy"] == "Delete"


@pytest.mark.cluster
def test_the_nodes_account_can_do_no_more(kube_node: Kube) -> None:
    with KubeApi(kube_node.account_kubeconfig("switchgear-node")) as node:
        for path in ("secrets", "configmaps", "nodes", "services", "events"):
            with pytest.raises(KubeError) as refused:
                node.request("GET", f"/api/v1/{path}")
            assert refused.value.status == 403, path
        with pytest.raises(KubeError) as refused:
            node.request("DELETE", "/api/v1/nodes/switchgear-local")
        assert refused.value.status == 403
        with pytest.raises(KubeError) as refused:
            node.request("PATCH", "/api/v1/nodes/other", {}, content_type="application/merge-patch+json")
        assert refused.value.status == 403


@pytest.mark.cluster
def test_the_node_describes_itself(kube_node: Kube) -> None:
    with kube_node.api() as api:
        node = api.get("v1", "Node", "switchgear-local") or {}
        lease = api.get("coordination.k8s.io/v1", "Lease", "switchgear-local", "kube-node-lease") or {}
    taint = {"key": "switchgear.dev/process-node", "effect": "NoSchedule"}
    assert any(taint.items() <= one.items() for one in node["spec"]["taints"])  # Kubernetes may add some of its own
    status = node["status"]
    assert {"InternalIP", "Hostname"} == {address["type"] for address in status["addresses"]}
    assert status["daemonEndpoints"]["kubeletEndpoint"]["Port"] > 0
    assert int(status["capacity"]["pods"]) > 0
    assert lease["spec"]["holderIdentity"] == "switchgear-local"

    def renewed() -> bool:
        with kube_node.api() as api:
            now = api.get("coordination.k8s.io/v1", "Lease", "switchgear-local", "kube-node-lease") or {}
        return bool(now["spec"]["renewTime"] != lease["spec"]["renewTime"])

    eventually(renewed, "the lease is renewed")


@pytest.mark.cluster
def test_only_the_api_server_reads_logs(place: Place, tmp_path: Path) -> None:
    place.apply(pod_manifest("l", "sh", "-c", "echo private; sleep 1000"))
    place.ready("l")
    eventually(lambda: place.logs("l") == "private\n", "the log")
    port = place.get("node/switchgear-local")["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
    url = f"https://127.0.0.1:{port}/containerLogs/{place.namespace}/l/c"
    store = pki.Pki(place.kube.data_dir / "pki")
    authority = store.authority("kubelet-ca")
    user = store.client(authority, "test-user", "someone", ["developers"])
    admin = store.client(store.authority("ca"), "test-admin", "admin", ["system:masters"])
    foreign_store = pki.Pki(tmp_path)
    foreign = foreign_store.client(foreign_store.authority("ca"), "forged", "kube-apiserver", ["system:masters"])

    def read(pair: pki.Pair | None) -> str:
        context = ssl.create_default_context(cafile=str(authority.cert_file))
        if pair is not None:
            context.load_cert_chain(pair.cert_file, pair.key_file)
        try:
            with urllib.request.urlopen(url, context=context, timeout=60) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return str(error.code)
        except OSError as error:
            return f"refused: {error}"

    assert read(user) == "403"
    assert read(None).startswith("refused")
    assert read(foreign).startswith("refused")
    assert read(admin).startswith("refused")
    server = store.client(authority, "kubelet-client", "kube-apiserver-kubelet-client", ["system:masters"])
    assert read(server) == "private\n"


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ({}, Options()),
        ({"follow": "true", "previous": "true"}, Options(follow=True, previous=True)),
        ({"tailLines": "5", "limitBytes": "6"}, Options(tail=5, limit=6)),
        ({"sinceSeconds": "60"}, Options(since=940.0)),
        ({"sinceTime": "1970-01-01T00:01:40Z"}, Options(since=100.0)),
    ],
)
def test_log_options(query: dict[str, str], options: Options) -> None:
    assert parse_options(query, 1000.0) == options


@pytest.mark.parametrize(
    "query",
    [{"tailLines": "-1"}, {"tailLines": "x"}, {"limitBytes": "1e9"}, {"sinceTime": "now"}, {"timestamps": "true"}],
)
def test_bad_log_options_are_named(query: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(query))):
        parse_options(query, 0)


def test_whose_certificate_it_is() -> None:
    def subject(group: str) -> dict[str, object]:
        return {"subject": ((("organizationName", group),), (("commonName", "x"),))}

    assert is_api_server(subject("system:masters"))
    assert not is_api_server(subject("developers"))
    assert not is_api_server({})
    assert not is_api_server(None)


def test_a_data_directory_has_one_node(tmp_path: Path) -> None:
    with locked(tmp_path / "d") as first, pytest.raises(NodeError, match="DATA_DIR_IN_USE"), locked(tmp_path / "d"):
        pass
    with locked(tmp_path / "d") as second:
        assert first == second


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data-dir", "x"], "--kubeconfig"),
        (["--kubeconfig", "/nonexistent/k", "--data-dir", "x"], "is not a file"),
        (["--kubeconfig", "/etc/hostname", "--data-dir", "x", "--tls-cert", "/etc/hostname"], "needed together"),
        (["--kubeconfig", "/etc/hostname", "--data-dir", "x", "--host-ip", "10.0.0.1"], "127.0.0.0/8"),
        (["--kubeconfig", "/etc/hostname", "--data-dir", "x", "--port", "70000"], "--port"),
    ],
)
def test_wrong_settings_end_with_status_2_and_say_why(tmp_path: Path, arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "switchgear_local.node", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_kubeconfig_that_is_none_is_an_error_with_a_code(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text("token: hunter2\n")
    command = [
        sys.executable,
        "-m",
        "switchgear_local.node",
        "--kubeconfig",
        str(file),
        "--data-dir",
        str(tmp_path / "d"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "BAD_KUBECONFIG" in done.stderr
    assert "hunter2" not in done.stderr
