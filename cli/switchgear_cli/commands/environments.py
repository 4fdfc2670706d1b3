"""`environments create|list|get|delete` and `projects …`, `workspaces …`: where services live."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from switchgear_cli.api import Api
from switchgear_cli.commands.shared import Force, Wait, WaitTimeout, delete, show_list, show_one

_COMMON = [("Id", "id"), ("Name", "name"), ("State", "state"), ("Created", "createdAt")]
_FIELDS = ["id", "name", "kind", "workspace", "project", "state", "reason", "message", "createdAt"]

environments = App(name="environments", help="Environments: production, staging, one per pull request.")
projects = App(name="projects", help="Projects: the apps or products of a workspace.")
workspaces = App(name="workspaces", help="Workspaces: a team's own namespace.")


def register(app: App) -> None:
    """Adds the commands."""
    app.command(environments, alias="environment")
    app.command(projects, alias="project")
    app.command(workspaces, alias="workspace")


Name = Annotated[str, Parameter(help="Its short name.")]
Project = Annotated[str, Parameter(help="The project: id or short name.")]


@environments.command(name="create")
def create_environment(*, project: Project, name: Name) -> int:
    """Make an environment in a project."""
    with Api() as api:
        view = api.call("POST", api.here("environments"), body={"name": name, "projectRef": {"name": project}})
    show_one(view, _FIELDS)
    return 0


@environments.command(name="list")
def list_environments(*, project: Annotated[str | None, Parameter(help="Only of this project.")] = None) -> int:
    """List environments."""
    with Api() as api:
        params = {"project": project} if project is not None else None
        views = api.call("GET", api.here("environments"), params=params)["environments"]
    show_list(views, "environments", [*_COMMON[:2], ("Project", "project"), *_COMMON[2:]])
    return 0


@environments.command(name="get")
def get_environment(id: str, /) -> int:  # noqa: A002
    """Show one environment."""
    with Api() as api:
        show_one(api.call("GET", api.here("environments", id)), _FIELDS)
    return 0


@environments.command(name="delete")
def delete_environment(
    id: str,  # noqa: A002
    /,
    *,
    force: Force = False,
    wait: Wait = True,
    wait_timeout: WaitTimeout = 120,
) -> int:
    """Delete an environment. With --force also its services, their storage and their replication slots."""
    with Api() as api:
        path = api.here("environments", id)
        return delete(api, path, f"the environment {id}", force=force, wait=wait, timeout=wait_timeout)


@projects.command(name="list")
def list_projects() -> int:
    """List projects."""
    with Api() as api:
        show_list(api.call("GET", api.here("projects"))["projects"], "projects", _COMMON)
    return 0


@projects.command(name="create")
def create_project(*, name: Name) -> int:
    """Make a project."""
    with Api() as api:
        show_one(api.call("POST", api.here("projects"), body={"name": name}), _FIELDS)
    return 0


@projects.command(name="delete")
def delete_project(
    id: str,  # noqa: A002
    /,
    *,
    force: Force = False,
    wait: Wait = True,
    wait_timeout: WaitTimeout = 120,
) -> int:
    """Delete a project. With --force also its environments and their services."""
    with Api() as api:
        path = api.here("projects", id)
        return delete(api, path, f"the project {id}", force=force, wait=wait, timeout=wait_timeout)


@workspaces.command(name="list")
def list_workspaces() -> int:
    """List workspaces."""
    with Api() as api:
        show_list(api.call("GET", "/v1/workspaces")["workspaces"], "workspaces", [("Id", "workspace"), *_COMMON[1:]])
    return 0


@workspaces.command(name="create")
def create_workspace(*, name: Name) -> int:
    """Make a workspace and, when it is missing, its namespace."""
    with Api() as api:
        show_one(api.call("POST", "/v1/workspaces", body={"name": name}), _FIELDS)
    return 0
