"""What callers get to see of a resource. Pure.

`id` is what every other call accepts; `status` is the state as one word (`state` says the same). Environments carry
`environmentId` beside `id`, services `sourceSecret` when they have just been made: names that tools made for Electric
Cloud look for. Hashes of secrets and other people's annotations stay inside.
"""

# ruff: noqa: N815
from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from switchgear_api import names
from switchgear_api.problems import Json
from switchgear_api.resources.kinds import SERVICES, Kind

_CONDITION_FIELDS = ("type", "status", "reason", "message", "lastTransitionTime", "observedGeneration")


class View(BaseModel):
    """What every kind has."""

    kind: str
    id: str
    name: str
    resourceName: str
    workspace: str
    createdAt: str
    state: str
    status: str
    reason: str | None = None
    message: str | None = None
    spec: dict[str, Any]
    conditions: list[dict[str, Any]]


class WorkspaceView(View):
    """A workspace; its id is its namespace."""


class ProjectView(View):
    """A project."""

    projectId: str


class EnvironmentView(View):
    """An environment."""

    environmentId: str
    project: str | None


class ServiceView(View):
    """A sync source (`type` postgres) or a streams service (`type` streams). `id` is the service id."""

    serviceId: str
    type: str
    environment: str | None
    region: str | None
    url: str | None
    secretRef: dict[str, str] | None


class CreatedService(ServiceView):
    """A service that has just been made. `sourceSecret` is there when it was known in time."""

    sourceSecret: str | None = None


class Deleted(BaseModel):
    """What a delete answers: it goes on in the background until the resource is gone."""

    id: str
    kind: str
    name: str
    resourceName: str
    workspace: str
    status: str = "deleting"
    gone: bool


class SecretView(BaseModel):
    """A service's secret and where to use it."""

    serviceId: str
    url: str | None
    secret: str


class Workspaces(BaseModel):
    workspaces: list[WorkspaceView]


class Projects(BaseModel):
    projects: list[ProjectView]


class Environments(BaseModel):
    environments: list[EnvironmentView]


class Services(BaseModel):
    services: list[ServiceView]


class WorkspaceEntry(BaseModel):
    id: str
    name: str


class Whoami(BaseModel):
    """Who the token belongs to, and what it can see."""

    type: str
    name: str
    workspaces: list[WorkspaceEntry]


def state(resource: Json) -> str:
    """The resource's state; what the operator has not seen yet is pending."""
    if resource["metadata"].get("deletionTimestamp"):
        return "deleting"
    return str((resource.get("status") or {}).get("state") or "pending")


def workspace(resource: Json) -> WorkspaceView:
    """The view of a Workspace."""
    return WorkspaceView(**_common(resource, resource["metadata"]["namespace"]))


def project(resource: Json) -> ProjectView:
    """The view of a Project."""
    name = resource["metadata"]["name"]
    return ProjectView(**_common(resource, name), projectId=name)


def environment(resource: Json) -> EnvironmentView:
    """The view of an Environment."""
    name = resource["metadata"]["name"]
    spec = resource.get("spec") or {}
    return EnvironmentView(
        **_common(resource, name), environmentId=name, project=(spec.get("projectRef") or {}).get("name")
    )


def service(resource: Json) -> ServiceView:
    """The view of either kind of service."""
    return ServiceView(**_service(resource))


def created_service(resource: Json, secret: str | None) -> CreatedService:
    """The view of a new service, with its secret when that exists."""
    return CreatedService(**_service(resource), sourceSecret=secret)


def deleted(kind: Kind, resource: Json, gone: bool) -> Deleted:
    """The answer to a delete."""
    meta = resource["metadata"]
    own = names.service_id(resource) if kind in SERVICES else meta["name"]
    return Deleted(
        id=own,
        kind=kind.kind,
        name=names.short_name(resource),
        resourceName=meta["name"],
        workspace=meta["namespace"],
        gone=gone,
    )


def brief(resource: Json) -> Json:
    """A resource in a list of what is in the way."""
    return {"kind": resource["kind"], "name": names.short_name(resource), "resourceName": resource["metadata"]["name"]}


def _service(resource: Json) -> Json:
    spec, status = resource.get("spec") or {}, resource.get("status") or {}
    own = names.service_id(resource)
    kind = next(kind for kind in SERVICES if kind.kind == resource["kind"])
    return {
        **_common(resource, own),
        "serviceId": own,
        "type": kind.service_type,
        "environment": (spec.get("environmentRef") or {}).get("name"),
        "region": spec.get("region"),
        "url": status.get("url"),
        "secretRef": status.get("secretRef"),
    }


def _common(resource: Json, own_id: str) -> Json:
    meta, status = resource["metadata"], resource.get("status") or {}
    conditions = [
        {field: condition[field] for field in _CONDITION_FIELDS if field in condition}
        for condition in status.get("conditions") or []
    ]
    ready = next((c for c in conditions if c.get("type") == "Ready"), {})
    word = state(resource)
    return {
        "kind": resource["kind"],
        "id": own_id,
        "name": names.short_name(resource),
        "resourceName": meta["name"],
        "workspace": meta["namespace"],
        "createdAt": meta.get("creationTimestamp") or "",
        "state": word,
        "status": word,
        "reason": ready.get("reason"),
        "message": ready.get("message") or None,
        "spec": resource.get("spec") or {},
        "conditions": conditions,
    }
