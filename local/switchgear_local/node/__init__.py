"""The process node: a Kubernetes node whose pods are local processes. No images, no container engine, no root.

It registers a Node, binds the pods that tolerate its taint, provides volumes for its StorageClass, and plays kubelet.
The pod specs are the same as on a real cluster. Run it as ``python -m switchgear_local.node --kubeconfig FILE
--data-dir DIR``.

**For whoever starts a region**: apply `bootstrap_objects()` and `rbac_objects(namespace)` as administrator (the
namespace must exist), and give the node the kubeconfig of ServiceAccount `switchgear-node` of that namespace. It needs
no other right: it is not in `system:nodes`, because NodeRestriction forbids such an identity to bind pods and to make
volumes. A token file or a kubeconfig that is replaced is read again when the API server answers 401.

How data travels: `api` and `informer` (lists and watches) → `binder` and `provisioner` (pods without a node, claims
without a volume) → `kubelet` (one worker a pod) → `pod` → `container` (start, probe, restart) → `process`;
`environment`, `mounts`, `volumes`, `probes`, `status` and `objects` hold the pure decisions; `records` is what a
restart needs to find again; `logs_server` answers `kubectl logs`.

What differs from a kubelet: no isolation whatever (resources, users, security contexts, read-only mounts and network
policies are not enforced); mount paths are rewritten in env values, arguments and working directories, since nothing
is mounted; restart back-off starts at 1 s and ends at 60 s (a kubelet: 10 s and 300 s); tokens of ServiceAccounts are
not provided; log lines carry no timestamps. Not supported, and said so in the pod's status: lifecycle hooks, sidecar
init containers, gRPC probes, hostPath and other volume types, `resourceFieldRef`, `subPathExpr`.

Invariants: pods outlive the node (own sessions; adopted again by pid and start time); only SIGTERM to the node stops
them; no secret is written to arguments, logs or records; nothing outside the data directory is ever removed.
"""

from .objects import (
    NODE_NAME,
    SERVICE_ACCOUNT,
    STORAGE_CLASS,
    bootstrap_objects,
    rbac_objects,
)

__all__ = ["NODE_NAME", "SERVICE_ACCOUNT", "STORAGE_CLASS", "bootstrap_objects", "rbac_objects"]
