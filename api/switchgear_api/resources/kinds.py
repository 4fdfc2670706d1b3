"""The five kinds as this API addresses them: path, what a person calls them, where they hang. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from switchgear_api.kube import segment
from switchgear_model import kinds
from switchgear_model.labels import API_VERSION


@dataclass(frozen=True)
class Kind:
    """One of our kinds. `word` is for messages; `parent_field` names the reference to the parent, where it has one."""

    kind: str
    plural: str
    word: str
    parent_field: str | None
    service_type: str | None

    def collection(self, namespace: str | None) -> str:
        """The path of the collection in one namespace, or in all."""
        inside = f"/namespaces/{segment(namespace)}" if namespace is not None else ""
        return f"/apis/{API_VERSION}{inside}/{self.plural}"

    def path(self, namespace: str, name: str) -> str:
        """The path of one object."""
        return f"{self.collection(namespace)}/{segment(name)}"

    def parent_of(self, resource: Mapping[str, Any]) -> str | None:
        """The name of the parent that this object refers to."""
        if self.parent_field is None:
            return None
        name = ((resource.get("spec") or {}).get(self.parent_field) or {}).get("name")
        return None if name is None else str(name)


def _kind(kind: str, word: str, service_type: str | None = None) -> Kind:
    info = kinds.KINDS[kind]
    return Kind(kind, info.plural, word, info.ref_field, service_type)


WORKSPACE = _kind(kinds.WORKSPACE, "workspace")
PROJECT = _kind(kinds.PROJECT, "project")
ENVIRONMENT = _kind(kinds.ENVIRONMENT, "environment")
SYNC_SOURCE = _kind(kinds.SYNC_SOURCE, "sync source", "postgres")
STREAMS_SERVICE = _kind(kinds.STREAMS_SERVICE, "streams service", "streams")
SERVICES = (SYNC_SOURCE, STREAMS_SERVICE)
