"""The REST paths: one function each, which reads the request, calls the store and shows the result."""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Path, Query, Request

from switchgear_api import names
from switchgear_api.problems import Json, Problem
from switchgear_api.resources import bodies, build, views
from switchgear_api.resources.kinds import ENVIRONMENT, PROJECT, STREAMS_SERVICE, SYNC_SOURCE, WORKSPACE, Kind
from switchgear_api.resources.store import Store

router = APIRouter(prefix="/v1")


def _store(request: Request) -> Store:
    return cast(Store, request.app.state.store)


Resources = Annotated[Store, Depends(_store)]
Workspace = Annotated[str, Path(max_length=63, description="The workspace, that is its namespace.")]
Name = Annotated[str, Path(max_length=253, description="Resource name, service id or short name.")]
Force = Annotated[bool, Query(description="Delete also what is below it.")]
DeleteWait = Annotated[float, Query(ge=0, le=60, description="Seconds to wait until it is gone.")]
CreateWait = Annotated[float, Query(ge=0, le=30, description="Seconds to wait for the service's secret.")]


@router.get("/whoami", tags=["account"], summary="Who the token belongs to")
async def whoami(store: Resources) -> views.Whoami:
    entries = [
        views.WorkspaceEntry(id=r["metadata"]["namespace"], name=names.short_name(r)) for r in await store.workspaces()
    ]
    return views.Whoami(type="token", name="admin", workspaces=entries)


# Workspaces


@router.get("/workspaces", tags=["workspaces"], summary="All workspaces")
async def list_workspaces(store: Resources) -> views.Workspaces:
    return views.Workspaces(workspaces=[views.workspace(r) for r in await store.workspaces()])


@router.post("/workspaces", tags=["workspaces"], status_code=201, summary="A new workspace and its namespace")
async def create_workspace(body: bodies.NewWorkspace, store: Resources) -> views.WorkspaceView:
    return views.workspace(await store.create_workspace(body.name, {"displayName": body.displayName or body.name}))


@router.get("/workspaces/{workspace}", tags=["workspaces"], summary="One workspace")
async def get_workspace(workspace: Workspace, store: Resources) -> views.WorkspaceView:
    return views.workspace(await store.workspace(workspace))


@router.delete("/workspaces/{workspace}", tags=["workspaces"], summary="Delete a workspace; its namespace stays")
async def delete_workspace(
    workspace: Workspace, store: Resources, force: Force = False, wait: DeleteWait = 0
) -> views.Deleted:
    return await _delete(store, WORKSPACE, await store.workspace(workspace), force, wait)


# Projects


@router.get("/workspaces/{workspace}/projects", tags=["projects"], summary="The projects of a workspace")
async def list_projects(workspace: Workspace, store: Resources) -> views.Projects:
    return views.Projects(projects=[views.project(r) for r in await store.list_of(PROJECT, workspace)])


@router.post("/workspaces/{workspace}/projects", tags=["projects"], status_code=201, summary="A new project")
async def create_project(workspace: Workspace, body: bodies.NewProject, store: Resources) -> views.ProjectView:
    spec = {"displayName": body.name}
    return views.project(await store.create(PROJECT, workspace, None, body.name, body.resourceName, spec))


@router.get("/workspaces/{workspace}/projects/{name}", tags=["projects"], summary="One project")
async def get_project(workspace: Workspace, name: Name, store: Resources) -> views.ProjectView:
    return views.project(await store.one(PROJECT, workspace, name))


@router.delete("/workspaces/{workspace}/projects/{name}", tags=["projects"], summary="Delete a project")
async def delete_project(
    workspace: Workspace, name: Name, store: Resources, force: Force = False, wait: DeleteWait = 0
) -> views.Deleted:
    return await _delete(store, PROJECT, await store.one(PROJECT, workspace, name), force, wait)


# Environments


@router.get(
    "/workspaces/{workspace}/environments", tags=["environments"], summary="Environments, of one project or all"
)
async def list_environments(
    workspace: Workspace, store: Resources, project: Annotated[str | None, Query(max_length=253)] = None
) -> views.Environments:
    parent = await _parent(store, PROJECT, workspace, project) if project is not None else None
    return views.Environments(
        environments=[views.environment(r) for r in await store.list_of(ENVIRONMENT, workspace, parent)]
    )


@router.post(
    "/workspaces/{workspace}/environments", tags=["environments"], status_code=201, summary="A new environment"
)
async def create_environment(
    workspace: Workspace, body: bodies.NewEnvironment, store: Resources
) -> views.EnvironmentView:
    parent = await _parent(store, PROJECT, workspace, body.projectRef.name)
    spec = {"projectRef": {"name": parent}, "displayName": body.name}
    return views.environment(await store.create(ENVIRONMENT, workspace, parent, body.name, body.resourceName, spec))


@router.get("/workspaces/{workspace}/environments/{name}", tags=["environments"], summary="One environment")
async def get_environment(workspace: Workspace, name: Name, store: Resources) -> views.EnvironmentView:
    return views.environment(await store.one(ENVIRONMENT, workspace, name))


@router.delete("/workspaces/{workspace}/environments/{name}", tags=["environments"], summary="Delete an environment")
async def delete_environment(
    workspace: Workspace, name: Name, store: Resources, force: Force = False, wait: DeleteWait = 0
) -> views.Deleted:
    """Refused with 409 while services are in it, which the answer lists, unless `force` is set."""
    return await _delete(store, ENVIRONMENT, await store.one(ENVIRONMENT, workspace, name), force, wait)


# Services of both kinds


