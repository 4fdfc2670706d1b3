"""The fixture with a node, and what a region's processes are started with."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from switchgear_local import supervisor
from tests.support.kube import Kube

pytestmark = pytest.mark.cluster

POD = """
apiVersion: v1
kind: Pod
metadata: {name: hello}
spec:
  automountServiceAccountToken: false
  tolerations: [{key: switchgear.dev/process-node, operator: Exists}]
  containers:
  - {name: it, image: none, command: [sh, -c, "echo from $POD_IP; exec sleep 600"], env: [
      {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]}
"""


def test_pod_runs_and_its_log_is_read_through_the_api_server(kube_node: Kube) -> None:
    namespace = kube_node.new_namespace()
    kube_node.kubectl("wait", "--for=create", "serviceaccount/default", "-n", namespace, "--timeout=30s")
    kube_node.kubectl("apply", "-n", namespace, "-f", "-", stdin=POD)
    kube_node.kubectl("wait", "--for=condition=Ready", "pod/hello", "-n", namespace, "--timeout=60s", timeout=90)
    address = kube_node.kubectl("get", "pod", "hello", "-n", namespace, "-o", "jsonpath={.status.podIP}")
    deadline = time.monotonic() + 60
    while f"from {address}" not in kube_node.kubectl("logs", "hello", "-n", namespace):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    kube_node.kubectl("delete", "namespace", namespace, "--timeout=60s", timeout=90)


def test_processes_get_nothing_secret_of_the_callers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "PGPASSWORD", "KUBECONFIG", "SWITCHGEAR_PORT", "ELECTRIC_SECRET", "MY_TOKEN"):
        monkeypatch.setenv(name, "planted")
    environ = supervisor.child_environment()
    assert "planted" not in environ.values()
    assert Path(environ["PATH"].split(":")[0]).is_dir()
