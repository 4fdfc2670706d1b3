"""What any cluster has besides Kubernetes itself, as these tests need it: cluster DNS, and volumes for claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from tests.realnode import node
from tests.realnode.programs import TOOLS_IMAGE

DEPLOYMENTS: Final = (("kube-system", "coredns"), ("local-path-storage", "local-path-provisioner"))
STORAGE_CLASS: Final = "local-path"
_COREFILE = """.:53 {
    errors
    health :8080
    ready :8181
    kubernetes cluster.local in-addr.arpa ip6.arpa
    cache 5
}
"""
_HELPER: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "helper"},
    "spec": {"containers": [{"name": "helper", "image": TOOLS_IMAGE, "imagePullPolicy": "Never"}]},
}


def objects(volumes: Path) -> list[dict[str, Any]]:
    """All of it, in the order in which it can be applied."""
    return [*_dns(), *_storage(volumes)]


def _dns() -> list[dict[str, Any]]:
    space = "kube-system"
    watched = [
        {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    container = {
        **_container("coredns", "/bin/coredns", "-conf", "/etc/coredns/Corefile"),
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
    }
    volume = {"name": "config", "configMap": {"name": "coredns"}}
    return [
        *_account("coredns", space, watched),
        _object("v1", "ConfigMap", "coredns", space, data={"Corefile": _COREFILE}),
        _deployment("coredns", space, {"serviceAccountName": "coredns", "dnsPolicy": "Default"}, container, volume),
        _object(
            "v1",
            "Service",
            "kube-dns",
            space,
            spec={"clusterIP": node.DNS, "selector": {"app": "coredns"}, "ports": ports},
        ),
    ]


def _storage(volumes: Path) -> list[dict[str, Any]]:
    space, name = "local-path-storage", "local-path-provisioner"
    everything = ["get", "list", "watch", "create", "patch", "update", "delete"]
    rules = [
        {
            "apiGroups": [""],
            "resources": ["nodes", "persistentvolumeclaims", "configmaps", "pods/log"],
            "verbs": ["get", "list", "watch"],
        },
        {"apiGroups": [""], "resources": ["pods", "persistentvolumes", "endpoints"], "verbs": everything},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
        {"apiGroups": ["storage.k8s.io"], "resources": ["storageclasses"], "verbs": ["get", "list", "watch"]},
    ]
    paths = {"nodePathMap": [{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": [str(volumes)]}]}
    data = {
        "config.json": json.dumps(paths),
        "setup": '#!/bin/sh\nset -eu\nmkdir -m 0777 -p "$VOL_DIR"\n',
        "teardown": '#!/bin/sh\nset -eu\nrm -rf "$VOL_DIR"\n',
        "helperPod.yaml": json.dumps(_HELPER),
    }
    arguments = (
        "start",
        "--config=/etc/config/config.json",
        f"--helper-image={TOOLS_IMAGE}",
        f"--configmap-name={name}",
        f"--service-account-name={name}",
    )
    own = {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}
    container = {
        **_container(name, "/bin/local-path-provisioner", *arguments),
        "env": [own, {"name": "CONFIG_MOUNT_PATH", "value": "/etc/config/"}],
        "volumeMounts": [{"name": "config", "mountPath": "/etc/config"}],
    }
    volume = {"name": "config", "configMap": {"name": name}}
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}},
        *_account(name, space, rules),
        _object("v1", "ConfigMap", name, space, data=data),
        _deployment(name, space, {"serviceAccountName": name}, container, volume),
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": STORAGE_CLASS, "annotations": default},
            "provisioner": "rancher.io/local-path",
            "volumeBindingMode": "WaitForFirstConsumer",
            "reclaimPolicy": "Delete",
        },
    ]


def _account(name: str, namespace: str, rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A ServiceAccount with these rights everywhere."""
    group = "rbac.authorization.k8s.io"
    return [
        _object("v1", "ServiceAccount", name, namespace),
        {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": f"test-{name}"}, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": f"test-{name}"},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": f"test-{name}"},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        },
    ]


def _container(name: str, *command: str) -> dict[str, Any]:
    return {"name": name, "image": TOOLS_IMAGE, "imagePullPolicy": "Never", "command": list(command)}


def _deployment(
    name: str, namespace: str, pod: dict[str, Any], container: dict[str, Any], *volumes: dict[str, Any]
) -> dict[str, Any]:
    # It stays on a node that is drained: there is no other.
    pod = {**pod, "containers": [container], "volumes": list(volumes), "terminationGracePeriodSeconds": 1}
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": pod}
    return _object(
        "apps/v1",
        "Deployment",
        name,
        namespace,
        spec={"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    )


def _object(version: str, kind: str, name: str, namespace: str, **body: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}, **body}
