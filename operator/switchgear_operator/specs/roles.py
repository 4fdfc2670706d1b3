"""RoleBindings that give operator and API the Secrets of one workspace namespace. Pure.

They carry our finalizer: deleting the namespace would else take away the rights that are needed to clean up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from switchgear_model import labels
from switchgear_operator.specs.common import Json, drifted

_GROUP = "rbac.authorization.k8s.io"
ACCOUNTS = {
    labels.OPERATOR_SECRETS_ROLE: labels.OPERATOR_ACCOUNT,
    labels.API_SECRETS_ROLE: labels.API_ACCOUNT,
}


def binding(role: str, namespace: str, system_namespace: str) -> Json:
    """The binding of one of the two Secrets roles in a workspace's namespace; it has the role's name."""
    return {
        "apiVersion": f"{_GROUP}/v1",
        "kind": "RoleBinding",
        "metadata": {
            "name": role,
            "namespace": namespace,
            "labels": {labels.MANAGED_BY: labels.MANAGED_BY_VALUE},
            "finalizers": [labels.FINALIZER],
        },
        "roleRef": {"apiGroup": _GROUP, "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNTS[role], "namespace": system_namespace}],
    }


def differs(desired: Json, live: Mapping[str, Any]) -> bool:
    """Whether a binding must be written. One that is being deleted keeps granting until we let it go."""
    if live["metadata"].get("deletionTimestamp") is not None:
        return False
    held = labels.FINALIZER in (live["metadata"].get("finalizers") or [])
    rest = desired | {"metadata": {k: v for k, v in desired["metadata"].items() if k != "finalizers"}}
    return not held or drifted(rest, live)
