"""Real processes around the real API server: operator, edge, and pods that are said to be ready.

Without a node nothing runs; `PodStatus` plays the kubelet's part of telling the API server that a pod is Ready.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from switchgear_local.install import write_region_key
from switchgear_local.kubeapi import KubeApi, KubeError
from switchgear_local.processes import free_port
from switchgear_model import labels
from switchgear_model.kinds import manifest
from tests.support.kube import Kube

T = TypeVar("T")
API = labels.API_VERSION
PUBLIC_URL = "http://edge.test:4400"


def wait(what: str, check: Callable[[], T], seconds: float = 60) -> T:
    """The first true result of `check`; fails naming `what` after a generous time."""
    deadline = time.monotonic() + seconds
    while True:
        result = check()
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what} (last: {result!r})"
        time.sleep(0.05)


class Program:
    """One of our commands as a process, with its log in a file."""

    def __init__(self, command: list[str], environ: dict[str, str], log: Path) -> None:
        self._command = command
        self._environ = {k: v for k, v in os.environ.items() if not k.startswith("SWITCHGEAR_")} | environ
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(self._command, env=self._environ, stdout=out, stderr=out)

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


class Operator(Program):
    """The operator, with the rights of its ServiceAccount and no more."""

    def __init__(self, kube: Kube, folder: Path, *arguments: str, resync: float = 5) -> None:
        self.health_port = free_port()
        command = [sys.executable, "-m", "switchgear_operator", "--public-url", PUBLIC_URL]
        command += ["--health-port", str(self.health_port), "--resync-seconds", str(resync), *arguments]
        kubeconfig = kube.account_kubeconfig(labels.OPERATOR_ACCOUNT)
        super().__init__(command, {"KUBECONFIG": str(kubeconfig)}, folder / "operator.log")


class Edge(Program):
    """The edge, for its internal listener."""

    def __init__(self, kube: Kube, folder: Path) -> None:
        self.internal_port = free_port()
        key = folder / "region-key"
        with kube.api() as api:
            write_region_key(api, key)
        command = [sys.executable, "-m", "switchgear_edge", "--port", str(free_port())]
        command += ["--internal-port", str(self.internal_port), "--region-key-file", str(key)]
        kubeconfig = kube.account_kubeconfig(labels.EDGE_ACCOUNT)
        super().__init__(command, {"KUBECONFIG": str(kubeconfig)}, folder / "edge.log")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.internal_port}"


class PodStatus:
    """Says of every pod of ours that it is Ready, but for namespaces in `unready`."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.unready: set[str] = set()

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        with self._kube.api() as api:
            while not self._stop.wait(0.1):
                try:
                    for pod in api.list("v1", "Pod"):
                        self._tell(api, pod)
                except KubeError:
                    continue

    def _tell(self, api: KubeApi, pod: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        if metadata.get("labels", {}).get(labels.MANAGED_BY) != labels.MANAGED_BY_VALUE:
            return
        wanted = "False" if metadata["namespace"] in self.unready else "True"
        have = [c["status"] for c in pod.get("status", {}).get("conditions", []) if c["type"] == "Ready"]
        if have == [wanted] or metadata.get("deletionTimestamp"):
            return
        set_ready(api, pod, wanted)


def set_ready(api: KubeApi, pod: dict[str, Any], ready: str) -> None:
    """Writes a pod's status as a kubelet would."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    status = {
        "phase": "Running",
        "podIP": "127.0.0.1",
        "podIPs": [{"ip": "127.0.0.1"}],
        "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now}],
    }
    path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}/status"
    try:
        api.request("PATCH", path, {"status": status}, content_type="application/merge-patch+json")
    except KubeError as error:
        if error.status not in (404, 409):
            raise


class Space:
    """A namespace of a test and shorthands for what happens in it."""

    def __init__(self, kube: Kube, api: KubeApi, namespace: str) -> None:
        self.kube = kube
        self.api = api
        self.namespace = namespace

    def apply(self, kind: str, name: str, spec: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
        body = manifest(kind, name, self.namespace, spec or {})
        return self.api.apply(body | {"metadata": body["metadata"] | metadata})

    def kubectl(self, objects: list[dict[str, Any]], *arguments: str, check: bool = True) -> str:
        text = yaml.safe_dump_all(objects)
        return self.kube.kubectl("apply", "-f", "-", *arguments, stdin=text, check=check)

    def parents(self) -> None:
        self.apply("Workspace", "acme")
        self.apply("Project", "shop")
        self.apply("Environment", "prod", {"projectRef": {"name": "shop"}})

    def secret(self, name: str, **values: str) -> None:
        self.api.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": self.namespace},
                "stringData": values,
            }
        )

    def streams(self, name: str, **spec: Any) -> dict[str, Any]:
        return self.apply("StreamsService", name, {"environmentRef": {"name": "prod"}, **spec})

    def source(self, name: str, secret: str = "db", key: str = "url", **spec: Any) -> dict[str, Any]:
        database = {"urlSecretRef": {"name": secret, "key": key}}
        return self.apply("SyncSource", name, {"environmentRef": {"name": "prod"}, "database": database, **spec})

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        return self.api.get(API, kind, name, self.namespace)

    def state(self, kind: str, name: str) -> str | None:
        return ((self.get(kind, name) or {}).get("status") or {}).get("state")

    def condition(self, kind: str, name: str, type_: str = "Ready") -> dict[str, Any]:
        status = (self.get(kind, name) or {}).get("status") or {}
        return next((c for c in status.get("conditions", []) if c["type"] == type_), {})

    def reason(self, kind: str, name: str) -> str | None:
        return self.condition(kind, name).get("reason")

    def wait_state(self, kind: str, name: str, state: str, seconds: float = 60) -> dict[str, Any]:
        def check() -> bool:
            return self.state(kind, name) == state

        try:
            wait(f"{kind} {name} {state}", check, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {(self.get(kind, name) or {}).get('status')}") from None
        return (self.get(kind, name) or {})["status"]

    def wait_reason(self, kind: str, name: str, reason: str, seconds: float = 60) -> dict[str, Any]:
        def check() -> bool:
            return self.reason(kind, name) == reason

        try:
            wait(f"{kind} {name} {reason}", check, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {(self.get(kind, name) or {}).get('status')}") from None
        return self.condition(kind, name)

    def delete(self, kind: str, name: str) -> None:
        self.api.delete(API, kind, name, self.namespace)

    def wait_gone(self, kind: str, name: str, seconds: float = 60) -> None:
        try:
            wait(f"{kind} {name} gone", lambda: self.get(kind, name) is None, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {(self.get(kind, name) or {}).get('status')}") from None

    def children(self) -> list[str]:
        """What is left of anything ours makes, as "Kind name"."""
        found = []
        for version, kind in (
            ("v1", "Secret"),
            ("v1", "PersistentVolumeClaim"),
            ("v1", "Service"),
            ("v1", "Pod"),
            ("apps/v1", "StatefulSet"),
            ("networking.k8s.io/v1", "NetworkPolicy"),
        ):
            found += [f"{kind} {o['metadata']['name']}" for o in self.api.list(version, kind, self.namespace)]
        return sorted(one for one in found if " sg-" in one)

    def merge(self, kind: str, name: str, patch: dict[str, Any], version: str = API) -> dict[str, Any]:
        body = {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": self.namespace}}
        return self.api.request("PATCH", self.api.path(body), patch, content_type="application/merge-patch+json")
