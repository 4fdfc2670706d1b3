"""Where the API server is and how to prove who we are: a kubeconfig, or the pod's ServiceAccount.

Reads files only. Refuses what it cannot do (exec plugins, auth providers) with the way out, instead of
connecting without credentials.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class KubeConfigError(Exception):
    """The kubeconfig cannot be used; the text says why and what to do."""


@dataclass(frozen=True)
class KubeConfig:
    """Address and credentials. `token_file` is read again from time to time, because tokens are renewed in place."""

    server: str
    ca_data: bytes | None = None
    insecure: bool = False
    server_name: str | None = None
    client_certificate: bytes | None = field(default=None, repr=False)
    client_key: bytes | None = field(default=None, repr=False)
    token_value: str | None = field(default=None, repr=False)
    token_file: Path | None = None

    def token(self) -> str | None:
        """The Bearer token as it is now, or None."""
        if self.token_file is not None:
            return self.token_file.read_text(encoding="utf-8").strip()
        return self.token_value

    def ssl_context(self) -> ssl.SSLContext | None:
        """TLS for this server; None for plain http."""
        if not self.server.startswith("https://"):
            return None
        context = ssl.create_default_context(cadata=self.ca_data.decode() if self.ca_data else None)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.client_certificate and self.client_key:
            # The ssl module loads chains from files only.
            with tempfile.TemporaryDirectory() as folder:
                chain = Path(folder, "client.pem")
                chain.touch(mode=0o600)
                chain.write_bytes(self.client_certificate + b"\n" + self.client_key)
                context.load_cert_chain(chain)
        return context


def load() -> KubeConfig:
    """From ``KUBECONFIG``, else the pod's ServiceAccount, else ``~/.kube/config``. Raises `KubeConfigError`."""
    named = os.environ.get("KUBECONFIG")
    if named:
        return from_file(Path(named.split(os.pathsep)[0]))
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    if host and (_ACCOUNT / "token").exists():
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        address = f"[{host}]" if ":" in host else host
        return KubeConfig(
            server=f"https://{address}:{port}",
            ca_data=(_ACCOUNT / "ca.crt").read_bytes(),
            token_file=_ACCOUNT / "token",
        )
    home = Path.home() / ".kube" / "config"
    if home.exists():
        return from_file(home)
    raise KubeConfigError("no Kubernetes API found: set KUBECONFIG to a kubeconfig file, or run in a cluster")


def from_file(path: Path) -> KubeConfig:
    """Reads the current context of one kubeconfig file. Raises `KubeConfigError`."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KubeConfigError(f"kubeconfig {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise KubeConfigError(f"kubeconfig {path}: not YAML") from error
    if not isinstance(raw, dict):
        raise KubeConfigError(f"kubeconfig {path}: empty or not an object")
    context = _named(raw, "contexts", raw.get("current-context"), "context", path)
    cluster = _named(raw, "clusters", context.get("cluster"), "cluster", path)
    user = _named(raw, "users", context.get("user"), "user", path)
    if "exec" in user or "auth-provider" in user:
        raise KubeConfigError(
            f"kubeconfig {path}: exec plugins and auth providers are not supported here; "
            "use a client certificate or a ServiceAccount's token"
        )
    server = cluster.get("server")
    if not server:
        raise KubeConfigError(f"kubeconfig {path}: the cluster has no server")
    base = path.parent
    token_file = user.get("tokenFile")
    return KubeConfig(
        server=str(server).rstrip("/"),
        ca_data=_data(cluster, "certificate-authority", base, path),
        insecure=bool(cluster.get("insecure-skip-tls-verify", False)),
        server_name=cluster.get("tls-server-name"),
        client_certificate=_data(user, "client-certificate", base, path),
        client_key=_data(user, "client-key", base, path),
        token_value=user.get("token"),
        token_file=base / token_file if token_file else None,
    )


def _named(raw: dict[str, Any], plural: str, name: Any, singular: str, path: Path) -> dict[str, Any]:
    for entry in raw.get(plural) or []:
        if isinstance(entry, dict) and entry.get("name") == name:
            value = entry.get(singular)
            return value if isinstance(value, dict) else {}
    raise KubeConfigError(f"kubeconfig {path}: no {singular} named {name!r}")


def _data(entry: dict[str, Any], key: str, base: Path, path: Path) -> bytes | None:
    inline = entry.get(f"{key}-data")
    try:
        if inline:
            return base64.b64decode(inline, validate=True)
        if entry.get(key):
            return (base / str(entry[key])).read_bytes()
    except (OSError, binascii.Error) as error:
        raise KubeConfigError(f"kubeconfig {path}: {key} cannot be read") from error
    return None
