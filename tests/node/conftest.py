"""Pods on the process node of a real control plane."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from switchgear_local.kubeapi import KubeApi
from tests.support.kube import Kube

LIMIT = 60.0
_KINDS = {"pod": "Pod", "pvc": "PersistentVolumeClaim", "pv": "PersistentVolume", "node": "Node"}
TOLERATION = {"key": "switchgear.dev/process-node", "operator": "Exists"}


def eventually(check: Callable[[], Any], what: str, limit: float = LIMIT) -> Any:
    """Poll until `check` gives something true; its value."""
    deadline = time.monotonic() + limit
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: did not happen within {limit:.0f} s"
        time.sleep(0.05)


def pod_manifest(name: str, *command: str, **spec: Any) -> dict[str, Any]:
    """A pod for the process node with one container `c`; `container` adds to it."""
    container = {"name": "c", "image": "none", "command": list(command)} | spec.pop("container", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 5,
            "tolerations": [TOLERATION],
            "containers": [container],
            **spec,
        },
    }


@dataclass(frozen=True)
class Place:
    """A namespace of the test's own on a cluster with a process node."""

    kube: Kube
    namespace: str
    api: KubeApi

    def apply(self, *manifests: dict[str, Any]) -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kube.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=json.dumps(items))

    def secret(self, name: str, **data: str) -> None:
        self.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})

    def get(self, what: str) -> dict[str, Any]:
        """One object (`pod/x`), or {} when it does not exist. Not by kubectl, which costs 0.1 s of a core each time."""
        short, _, name = what.partition("/")
        return self.api.get("v1", _KINDS[short], name, self.namespace) or {}

    def status(self, pod: str) -> dict[str, Any]:
        return self.get(f"pod/{pod}").get("status", {})

    def container(self, pod: str) -> dict[str, Any]:
        return next(iter(self.status(pod).get("containerStatuses", [])), {})

    def condition(self, pod: str, kind: str = "Ready") -> str:
        conditions = {c["type"]: c["status"] for c in self.status(pod).get("conditions", [])}
        return conditions.get(kind, "")

    def ready(self, pod: str) -> dict[str, Any]:
        """Wait until the pod is Ready; its container's status."""
        eventually(lambda: self.condition(pod) == "True", f"{pod} Ready")
        return self.container(pod)

    def phase(self, pod: str, phase: str) -> dict[str, Any]:
        """Wait for a phase; the pod's status."""
        eventually(lambda: self.status(pod).get("phase") == phase, f"{pod} {phase}")
        return self.status(pod)

    def logs(self, pod: str, *options: str) -> str:
        return self.kube.kubectl("logs", "-n", self.namespace, pod, *options)

    def delete(self, what: str, *options: str) -> None:
        self.kube.kubectl("delete", "-n", self.namespace, what, *options)

    @property
    def node_data(self) -> Path:
        return self.kube.data_dir / "node"

    def node_pid(self) -> int:
        assert self.kube.node is not None
        pid = eventually(lambda: self.kube.node.pid if self.kube.node else None, "the node runs")
        assert isinstance(pid, int)
        return pid

    def node_log(self) -> str:
        return (self.kube.data_dir / "logs" / "node.log").read_text()


@pytest.fixture
def place(kube_node: Kube) -> Iterator[Place]:
    namespace = kube_node.new_namespace("node")
    with kube_node.api() as api:
        eventually(lambda: api.get("v1", "ServiceAccount", "default", namespace), "its service account")
        yield Place(kube_node, namespace, api)
        api.delete("v1", "Namespace", namespace)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill(pid: int, sig: signal.Signals = signal.SIGKILL) -> None:
    """Signal a process and, for SIGKILL, wait for its end."""
    os.kill(pid, sig)
    if sig == signal.SIGKILL:
        eventually(lambda: not alive(pid), f"process {pid} ends")
