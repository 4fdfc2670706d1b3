"""Where the Kubernetes API is and how to speak to it: from a kubeconfig, or from a pod's ServiceAccount.

Only lists and watches are read here, over the same small HTTP client that reaches the pods: a general client would
cost more memory than the rest of the edge. What it must not do: write, or keep credentials longer than one request.
"""

from __future__ import annotations

import base64
import ssl
import tempfile
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson

from switchgear_wire.upstream import Upstream, UpstreamResponse

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# One object of ours is a few kB; etcd's own limit is 1.5 MB.
MAX_LINE = 8 * 1_048_576
MAX_LIST = 256 * 1_048_576


class KubeConfigError(Exception):
    """The configuration cannot be used; the message says what to change."""


class KubeApiError(Exception):
    """The API server answered with an error status, or something that is no answer of a Kubernetes API."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status


@dataclass(frozen=True)
class Access:
    """How to reach one API server. `token` is a Bearer token, if that is how we identify ourselves."""

    host: str
    port: int
    prefix: str
    tls: ssl.SSLContext | None
    server_name: str | None = None
    token: str | None = field(default=None, repr=False)


def load(environ: Mapping[str, str]) -> Access:
    """KUBECONFIG if set, else the pod's ServiceAccount. Read anew for each connection, because tokens and ports change.

    Raises KubeConfigError.
    """
    try:
        if environ.get("KUBECONFIG"):
            return _from_kubeconfig(Path(environ["KUBECONFIG"]))
        host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise KubeConfigError("no Kubernetes API: set KUBECONFIG, or run in a pod with a ServiceAccount")
        context = ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt"))
        return Access(host, int(port), "", context, None, (_ACCOUNT / "token").read_text().strip())
    except (OSError, ValueError) as error:
        raise KubeConfigError(f"cannot read the Kubernetes configuration: {error}") from error


def _from_kubeconfig(path: Path) -> Access:
    import yaml  # not needed in a cluster, where memory counts

    try:
        config = yaml.safe_load(path.read_text())
        context = _named(config, "contexts", "context", config["current-context"])
        cluster = _named(config, "clusters", "cluster", context["cluster"])
        user = _named(config, "users", "user", context["user"]) if context.get("user") else {}
        server = urlsplit(cluster["server"])
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise KubeConfigError(f"{path} is no kubeconfig with a usable current-context: {error}") from error
    if "exec" in user or "auth-provider" in user:
        raise KubeConfigError(f"{path}: a user with a login plugin is not supported; give it a token or a certificate")
    if server.scheme not in ("http", "https") or not server.hostname:
        raise KubeConfigError(f"{path}: the server must be an http(s) URL, not {cluster['server']!r}")
    secure = server.scheme == "https"
    token = user.get("token")
    if token is None and user.get("tokenFile"):
        token = (path.parent / user["tokenFile"]).read_text().strip()
    return Access(
        host=server.hostname,
        port=server.port or (443 if secure else 80),
        prefix=server.path.rstrip("/"),
        tls=_tls(path.parent, cluster, user) if secure else None,
        server_name=cluster.get("tls-server-name"),
        token=token,
    )


def _named(config: Mapping[str, Any], section: str, key: str, name: str) -> dict[str, Any]:
    for entry in config[section]:
        if entry["name"] == name:
            found: dict[str, Any] = entry[key]
            return found
    raise KubeConfigError(f"the kubeconfig has no {key} {name!r} in {section}")


def _tls(base: Path, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> ssl.SSLContext:
    authority = _bytes(base, cluster, "certificate-authority")
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate, key = _bytes(base, user, "client-certificate"), _bytes(base, user, "client-key")
    if certificate and key:
        # The ssl module takes files only; this one is ours alone, and gone at once.
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            file.write(certificate + b"\n" + key)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _bytes(base: Path, entry: Mapping[str, Any], name: str) -> bytes | None:
    if entry.get(f"{name}-data"):
        return base64.b64decode(entry[f"{name}-data"])
    return (base / entry[name]).read_bytes() if entry.get(name) else None


class KubeReader:
    """One connection's worth of reading: made, used for a list and its watch, closed."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._http = Upstream(ssl=access.tls, server_hostname=access.server_name)

    async def list(
        self, path: str, query: Mapping[str, str], *, page_size: int = 500
    ) -> tuple[list[dict[str, Any]], str]:
        """All objects, page by page and each page at one version, and the resourceVersion to watch from.

        Raises KubeApiError, UpstreamError.
        """
        items: list[dict[str, Any]] = []
        more: dict[str, str] = {}
        while True:
            response = await self._get(path, {**query, "limit": str(page_size), **more}, 30.0)
            parts = []
            size = 0
            async for part in response.chunks():
                size += len(part)
                if size > MAX_LIST:
                    raise KubeApiError(0, f"the list of {path} is larger than {MAX_LIST} bytes")
                parts.append(part)
            page = _object(b"".join(parts))
            items += page.get("items") or []
            metadata = page.get("metadata") or {}
            token = metadata.get("continue")
            if not token:
                return items, str(metadata.get("resourceVersion", ""))
            more = {"continue": token}

    async def watch(
        self, path: str, query: Mapping[str, str], version: str, seconds: int
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The events after `version` until the server ends the watch, `seconds` at most. Raises KubeApiError,
        UpstreamError. A server that is gone without a word is noticed by TCP keep-alive."""
        asked = {
            **query,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        response = await self._get(path, asked, seconds + 15.0)
        rest = b""
        async for part in response.chunks():
            lines = (rest + part).split(b"\n")
            rest = lines.pop()
            if len(rest) > MAX_LINE:
                raise KubeApiError(0, "an event is too large")
            for line in lines:
                if line:
                    yield _object(line)

    async def _get(self, path: str, query: dict[str, str], body_timeout: float) -> UpstreamResponse:
        access = self._access
        headers = [
            (b"host", f"{access.host}:{access.port}".encode()),
            (b"accept", b"application/json"),
            (b"user-agent", b"switchgear-edge"),
        ]
        if access.token:
            headers.append((b"authorization", b"Bearer " + access.token.encode()))
        target = f"{access.prefix}{path}?{urlencode(query)}".encode()
        response = await self._http.request(
            access.host, access.port, "GET", target, headers, head_timeout=30.0, body_timeout=body_timeout
        )
        if response.status != 200:
            text = b""
            async for part in response.chunks():
                text += part
                if len(text) > 65_536:
                    response.abort()
                    break
            raise KubeApiError(response.status, _message(text))
        return response

    def close(self) -> None:
        self._http.close()


def _object(body: bytes) -> dict[str, Any]:
    try:
        made = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise KubeApiError(0, f"the answer is no JSON: {error}") from error
    if not isinstance(made, dict):
        raise KubeApiError(0, "the answer is no JSON object")
    return made


def _message(body: bytes) -> str:
    try:
        return str(_object(body).get("message", ""))[:500]
    except KubeApiError:
        return body[:200].decode("utf-8", "replace")
