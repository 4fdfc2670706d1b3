"""Addresses of objects in the Kubernetes API. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from switchgear_model.kinds import KINDS
from switchgear_model.labels import API_VERSION

_TYPES: Final[dict[str, tuple[str, str]]] = {
    "Secret": ("api/v1", "secrets"),
    "Service": ("api/v1", "services"),
    "Pod": ("api/v1", "pods"),
    "PersistentVolumeClaim": ("api/v1", "persistentvolumeclaims"),
    "Namespace": ("api/v1", "namespaces"),
    "StatefulSet": ("apis/apps/v1", "statefulsets"),
    "NetworkPolicy": ("apis/networking.k8s.io/v1", "networkpolicies"),
    "RoleBinding": ("apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    "Event": ("apis/events.k8s.io/v1", "events"),
    **{kind: (f"apis/{API_VERSION}", info.plural) for kind, info in KINDS.items()},
}


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """Kind, namespace (empty: cluster-scoped, or all namespaces for a list) and name (empty for a collection)."""

    kind: str
    namespace: str
    name: str = ""

    @property
    def collection(self) -> str:
        """Path of the collection."""
        api, plural = _TYPES[self.kind]
        return f"/{api}/namespaces/{self.namespace}/{plural}" if self.namespace else f"/{api}/{plural}"

    @property
    def path(self) -> str:
        """Path of the object."""
        return f"{self.collection}/{self.name}"

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


def ref_of(body: Mapping[str, Any]) -> Ref:
    """The address of an object, from the object itself."""
    metadata = body["metadata"]
    return Ref(str(body["kind"]), str(metadata.get("namespace", "")), str(metadata["name"]))
