"""A small synchronous Kubernetes client: objects as dictionaries, paths found by discovery.

Made for starting a region and for tests, where objects come from YAML; the operator and the edge use a typed client.
Must not: retry by itself (callers know what may be repeated), or put credentials into errors.
"""

from __future__ import annotations

import base64
import ssl
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml

from .errors import LocalError

Object = dict[str, Any]
FIELD_MANAGER = "switchgear-local"


class KubeError(LocalError):
    """The API server refused a request, or could not be reached (`status` 0)."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"Kubernetes API: {message}" + (f" ({status} {reason})" if status else ""))
        self.status = status
        self.reason = reason


class KubeApi:
    """A client for one API server, from a kubeconfig with embedded credentials. Not for several threads."""

    def __init__(self, kubeconfig: Path, timeout: float = 30.0) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        user = config["users"][0]["user"]
        self.server: str = cluster["server"]
        headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        self._http = httpx.Client(
            base_url=self.server, verify=_ssl_context(cluster, user), headers=headers, timeout=timeout, trust_env=False
        )
        self._resources: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ready(self) -> bool:
        """True when the API server's /readyz says ok."""
        try:
            return self._http.get("/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        """One request; the answer as a dictionary. Raises KubeError for anything but 2xx."""
        try:
            headers = {"Content-Type": content_type}
            answer = self._http.request(method, path, json=body, params=params, headers=headers)
        except httpx.HTTPError as error:
            raise KubeError(0, "Unreachable", f"{method} {path}: {type(error).__name__}: {error}") from error
        try:
            result: Object = answer.json()
        except ValueError:
            result = {"message": answer.text[:300]}
        if answer.status_code >= 300:
            raise KubeError(answer.status_code, str(result.get("reason", "")), str(result.get("message", "")))
        return result

    def path(self, obj: Mapping[str, Any], *, named: bool = True) -> str:
        """The URL path of an object (or, not `named`, of its collection), by its apiVersion, kind and metadata."""
        resource = self._resource(str(obj["apiVersion"]), str(obj["kind"]))
        base = _base(str(obj["apiVersion"]))
        metadata = obj.get("metadata", {})
        if resource["namespaced"]:
            base += f"/namespaces/{metadata.get('namespace', 'default')}"
        base += f"/{resource['name']}"
        return f"{base}/{metadata['name']}" if named else base

    def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """One object, or None when it does not exist."""
        try:
            return self.request("GET", self.path(_reference(api_version, kind, name, namespace)))
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    def list(self, api_version: str, kind: str, namespace: str | None = None) -> list[Object]:
        """All objects of a kind, in one namespace or in all."""
        resource = self._resource(api_version, kind)
        inside = f"/namespaces/{namespace}" if namespace else ""
        items: list[Object] = self.request("GET", f"{_base(api_version)}{inside}/{resource['name']}")["items"]
        return items

    def create(self, obj: Mapping[str, Any]) -> Object:
        """Create an object; KubeError 409 when it exists."""
        return self.request("POST", self.path(obj, named=False), dict(obj))

    def apply(self, obj: Mapping[str, Any]) -> Object:
        """Server-side apply, taking over conflicting fields."""
        params = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return self.request("PATCH", self.path(obj), dict(obj), params, "application/apply-patch+yaml")

    def delete(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> bool:
        """Start deleting an object; False when it does not exist."""
        try:
            self.request("DELETE", self.path(_reference(api_version, kind, name, namespace)))
        except KubeError as error:
            if error.status == 404:
                return False
            raise
        return True

    def _resource(self, api_version: str, kind: str) -> dict[str, Any]:
        key = f"{api_version}/{kind}"
        if key not in self._resources:
            for resource in self.request("GET", _base(api_version)).get("resources", []):
                if "/" not in resource["name"]:
                    self._resources[f"{api_version}/{resource['kind']}"] = resource
        if key not in self._resources:
            raise KubeError(404, "NotFound", f"the API server knows no {kind} in {api_version}")
        return self._resources[key]


def apply_crds(api: KubeApi, crds: list[Object], limit: float = 60.0) -> None:
    """Apply CustomResourceDefinitions and wait until each can be used. Raises KubeError."""
    for crd in crds:
        api.apply(crd)
    deadline = time.monotonic() + limit
    for crd in crds:
        name = crd["metadata"]["name"]
        while not (_established(api.get(crd["apiVersion"], crd["kind"], name)) and _served(api, crd)):
            if time.monotonic() > deadline:
                raise KubeError(0, "Timeout", f"the resource {name} was not established within {limit:.0f} s")
            time.sleep(0.05)


def service_account_token(api: KubeApi, namespace: str, name: str, seconds: int) -> str:
    """A token for a ServiceAccount, valid for `seconds`. Raises KubeError."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": seconds}}
    answer = api.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", body)
    token: str = answer["status"]["token"]
    return token


def _served(api: KubeApi, crd: Mapping[str, Any]) -> bool:
    """Established comes first; for a moment after it the storage still answers 404 or 429."""
    spec = crd["spec"]
    for version in spec["versions"]:
        try:
            path = f"/apis/{spec['group']}/{version['name']}/{spec['names']['plural']}"
            api.request("GET", path, params={"limit": "1"})
        except KubeError as error:
            if error.status in (404, 429):
                return False
            raise
    return True


def _established(crd: Object | None) -> bool:
    # A definition that is very new has `null` there.
    conditions = (crd or {}).get("status", {}).get("conditions") or []
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


def _base(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def _reference(api_version: str, kind: str, name: str, namespace: str | None) -> Object:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def _ssl_context(cluster: Mapping[str, str], user: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    if "client-certificate-data" in user:
        # The ssl module reads keys from files only; these are gone (and were never readable by others) at once.
        with tempfile.TemporaryDirectory(prefix="sg-kube-") as folder:
            cert, key = Path(folder) / "cert", Path(folder) / "key"
            cert.write_bytes(base64.b64decode(user["client-certificate-data"]))
            key.write_bytes(base64.b64decode(user["client-key-data"]))
            context.load_cert_chain(cert, key)
    return context
