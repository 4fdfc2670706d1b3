"""A real `switchgear-api` process on the real API server, with the rights of its own ServiceAccount only."""

from __future__ import annotations

import base64
import os
import secrets
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from switchgear_model import credentials, ids, labels
from tests.support.kube import Kube

PROGRAM = Path(sys.executable).parent / "switchgear-api"
PASSWORD = "hunter2-" + secrets.token_hex(8)
DATABASE_URL = f"postgresql://someone:{PASSWORD}@db.example:5432/app?sslmode=require"


@dataclass
class ApiServer:
    """The process, and an HTTP client with its token."""

    kube: Kube
    url: str
    token: str
    token_file: Path
    log_path: Path
    process: subprocess.Popen[bytes]
    http: httpx.Client = field(repr=False)

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def ok(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        """The JSON of a call that must answer `status`."""
        answer = self.http.request(method, path, **more)
        assert answer.status_code == status, (answer.status_code, answer.text)
        return answer.json()

    def workspace(self) -> Workspace:
        """A new workspace with the project `app`, and the role binding that the operator would add."""
        name = f"ws-{uuid.uuid4().hex[:8]}"
        self.ok("POST", "/v1/workspaces", 201, json={"name": name})
        grant(self.kube, name)
        workspace = Workspace(self, name)
        workspace.ok("POST", "/projects", 201, json={"name": "app"})
        return workspace


@dataclass(frozen=True)
class Workspace:
    """Calls below one workspace."""

    server: ApiServer
    name: str

    @property
    def path(self) -> str:
        return f"/v1/workspaces/{self.name}"

    def ok(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        return self.server.ok(method, self.path + path, status, **more)

    def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        return self.server.http.request(method, self.path + path, **more)

    def environment(self, name: str = "production") -> str:
        """A new environment; its id."""
        made = self.ok("POST", "/environments", 201, json={"name": name, "projectRef": {"name": "app"}})
        return str(made["id"])


def grant(kube: Kube, namespace: str) -> None:
    """The role binding with which the operator lets the API at a workspace's Secrets."""
    subject = {"kind": "ServiceAccount", "name": labels.API_ACCOUNT, "namespace": labels.SYSTEM_NAMESPACE}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": labels.API_SECRETS_ROLE}
    with kube.api() as api:
        api.apply(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": {"name": labels.API_SECRETS_ROLE, "namespace": namespace},
                "roleRef": reference,
                "subjects": [subject],
            }
        )


def give_secret(kube: Kube, kind: str, namespace: str, name: str, owner_uid: str | None = None) -> str:
    """A service secret and the status that names it, as the operator writes them; the secret."""
    with kube.api() as api:
        service = api.get(labels.API_VERSION, kind, name, namespace)
        assert service is not None
        own = service["spec"].get("serviceId") or ids.service_id(service["metadata"]["uid"])
        value = f"secret-{secrets.token_hex(16)}"
        api.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {
                    "name": ids.child_name(own),
                    "namespace": namespace,
                    "labels": {labels.OWNER_UID: owner_uid or service["metadata"]["uid"]},
                },
                "data": {labels.SERVICE_SECRET_KEY: base64.b64encode(value.encode()).decode()},
            }
        )
        status = {
            "observedGeneration": service["metadata"]["generation"],
            "state": "active",
            "conditions": [
                {"type": "Ready", "status": "True", "reason": "Active", "lastTransitionTime": "2026-11-23T00:00:00Z"}
            ],
            "serviceId": own,
            "url": f"http://127.0.0.1:4400/v1/{own}",
            "secretRef": {"name": ids.child_name(own), "key": labels.SERVICE_SECRET_KEY},
            "secretHashes": [{"sha256": credentials.sha256_hex(value)}],
        }
        path = api.path(service) + "/status"
        api.request("PATCH", path, {"status": status}, content_type="application/merge-patch+json")
    return value


def start(kube: Kube, folder: Path, kubeconfig: Path | None = None) -> ApiServer:
    """Starts the process and waits until it serves."""
    token = secrets.token_urlsafe(32)
    token_file, log_path = folder / "admin-token", folder / "api.log"
    token_file.write_text(token + "\n")
    token_file.chmod(0o600)
    environment = dict(os.environ, KUBECONFIG=str(kubeconfig or kube.account_kubeconfig(labels.API_ACCOUNT)))
    with log_path.open("wb") as log:
        arguments = [PROGRAM, "--port", "0", "--admin-token-file", token_file]
        process = subprocess.Popen(arguments, env=environment, stderr=log, stdout=log)
    try:
        deadline = time.monotonic() + 90
        while "running on " not in log_path.read_text():
            assert process.poll() is None, log_path.read_text()
            assert time.monotonic() < deadline, log_path.read_text()
            time.sleep(0.05)
    except BaseException:
        process.kill()
        process.wait()
        raise
    url = log_path.read_text().partition("running on ")[2].split()[0]
    http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=90, trust_env=False)
    return ApiServer(kube, url, token, token_file, log_path, process, http)


def stop(server: ApiServer) -> int:
    """SIGTERM; the exit status."""
    server.http.close()
    server.process.send_signal(signal.SIGTERM)
    try:
        return server.process.wait(60)
    finally:
        server.process.kill()


@pytest.fixture(scope="session")
def api_server(kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One API process for a whole test process. Its log must never hold a token or a database password."""
    server = start(kube, tmp_path_factory.mktemp("api"))
    try:
        yield server
    finally:
        status = stop(server)
    assert status == 0, server.log
    assert PASSWORD not in server.log
    assert server.token not in server.log
    assert "Traceback" not in server.log, server.log


@pytest.fixture
def workspace(api_server: ApiServer) -> Workspace:
    return api_server.workspace()
