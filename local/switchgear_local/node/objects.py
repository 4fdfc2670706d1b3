"""The Kubernetes objects that the process node makes or needs. Pure: facts in, dictionaries out.

Invariant: the ClusterRole enumerates every verb; Secrets and ConfigMaps can be read by name only, never listed.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from switchgear_model import labels

Object = dict[str, Any]

NODE_NAME: Final = "switchgear-local"
STORAGE_CLASS: Final = "switchgear-local"
SERVICE_ACCOUNT: Final = "switchgear-node"
PROVISIONER: Final = "switchgear.dev/process-node"
VOLUME_FINALIZER: Final = "switchgear.dev/local-volume"
TAINT: Final = labels.PROCESS_NODE_TAINT
NODE_LABEL: Final = "switchgear.dev/process-node"
LEASE_NAMESPACE: Final = "kube-node-lease"
LEASE_SECONDS: Final = 40
MAX_PODS: Final = 250

_RBAC = "rbac.authorization.k8s.io"
_ROLE = "switchgear-node"
_LABELS = {labels.MANAGED_BY: labels.MANAGED_BY_VALUE, labels.APP_NAME: SERVICE_ACCOUNT}
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class NodeFacts:
    """What the node reports about its machine. Memory and disk in bytes."""

    name: str
    host_ip: str
    logs_port: int
    cpus: int
    memory: int
    disk: int
    boot_id: str
    machine_id: str
    kernel: str
    version: str


def architecture() -> str:
    """The machine's architecture in Go's words."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def bootstrap_objects() -> list[Object]:
    """What an administrator applies once: the default StorageClass."""
    return [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": STORAGE_CLASS,
                "labels": _LABELS,
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": PROVISIONER,
            "reclaimPolicy": "Delete",
            "volumeBindingMode": "Immediate",
            "allowVolumeExpansion": False,
        }
    ]


def rbac_objects(namespace: str = labels.SYSTEM_NAMESPACE, node_name: str = NODE_NAME) -> list[Object]:
    """The node's identity and rights: ServiceAccount in `namespace`, ClusterRole, lease Role, and bindings."""
    subject = {"kind": "ServiceAccount", "name": SERVICE_ACCOUNT, "namespace": namespace}
    lease_rules = [
        _rule("coordination.k8s.io", ["leases"], ["create"]),
        _rule("coordination.k8s.io", ["leases"], ["get", "patch"], [node_name]),
    ]
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": SERVICE_ACCOUNT, "namespace": namespace, "labels": _LABELS},
            "automountServiceAccountToken": False,
        },
        _role("ClusterRole", _cluster_rules(node_name)),
        _role("ClusterRoleBinding", None, subject, "ClusterRole"),
        _role("Role", lease_rules, namespace=LEASE_NAMESPACE),
        _role("RoleBinding", None, subject, "Role", namespace=LEASE_NAMESPACE),
    ]


def _cluster_rules(node_name: str) -> list[Object]:
    return [
        _rule("", ["nodes"], ["create"]),
        _rule("", ["nodes"], ["get", "patch"], [node_name]),
        _rule("", ["nodes/status"], ["patch"], [node_name]),
        _rule("", ["pods"], ["list", "watch", "delete"]),
        _rule("", ["pods/status"], ["patch"]),
        _rule("", ["pods/binding"], ["create"]),
        _rule("", ["secrets", "configmaps"], ["get"]),
        _rule("", ["persistentvolumeclaims"], ["list", "watch"]),
        _rule("", ["persistentvolumes"], ["list", "watch", "create", "patch", "delete"]),
        _rule("", ["events"], ["create"]),
    ]


def _rule(group: str, resources: list[str], verbs: list[str], names: list[str] | None = None) -> Object:
    rule: Object = {"apiGroups": [group], "resources": resources, "verbs": verbs}
    return rule | {"resourceNames": names} if names else rule


