"""Who may do what: ServiceAccounts, roles and bindings of operator, edge and API, and roles for people.

Verbs are enumerated and Secrets are never listed or watched: the operator and the API get the rights to
Secrets one workspace namespace at a time, by RoleBindings that the operator adds (it may ``bind`` exactly
those two ClusterRoles, and so needs no ``escalate``).
"""

from __future__ import annotations

from typing import Any

from switchgear_model import labels
from switchgear_model.kinds import KINDS
from switchgear_model.labels import GROUP

_RBAC = "rbac.authorization.k8s.io"
_OURS = [info.plural for info in KINDS.values()]
_SERVICES = [info.plural for info in KINDS.values() if info.is_service]
_LABELS = {labels.MANAGED_BY: labels.MANAGED_BY_VALUE}


def _rule(groups: str, resources: list[str], verbs: list[str], names: list[str] | None = None) -> dict[str, Any]:
    rule: dict[str, Any] = {"apiGroups": [groups], "resources": resources, "verbs": verbs}
    if names:
        rule["resourceNames"] = names
    return rule


def _cluster_role(name: str, rules: list[dict[str, Any]], **extra_labels: str) -> dict[str, Any]:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name, "labels": _LABELS | extra_labels},
        "rules": rules,
    }


def _subject(account: str, namespace: str) -> dict[str, str]:
    return {"kind": "ServiceAccount", "name": account, "namespace": namespace}


def _cluster_binding(role: str, account: str, namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": role, "labels": _LABELS},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [_subject(account, namespace)],
    }


def _operator_rules() -> list[dict[str, Any]]:
    child = ["get", "list", "watch", "create", "patch", "delete"]
    return [
        _rule(GROUP, _OURS, ["get", "list", "watch", "patch", "delete"]),
        _rule(GROUP, [f"{plural}/status" for plural in _OURS], ["patch"]),
        # Needed where the admission plugin OwnerReferencesPermissionEnforcement is on.
        _rule(GROUP, [f"{plural}/finalizers" for plural in _SERVICES], ["update"]),
        _rule("apps", ["statefulsets"], child),
        _rule("", ["services", "persistentvolumeclaims"], child),
        _rule("networking.k8s.io", ["networkpolicies"], child),
        _rule("", ["pods"], ["get", "list", "watch", "delete"]),
        _rule("", ["namespaces"], ["get", "list", "watch"]),
        _rule("apiextensions.k8s.io", ["customresourcedefinitions"], ["list", "watch"]),
        _rule("events.k8s.io", ["events"], ["create"]),
        _rule(_RBAC, ["rolebindings"], child),
        _rule(_RBAC, ["clusterroles"], ["bind"], [labels.OPERATOR_SECRETS_ROLE, labels.API_SECRETS_ROLE]),
    ]


def objects(namespace: str = labels.SYSTEM_NAMESPACE) -> list[dict[str, Any]]:
    """Everything to apply, in order, the namespace of the installation first."""
    accounts = [labels.OPERATOR_ACCOUNT, labels.EDGE_ACCOUNT, labels.API_ACCOUNT]
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": namespace,
                "labels": _LABELS | {"pod-security.kubernetes.io/enforce": "restricted"},
            },
        },
        *(
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": account, "namespace": namespace, "labels": _LABELS},
            }
            for account in accounts
        ),
        _cluster_role(labels.OPERATOR_ACCOUNT, _operator_rules()),
        _cluster_role(labels.OPERATOR_SECRETS_ROLE, [_rule("", ["secrets"], ["get", "create", "patch", "delete"])]),
        _cluster_role(
            labels.EDGE_ACCOUNT,
            [_rule(GROUP, _SERVICES, ["get", "list", "watch"]), _rule("", ["pods"], ["get", "list", "watch"])],
        ),
        _cluster_role(
            labels.API_ACCOUNT,
            [
                _rule(GROUP, _OURS, ["get", "list", "watch", "create", "patch", "delete"]),
                _rule("", ["namespaces"], ["get", "list", "create"]),
            ],
        ),
        _cluster_role(labels.API_SECRETS_ROLE, [_rule("", ["secrets"], ["get", "create", "patch", "delete"])]),
        *(_cluster_binding(account, account, namespace) for account in accounts),
        *_operator_namespace_objects(namespace),
        *_people(),
    ]


def _operator_namespace_objects(namespace: str) -> list[dict[str, Any]]:
    metadata = {"name": labels.OPERATOR_ACCOUNT, "namespace": namespace, "labels": _LABELS}
    return [
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": [
                _rule("", ["secrets"], ["get"], [labels.REGION_KEY_SECRET]),
                # A create cannot be limited to a name.
                _rule("", ["secrets"], ["create"]),
            ],
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": labels.OPERATOR_ACCOUNT},
            "subjects": [_subject(labels.OPERATOR_ACCOUNT, namespace)],
        },
    ]


def _people() -> list[dict[str, Any]]:
    """Roles that add our kinds to Kubernetes' own view and edit. Status is written by the operator alone."""
    view = {f"{_RBAC}/aggregate-to-view": "true", f"{_RBAC}/aggregate-to-edit": "true"}
    edit = {f"{_RBAC}/aggregate-to-edit": "true"}
    return [
        _cluster_role("switchgear-view", [_rule(GROUP, _OURS, ["get", "list", "watch"])], **view),
        _cluster_role("switchgear-edit", [_rule(GROUP, _OURS, ["create", "update", "patch", "delete"])], **edit),
    ]
