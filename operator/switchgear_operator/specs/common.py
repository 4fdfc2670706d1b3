"""Metadata that every child has, and the comparison that keeps us from writing what is there already. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from switchgear_model import labels
from switchgear_model.kinds import SYNC_SOURCE, Service

Json = dict[str, Any]


def app_name(kind: str) -> str:
    """The value of ``app.kubernetes.io/name`` for a service kind's pods."""
    return labels.APP_SHAPES if kind == SYNC_SOURCE else labels.APP_STREAMS


def child_labels(obj: Service, service_id: str) -> dict[str, str]:
    """Labels of every child and of the pod."""
    return {
        labels.MANAGED_BY: labels.MANAGED_BY_VALUE,
        labels.APP_NAME: app_name(obj.kind),
        labels.SERVICE_ID: service_id,
        labels.KIND: obj.kind,
        labels.NAME: obj.meta.name,
        labels.OWNER_UID: obj.meta.uid,
    }


def selector(service_id: str) -> dict[str, str]:
    """Labels by which the service's pod is selected. A StatefulSet's selector can never change: keep it small."""
    return {labels.MANAGED_BY: labels.MANAGED_BY_VALUE, labels.SERVICE_ID: service_id}


def metadata(obj: Service, service_id: str, name: str) -> Json:
    """Name, namespace, labels and the controlling owner."""
    return {
        "name": name,
        "namespace": obj.meta.namespace,
        "labels": child_labels(obj, service_id),
        "ownerReferences": [
            {
                "apiVersion": labels.API_VERSION,
                "kind": obj.kind,
                "name": obj.meta.name,
                "uid": obj.meta.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def with_hash(body: Json) -> Json:
    """The body with an annotation of its own hash: a field that we stop setting would else not show as a difference."""
    digest = hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]
    annotations = body["metadata"].get("annotations", {}) | {labels.SPEC_HASH: digest}
    return body | {"metadata": body["metadata"] | {"annotations": annotations}}


def owned_by(child: Mapping[str, Any], uid: str) -> bool:
    """Whether the child belongs to the object with this UID."""
    found = child.get("metadata", {}).get("labels", {}) or {}
    return bool(found.get(labels.OWNER_UID) == uid)


def drifted(desired: Any, live: Any) -> bool:
    """Whether something we want is not so. What the server or others added beside it does not count.

    Lists of named things are compared by name (server-side apply merges them so), other lists as a whole.
    """
    if isinstance(desired, Mapping):
        if not isinstance(live, Mapping):
            return bool(desired) or live is not None
        return any(drifted(value, live.get(key)) for key, value in desired.items())
    if isinstance(desired, Sequence) and not isinstance(desired, str):
        if not isinstance(live, Sequence) or isinstance(live, str):
            return bool(desired)
        return _list_drifted(desired, live)
    return bool(desired != live)


def _list_drifted(desired: Sequence[Any], live: Sequence[Any]) -> bool:
    key = _list_key(desired)
    if key is None:
        return len(desired) != len(live) or any(drifted(d, found) for d, found in zip(desired, live, strict=True))
    by_key = {item.get(key): item for item in live if isinstance(item, Mapping)}
    return any(item[key] not in by_key or drifted(item, by_key[item[key]]) for item in desired)


def _list_key(items: Sequence[Any]) -> str | None:
    for key in ("uid", "mountPath", "name"):
        if items and all(isinstance(item, Mapping) and key in item for item in items):
            return key
    return None
