"""RoleBindings that give operator and API the Secrets of one workspace namespace. Pure.

They carry our finalizer: deleting the namespace would else take away the rights that are needed to clean up.
"""

from __future__ import annotations

from switchgear_model import labels
from switchgear_operator.specs.common import Json

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
