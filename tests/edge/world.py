"""What the tests play: the operator (objects, status), the node (pods, readiness) and the servers in the pods."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from switchgear_local.kubeapi import KubeApi, KubeError
from switchgear_model import kinds, labels
from switchgear_model.credentials import edge_internal_key, new_region_key, new_service_secret, pod_key, sha256_hex
from switchgear_wire import AnyResponse, Request, Response, Server, serve
from tests.support.kube import Kube

HOST = "127.0.0.1"
REGION_KEY = new_region_key().encode()
Answer = Callable[[Request], AnyResponse | Awaitable[AnyResponse]]


@dataclass
class Seen:
    """One request as the pod got it."""

    method: str
    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""

    def get(self, name: bytes) -> bytes | None:
        return next((v for n, v in self.headers if n == name), None)


@dataclass
class Pod:
    """A pod's server on loopback, which notes what it gets. `answer` may be replaced at any time."""

    answer: Answer
    server: Server | None = None
    seen: list[Seen] = field(default_factory=list)
    gone: int = 0

    @property
    def port(self) -> int:
        assert self.server is not None
        return self.server.port

    def handle(self, request: Request) -> AnyResponse | Awaitable[AnyResponse]:
        self.seen.append(Seen(request.method, request.path, request.query, list(request.header_list)))
        request.on_close(self._left)
        return self.answer(request)

    def _left(self) -> None:
        self.gone += 1


async def start_pod(answer: Answer = lambda r: Response(200, b"", b"ok"), port: int = 0) -> Pod:
    pod = Pod(answer)
    pod.server = await serve(pod.handle, HOST, port)
    return pod


@dataclass
class Service:
    """A service object in the API server with its secret."""

    kind: str
    namespace: str
    name: str
    uid: str
    service_id: str
    secret: str

    @property
    def pod_key(self) -> str:
        return pod_key(REGION_KEY, self.service_id)

    def shape(self, query: str = "table=t&offset=-1") -> str:
        return f"/v1/shape?{query}&source_id={self.service_id}&secret={self.secret}"

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}