@router.get("/workspaces/{workspace}/services", tags=["services"], summary="Services, of one environment or all")
async def list_services(
    workspace: Workspace, store: Resources, environment: Annotated[str | None, Query(max_length=253)] = None
) -> views.Services:
    parent = await _parent(store, ENVIRONMENT, workspace, environment) if environment is not None else None
    return views.Services(services=[views.service(r) for r in await store.services(workspace, parent)])


@router.get("/workspaces/{workspace}/services/{name}", tags=["services"], summary="One service of either kind")
async def get_service(workspace: Workspace, name: Name, store: Resources) -> views.ServiceView:
    return views.service((await store.service(workspace, name))[1])


@router.get("/workspaces/{workspace}/services/{name}/secret", tags=["services"], summary="A service's secret")
async def get_secret(workspace: Workspace, name: Name, store: Resources) -> views.SecretView:
    _, service = await store.service(workspace, name)
    secret = await store.secret(service)
    if secret is None:
        message = f"The service {name!r} has no secret yet: its state is {views.state(service)}. Try again in a moment."
        raise Problem(409, "SECRET_NOT_READY", message, headers={"Retry-After": "2"})
    url = (service.get("status") or {}).get("url")
    return views.SecretView(serviceId=names.service_id(service), url=url, secret=secret)


@router.delete("/workspaces/{workspace}/services/{name}", tags=["services"], summary="Delete a service of either kind")
async def delete_service(workspace: Workspace, name: Name, store: Resources, wait: DeleteWait = 0) -> views.Deleted:
    kind, service = await store.service(workspace, name)
    return await _delete(store, kind, service, True, wait)


# Sync sources and streams services


@router.get("/workspaces/{workspace}/syncsources", tags=["services"], summary="The sync sources of a workspace")
async def list_sync_sources(workspace: Workspace, store: Resources) -> views.Services:
    return views.Services(services=[views.service(r) for r in await store.list_of(SYNC_SOURCE, workspace)])


@router.post("/workspaces/{workspace}/syncsources", tags=["services"], status_code=201, summary="A new sync source")
async def create_sync_source(
    workspace: Workspace, body: bodies.NewSyncSource, store: Resources, wait: CreateWait = 3
) -> views.CreatedService:
    """A `databaseUrl` goes into a Secret that belongs to the sync source and is deleted with it."""
    parent = await _parent(store, ENVIRONMENT, workspace, body.environmentRef.name)
    secret_name = build.url_secret_name(parent) if body.databaseUrl is not None else None
    spec = build.sync_spec(body, parent, secret_name)
    service = await store.create(SYNC_SOURCE, workspace, parent, body.name, body.resourceName, spec)
    manifest = build.url_secret(secret_name, service, body) if secret_name is not None else None
    if manifest is not None:
        try:
            await store.create_secret(workspace, manifest)
        except Problem:
            await store.delete(SYNC_SOURCE, service, force=True, wait=0)
            raise
    return await _created(store, SYNC_SOURCE, service, wait)


@router.get("/workspaces/{workspace}/syncsources/{name}", tags=["services"], summary="One sync source")
async def get_sync_source(workspace: Workspace, name: Name, store: Resources) -> views.ServiceView:
    return views.service(await store.one(SYNC_SOURCE, workspace, name))


@router.delete("/workspaces/{workspace}/syncsources/{name}", tags=["services"], summary="Delete a sync source")
async def delete_sync_source(workspace: Workspace, name: Name, store: Resources, wait: DeleteWait = 0) -> views.Deleted:
    return await _delete(store, SYNC_SOURCE, await store.one(SYNC_SOURCE, workspace, name), True, wait)


@router.get("/workspaces/{workspace}/streamsservices", tags=["services"], summary="The streams services of a workspace")
async def list_streams_services(workspace: Workspace, store: Resources) -> views.Services:
    return views.Services(services=[views.service(r) for r in await store.list_of(STREAMS_SERVICE, workspace)])


@router.post(
    "/workspaces/{workspace}/streamsservices", tags=["services"], status_code=201, summary="A new streams service"
)
async def create_streams_service(
    workspace: Workspace, body: bodies.NewStreamsService, store: Resources, wait: CreateWait = 3
) -> views.CreatedService:
    parent = await _parent(store, ENVIRONMENT, workspace, body.environmentRef.name)
    spec = build.streams_spec(body, parent)
    service = await store.create(STREAMS_SERVICE, workspace, parent, body.name, body.resourceName, spec)
    return await _created(store, STREAMS_SERVICE, service, wait)


@router.get("/workspaces/{workspace}/streamsservices/{name}", tags=["services"], summary="One streams service")
async def get_streams_service(workspace: Workspace, name: Name, store: Resources) -> views.ServiceView:
    return views.service(await store.one(STREAMS_SERVICE, workspace, name))


@router.delete("/workspaces/{workspace}/streamsservices/{name}", tags=["services"], summary="Delete a streams service")
async def delete_streams_service(
    workspace: Workspace, name: Name, store: Resources, wait: DeleteWait = 0
) -> views.Deleted:
    return await _delete(store, STREAMS_SERVICE, await store.one(STREAMS_SERVICE, workspace, name), True, wait)


async def _parent(store: Store, kind: Kind, workspace: str, reference: str) -> str:
    parent: dict[str, Any] = await store.one(kind, workspace, reference)
    return str(parent["metadata"]["name"])


async def _created(store: Store, kind: Kind, service: Json, wait: float) -> views.CreatedService:
    newest, secret = await store.await_secret(kind, service, wait)
    return views.created_service(newest, secret)


async def _delete(store: Store, kind: Kind, resource: Json, force: bool, wait: float) -> views.Deleted:
    gone = await store.delete(kind, resource, force=force, wait=wait)
    return views.deleted(kind, resource, gone)