def _role(
    kind: str,
    rules: list[Object] | None,
    subject: Object | None = None,
    role_kind: str = "",
    namespace: str | None = None,
) -> Object:
    metadata: Object = {"name": _ROLE, "labels": _LABELS}
    if namespace:
        metadata["namespace"] = namespace
    obj: Object = {"apiVersion": f"{_RBAC}/v1", "kind": kind, "metadata": metadata}
    if rules is not None:
        obj["rules"] = rules
    if subject is not None:
        obj["roleRef"] = {"apiGroup": _RBAC, "kind": role_kind, "name": _ROLE}
        obj["subjects"] = [subject]
    return obj


def node_labels(name: str) -> dict[str, str]:
    """The labels of the Node object, which a pod's nodeSelector may name."""
    return {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": architecture(),
        NODE_LABEL: "true",
    }


def node(name: str) -> Object:
    """The Node to create: only pods that tolerate the taint are meant for it."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": node_labels(name)},
        "spec": {"taints": [{"key": TAINT, "value": "", "effect": "NoSchedule"}]},
    }


def node_status(facts: NodeFacts, now: str, previous: Mapping[str, Any]) -> Object:
    """The Node's status at `now` (RFC 3339), keeping the transition times of `previous`."""
    capacity = {
        "cpu": str(facts.cpus),
        "memory": f"{facts.memory // 1024}Ki",
        "ephemeral-storage": f"{facts.disk // 1024}Ki",
        "pods": str(MAX_PODS),
    }
    return {
        "capacity": capacity,
        "allocatable": capacity,
        "addresses": [
            {"type": "InternalIP", "address": facts.host_ip},
            {"type": "Hostname", "address": facts.name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": facts.logs_port}},
        "conditions": _node_conditions(now, previous.get("conditions") or ()),
        "nodeInfo": {
            "machineID": facts.machine_id,
            "systemUUID": facts.machine_id,
            "bootID": facts.boot_id,
            "kernelVersion": facts.kernel,
            "osImage": "Linux",
            "containerRuntimeVersion": f"processes://{facts.version}",
            "kubeletVersion": f"v{facts.version}-switchgear",
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": architecture(),
        },
    }


_CONDITIONS = (
    ("MemoryPressure", "False", "ProcessNodeHasSufficientMemory", "memory is not watched by the process node"),
    ("DiskPressure", "False", "ProcessNodeHasNoDiskPressure", "disk space is not watched by the process node"),
    ("PIDPressure", "False", "ProcessNodeHasSufficientPID", "process ids are not watched by the process node"),
    ("Ready", "True", "ProcessNodeReady", "the process node is running"),
)


def _node_conditions(now: str, previous: Iterable[Mapping[str, Any]]) -> list[Object]:
    before = {condition["type"]: condition for condition in previous}
    result = []
    for kind, status, reason, message in _CONDITIONS:
        old = before.get(kind, {})
        since = old.get("lastTransitionTime", now) if old.get("status") == status else now
        result.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": now,
                "lastTransitionTime": since,
            }
        )
    return result


def lease(name: str, now_micro: str) -> Object:
    """The node's Lease, renewed at `now_micro` (RFC 3339 with microseconds)."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": LEASE_NAMESPACE},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now_micro},
    }


def binding(pod: Mapping[str, Any], node_name: str) -> Object:
    """The binding of a pod to this node; the uid makes it fail for a namesake that came later."""
    metadata = pod["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"]},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node_name},
    }


def volume_name(claim_uid: str) -> str:
    """The name of the volume, and of its directory, for a claim."""
    return f"pvc-{claim_uid}"


def volume(claim: Mapping[str, Any], node_name: str, directory: str) -> Object:
    """The PersistentVolume for a claim of our class, bound to exactly that claim."""
    metadata, spec = claim["metadata"], claim["spec"]
    hostname = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node_name]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": volume_name(metadata["uid"]),
            "labels": _LABELS,
            # With this annotation the controller manager leaves deleting to us.
            "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER},
            "finalizers": [VOLUME_FINALIZER],
        },
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "volumeMode": "Filesystem",
            "storageClassName": STORAGE_CLASS,
            "persistentVolumeReclaimPolicy": "Delete",
            "hostPath": {"path": directory, "type": "DirectoryOrCreate"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [hostname]}]}},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        },
    }
