"""The Secrets of a service: its secret, its pod's key, and the operator's own copy of the database URL. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from switchgear_model import ids, labels
from switchgear_model.kinds import Service
from switchgear_operator.specs.common import Json, metadata


def encode(values: Mapping[str, str]) -> dict[str, str]:
    """``data`` of a Secret."""
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}


def read(secret: Mapping[str, Any] | None, key: str) -> str | None:
    """One value of a Secret; None when it is missing or not UTF-8."""
    encoded = ((secret or {}).get("data") or {}).get(key)
    if encoded is None:
        return None
    try:
        return base64.b64decode(encoded).decode()
    except ValueError:
        return None


def _secret(obj: Service, service_id: str, name: str, values: Mapping[str, str]) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": metadata(obj, service_id, name),
        "data": encode(values),
    }


def service_secret(obj: Service, service_id: str) -> Json:
    """The Secret of the service's secret, without data: the secret is made when it is created."""
    return _secret(obj, service_id, ids.child_name(service_id), {})


def pod_key(obj: Service, service_id: str, key: str) -> Json:
    """The Secret with the key that the service's pod accepts."""
    return _secret(obj, service_id, ids.key_secret_name(service_id), {labels.POD_KEY_KEY: key})


def database(obj: Service, service_id: str, url: str, pooled_url: str | None) -> Json:
    """The operator's copy of the URLs, held by a finalizer until the slot is dropped."""
    values = {labels.DATABASE_URL_KEY: url}
    if pooled_url is not None:
        values[labels.DATABASE_POOLED_URL_KEY] = pooled_url
    body = _secret(obj, service_id, ids.database_secret_name(service_id), values)
    body["metadata"]["finalizers"] = [labels.SLOT_FINALIZER]
    return body


def checksum(key: str, values: Mapping[str, str]) -> str:
    """Changes whenever a value does. Keyed, because it stands in an annotation and passwords can be guessed."""
    mac = hmac.new(key.encode(), digestmod=hashlib.sha256)
    for name in sorted(values):
        for part in (name, values[name]):
            data = part.encode()
            mac.update(len(data).to_bytes(8, "big") + data)
    return mac.hexdigest()[:32]
