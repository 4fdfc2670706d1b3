"""Manifests from request bodies. Pure: what is written here is what `kubectl apply` would have sent."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from switchgear_api.problems import Json
from switchgear_api.resources.bodies import Database, NewService, NewStreamsService, NewSyncSource
from switchgear_api.resources.kinds import Kind
from switchgear_model import labels
from switchgear_model.labels import API_VERSION


def manifest(kind: Kind, namespace: str, name: str, spec: Mapping[str, Any]) -> Json:
    """One of our resources; fields of the spec that are None are left out."""
    return {
        "apiVersion": API_VERSION,
        "kind": kind.kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {field: value for field, value in spec.items() if value is not None},
    }


def namespace(name: str) -> Json:
    """The namespace of a workspace, where pods are held to the restricted Pod Security level."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": name,
            "labels": {
                labels.MANAGED_BY: labels.MANAGED_BY_VALUE,
                "pod-security.kubernetes.io/enforce": "restricted",
            },
        },
    }


def streams_spec(body: NewStreamsService, environment: str) -> Json:
    """The spec of a StreamsService below the environment with this resource name."""
    return {**_service_spec(body, environment), "variant": body.variant}


def sync_spec(body: NewSyncSource, environment: str, url_secret: str | None) -> Json:
    """The spec of a SyncSource. `url_secret` names the Secret that will hold `databaseUrl`, when that was given."""
    return {
        **_service_spec(body, environment),
        "database": _database(body, body.database, url_secret),
        "manualTablePublishing": body.manualTablePublishing,
        "deletionPolicy": body.deletionPolicy,
    }


def url_secret_name(resource_name: str) -> str:
    """A name that no earlier service of the same name has used: its Secret may be on its way out still."""
    return f"{resource_name}-url-{secrets.token_hex(4)}"


def url_secret(name: str, owner: Mapping[str, Any], body: NewSyncSource) -> Json | None:
    """The Secret with the database's URL, owned by its SyncSource; None when the body brings no URL."""
    if body.databaseUrl is None:
        return None
    data = {labels.DATABASE_URL_KEY: body.databaseUrl.get_secret_value()}
    if body.pooledDatabaseUrl is not None:
        data[labels.DATABASE_POOLED_URL_KEY] = body.pooledDatabaseUrl.get_secret_value()
    meta = owner["metadata"]
    reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": meta["name"], "uid": meta["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": name,
            "namespace": meta["namespace"],
            "labels": {labels.MANAGED_BY: labels.APP_API, labels.OWNER_UID: meta["uid"]},
            "ownerReferences": [reference],
        },
        "stringData": data,
    }


def _service_spec(body: NewService, environment: str) -> Json:
    return {
        "environmentRef": {"name": environment},
        "displayName": body.name,
        "region": body.region,
        "serviceId": body.serviceId,
        "storage": body.storage.model_dump(exclude_none=True) if body.storage is not None else None,
    }


def _database(body: NewSyncSource, given: Database, secret_name: str | None) -> Json:
    database: Json = given.model_dump(exclude_none=True)
    if body.databaseUrl is not None:
        database["urlSecretRef"] = {"name": secret_name, "key": labels.DATABASE_URL_KEY}
    if body.pooledDatabaseUrl is not None:
        database["pooledUrlSecretRef"] = {"name": secret_name, "key": labels.DATABASE_POOLED_URL_KEY}
    return database