class World:
    """Writes what the operator and the node would write."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube
        self.api: KubeApi = kube.api()
        self.namespace = kube.new_namespace("edge")

    def service(self, kind: str = kinds.SYNC_SOURCE, *, service_id: str | None = None, **status: Any) -> Service:
        name = f"s{uuid.uuid4().hex[:8]}"
        spec: dict[str, Any] = {"environmentRef": {"name": "e"}, "storage": {"size": "1Gi"}}
        if kind == kinds.SYNC_SOURCE:
            spec["database"] = {"urlSecretRef": {"name": "db", "key": "url"}}
        made = self.api.create(kinds.manifest(kind, name, self.namespace, spec))
        service_id = service_id or f"svc-test-{uuid.uuid4().hex[:10]}"
        secret = new_service_secret(service_id, datetime.now(UTC))
        service = Service(kind, self.namespace, name, made["metadata"]["uid"], service_id, secret)
        self.status(service, **{"state": "active", "secretHashes": [{"sha256": sha256_hex(secret)}], **status})
        return service

    def status(self, service: Service, **status: Any) -> None:
        """Merge into the status."""
        path = self._path(service) + "/status"
        body = {"status": {"serviceId": service.service_id, **status}}
        self.api.request("PATCH", path, body, None, "application/merge-patch+json")

    def patch(self, service: Service, body: dict[str, Any]) -> None:
        self.api.request("PATCH", self._path(service), body, None, "application/merge-patch+json")

    def delete(self, service: Service) -> None:
        self.api.request("DELETE", self._path(service))

    def _path(self, service: Service) -> str:
        return self.api.path(_ref(service.kind, service.namespace, service.name))

    def pod(
        self, service: Service, port: int, *, ready: bool = True, namespace: str | None = None, **extra: str
    ) -> str:
        """A pod of the service in the API server; its name."""
        name = f"p{uuid.uuid4().hex[:8]}"
        namespace = namespace or service.namespace
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {
                    labels.MANAGED_BY: labels.MANAGED_BY_VALUE,
                    labels.SERVICE_ID: service.service_id,
                    labels.OWNER_UID: service.uid,
                    **extra,
                },
            },
            "spec": {
                "automountServiceAccountToken": False,
                "containers": [
                    {"name": "c", "image": "x/x:1", "ports": [{"name": "http", "containerPort": port}]},
                ],
            },
        }
        deadline = time.monotonic() + 60
        while True:
            try:
                self.api.create(pod)
                break
            except KubeError as error:  # the namespace's default ServiceAccount comes a moment later
                if error.status != 403 or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self.pod_status(name, namespace, ready=ready)
        return name

    def pod_status(self, name: str, namespace: str | None = None, *, ready: bool) -> None:
        status = {
            "phase": "Running",
            "podIP": HOST,
            "podIPs": [{"ip": HOST}],
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        }
        path = f"/api/v1/namespaces/{namespace or self.namespace}/pods/{name}/status"
        self.api.request("PATCH", path, {"status": status}, None, "application/merge-patch+json")

    def delete_pod(self, name: str, namespace: str | None = None) -> None:
        path = f"/api/v1/namespaces/{namespace or self.namespace}/pods/{name}"
        self.api.request("DELETE", path, None, {"gracePeriodSeconds": "0"})

    def close(self) -> None:
        self.api.close()


def _ref(kind: str, namespace: str, name: str) -> dict[str, Any]:
    return {"apiVersion": labels.API_VERSION, "kind": kind, "metadata": {"namespace": namespace, "name": name}}


class EdgeProcess:
    """A real `switchgear-edge` process. `log` is everything it wrote."""

    def __init__(self, folder: Path, kubeconfig: Path, *flags: str) -> None:
        key_file = folder / f"region-{uuid.uuid4().hex}.key"
        key_file.write_bytes(REGION_KEY + b"\n")
        self.log_file = folder / f"edge-{uuid.uuid4().hex}.log"
        command = [sys.executable, "-m", "switchgear_edge", "--port", "0", "--internal-port", "0"]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--region-key-file", str(key_file), *flags],
                stdout=log,
                stderr=log,
                env={**os.environ, "KUBECONFIG": str(kubeconfig)},
            )
        self.port = self.internal_port = 0

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def internal_url(self) -> str:
        return f"http://{HOST}:{self.internal_port}"

    def wait_listening(self) -> None:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self.process.poll() is None:
            found = re.search(r"listening on \S+:(\d+), internal on (\d+)", self.log)
            if found:
                self.port, self.internal_port = int(found[1]), int(found[2])
                return
            time.sleep(0.02)
        raise AssertionError(f"the edge does not listen:\n{self.log}")

    def ready(self) -> bool:
        return httpx.get(f"{self.internal_url}/ready", trust_env=False).status_code == 200

    def wait_ready(self) -> None:
        self.wait_listening()
        wait(self.ready)

    def service(self, service_id: str) -> dict[str, Any] | None:
        """What the edge tells the operator of a service."""
        headers = {"Authorization": f"Bearer {edge_internal_key(REGION_KEY)}"}
        answer = httpx.get(f"{self.internal_url}/internal/services/{service_id}", headers=headers, trust_env=False)
        return dict(answer.json()) if answer.status_code == 200 else None

    def wait_route(self, service: Service, *, ready: bool = True) -> None:
        wait(lambda: (self.service(service.service_id) or {}).get("podReady") is ready)

    def metrics(self) -> str:
        return httpx.get(f"{self.internal_url}/metrics", trust_env=False).text

    def memory(self) -> int:
        """Resident bytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) * 1024  # type: ignore[index]

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def wait(condition: Callable[[], bool], limit: float = 60.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


async def until(condition: Callable[[], bool], limit: float = 60.0) -> None:
    async with asyncio.timeout(limit):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def raw(port: int, data: bytes) -> bytes:
    """Everything that comes back until the edge closes; `data` should ask for `connection: close`."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 60)
    finally:
        writer.close()


def code(answer: httpx.Response) -> str:
    return str(json.loads(answer.content)["code"])
