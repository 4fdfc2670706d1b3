"""A Kubernetes API server as `apply` and `status` use it: discovery, server-side apply, list.

Which one: `--kubeconfig`, else the region of `--data-dir` or SWITCHGEAR_DATA_DIR, else KUBECONFIG, else the local
region in its usual place, else ~/.kube/config.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx2
from lightkube.config import client_adapter
from lightkube.config.kubeconfig import KubeConfig
from lightkube.core.exceptions import ConfigError

from switchgear_cli import region
from switchgear_cli.failures import GENERIC, NOT_FOUND, Failure, from_http

Json = dict[str, Any]
FIELD_MANAGER = "switchgear-cli"
_TIMEOUT = httpx2.Timeout(30.0, connect=5.0)
_PAGE = 500


class ClusterError(Failure):
    """The API server's refusal. `status` is the HTTP status, `reason` Kubernetes' word for it."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        failure = from_http(status, message)
        super().__init__(failure.exit_code, failure.message, failure.word)
        self.status = status
        self.reason = reason


class Cluster:
    """A connection to one API server. Use as a context manager."""

    def __init__(self, kubeconfig: Path) -> None:
        try:
            config = KubeConfig.from_file(kubeconfig).get()
            if config is None:
                raise ConfigError("no current context")
            self.server = config.cluster.server
            self.namespace = config.namespace
            params = client_adapter.ConnectionParams(timeout=_TIMEOUT, trust_env=False)
            self._http = client_adapter.Client(config, params)
        except (ConfigError, OSError, KeyError, ValueError, AssertionError) as error:
            raise Failure(GENERIC, f"The kubeconfig {kubeconfig} cannot be used: {error}") from error
        self._discovered: dict[str, list[Json]] = {}

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def path(self, api_version: str, kind: str, namespace: str | None, name: str | None = None) -> str:
        """The path of a collection or of one object, by discovery. Raises Failure for a kind that is not served."""
        root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        if root not in self._discovered:
            _, answer = self.call("GET", root, allow=(404,))
            self._discovered[root] = answer.get("resources") or []
        found = next((r for r in self._discovered[root] if r["kind"] == kind and "/" not in r["name"]), None)
        if found is None:
            message = f"The cluster has no kind {kind} in {api_version}: check the spelling, or apply its CRD first."
            raise ClusterError(404, "NotFound", message)
        parts = [root]
        if found["namespaced"] and namespace is not None:
            parts.append(f"namespaces/{quote(namespace, safe='')}")
        parts.append(found["name"])
        if name is not None:
            parts.append(quote(name, safe=""))
        return "/".join(parts)

    def is_namespaced(self, api_version: str, kind: str) -> bool:
        """Whether objects of this kind live in namespaces. Raises Failure for a kind that is not served."""
        return "/namespaces/" in self.path(api_version, kind, "x")

    def forget(self) -> None:
        """Discovers again: a CRD has been applied."""
        self._discovered.clear()

    def list_all(self, path: str) -> list[Json]:
        """All objects of a collection."""
        items: list[Json] = []
        params = {"limit": str(_PAGE)}
        while True:
            _, answer = self.call("GET", path, params=params)
            items.extend(answer.get("items") or [])
            following = (answer.get("metadata") or {}).get("continue")
            if not following:
                return items
            params["continue"] = following

    def find(self, path: str) -> Json | None:
        """One object, or None."""
        status, answer = self.call("GET", path, allow=(404,))
        return None if status == 404 else answer

    def apply(self, path: str, manifest: Json, *, force: bool, dry_run: bool) -> tuple[bool, Json]:
        """Server-side apply. Answers whether the object is new, and the object."""
        params = {"fieldManager": FIELD_MANAGER, "force": str(force).lower(), "fieldValidation": "Strict"}
        if dry_run:
            params["dryRun"] = "All"
        status, answer = self.call("PATCH", path, params=params, body=manifest)
        return status == 201, answer

    def call(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        body: Json | None = None,
        allow: tuple[int, ...] = (),
    ) -> tuple[int, Json]:
        """One call; a body is an apply configuration. Raises ClusterError, or Failure when there is no answer."""
        headers = {"Content-Type": "application/apply-patch+yaml"} if body is not None else {}
        content = None if body is None else json.dumps(body).encode()
        try:
            response = self._http.request(method, path, params=params or {}, content=content, headers=headers)
        except httpx2.HTTPError as error:
            message = f"The Kubernetes API at {self.server} cannot be reached. Is the region up (`switchgear up`)?"
            raise Failure(GENERIC, message, "UNAVAILABLE") from error
        try:
            answer = response.json()
        except ValueError:
            answer = {}
        answer = answer if isinstance(answer, dict) else {}
        if response.status_code >= 400 and response.status_code not in allow:
            message = str(answer.get("message") or f"The Kubernetes API answered {response.status_code}.")
            raise ClusterError(_status(response.status_code, message), str(answer.get("reason") or ""), message)
        return response.status_code, answer


def _status(status: int, message: str) -> int:
    """The API server answers 500 to an apply with a field that the schema does not have: that is the file's fault."""
    return 422 if status == 500 and "failed to create typed patch object" in message else status


def find(kubeconfig: Path | None, data_dir: Path | None) -> Path | None:
    """The kubeconfig to use, or None when there is no cluster to be found."""
    if kubeconfig is not None:
        if not kubeconfig.is_file():
            raise Failure(NOT_FOUND, f"There is no kubeconfig {kubeconfig}.")
        return kubeconfig
    if data_dir is not None or os.environ.get("SWITCHGEAR_DATA_DIR"):
        return region.kubeconfig(data_dir)
    named = os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    if named:
        if not Path(named).is_file():
            raise Failure(NOT_FOUND, f"KUBECONFIG names {named}, which does not exist.")
        return Path(named)
    try:
        local = region.find_kubeconfig(None)
    except Failure:
        local = None
    usual = Path.home() / ".kube" / "config"
    return local or (usual if usual.is_file() else None)


def connect(kubeconfig: Path | None, data_dir: Path | None) -> Cluster:
    """A connection to the cluster that is meant. Raises Failure (not found) when there is none."""
    found = find(kubeconfig, data_dir)
    if found is None:
        message = "There is no cluster: start a local region with `switchgear up`, or set KUBECONFIG."
        raise Failure(NOT_FOUND, message)
    return Cluster(found)
