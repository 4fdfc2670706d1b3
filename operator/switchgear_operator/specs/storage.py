"""The volume claim of a service. Made by the operator, because a volumeClaimTemplate could never change. Pure."""

from __future__ import annotations

from switchgear_model import ids
from switchgear_model.kinds import Service
from switchgear_operator.specs.common import Json, metadata, with_hash


def claim(obj: Service, service_id: str) -> Json:
    """A ReadWriteOnce claim of the size in the spec."""
    spec: Json = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": obj.spec.storage.size}},
    }
    if obj.spec.storage.class_name is not None:
        spec["storageClassName"] = obj.spec.storage.class_name
    return with_hash(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": metadata(obj, service_id, ids.child_name(service_id)),
            "spec": spec,
        }
    )
