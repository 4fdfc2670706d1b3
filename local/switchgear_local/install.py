"""What a Switchgear installation needs in the cluster before its processes start, and their kubeconfigs.

The same objects that the charts install: namespace, ServiceAccounts and RBAC of the model, and the region's key.
Invariants: a region key that exists is never replaced (every pod's key derives from it); each process gets the rights
of its own ServiceAccount and no more.
"""

from __future__ import annotations

import base64
import secrets
from pathlib import Path

from switchgear_model import labels, rbac

from . import node, pki
from .controlplane import ControlPlane
from .kubeapi import KubeApi, KubeError, Object, service_account_token
from .processes import write_private

TOKEN_SECONDS = 365 * 24 * 3600
ACCOUNTS = (labels.OPERATOR_ACCOUNT, labels.EDGE_ACCOUNT, labels.API_ACCOUNT)


def install(control_plane: ControlPlane, api: KubeApi, namespace: str = labels.SYSTEM_NAMESPACE) -> None:
    """Apply namespace, accounts and RBAC, make the region key, write each account's kubeconfig. Raises KubeError."""
    for obj in rbac.objects(namespace):
        api.apply(obj)
    ensure_region_key(api, namespace)
    for account in ACCOUNTS:
        account_kubeconfig(control_plane, api, account, namespace)


def install_node(control_plane: ControlPlane, api: KubeApi, namespace: str = labels.SYSTEM_NAMESPACE) -> Path:
    """Apply what the process node needs; returns the kubeconfig of its ServiceAccount. Raises KubeError."""
    for obj in [*node.rbac_objects(namespace), *node.bootstrap_objects()]:
        api.apply(obj)
    return account_kubeconfig(control_plane, api, node.SERVICE_ACCOUNT, namespace)


def account_kubeconfig(control_plane: ControlPlane, api: KubeApi, account: str, namespace: str) -> Path:
    """Write the kubeconfig of a ServiceAccount, with a token that is good for a year; returns its path."""
    token = service_account_token(api, namespace, account, TOKEN_SECONDS)
    path = control_plane.kubeconfig(account)
    pki.kubeconfig_with_token(path, control_plane.server, control_plane.ca, account, token, namespace)
    return path


def ensure_region_key(api: KubeApi, namespace: str = labels.SYSTEM_NAMESPACE) -> str:
    """The region's key (hex text), made when it is missing. Raises KubeError."""
    have = api.get("v1", "Secret", labels.REGION_KEY_SECRET, namespace)
    if have is None:
        value = secrets.token_hex(32)
        try:
            have = api.create(secret(labels.REGION_KEY_SECRET, namespace, {"key": value}))
        except KubeError as error:
            if error.status != 409:
                raise
            have = api.get("v1", "Secret", labels.REGION_KEY_SECRET, namespace) or {}
    return base64.b64decode(have["data"]["key"]).decode("ascii")


def write_region_key(api: KubeApi, path: Path, namespace: str = labels.SYSTEM_NAMESPACE) -> None:
    """Write the region's key to a private file, for the edge."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, ensure_region_key(api, namespace))


def secret(name: str, namespace: str, data: dict[str, str]) -> Object:
    """A Secret object with text values."""
    encoded = {key: base64.b64encode(value.encode()).decode("ascii") for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "data": encoded}
