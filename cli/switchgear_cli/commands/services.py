"""`services create postgres|streams`, `services list|get|get-secret|delete`."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from switchgear_cli.api import Api
from switchgear_cli.commands.region import secret_value
from switchgear_cli.commands.shared import Force, Wait, WaitTimeout, await_active, delete, show_list, show_one
from switchgear_cli.context import current
from switchgear_cli.failures import validation

_FIELDS = [
    "id",
    "name",
    "type",
    "workspace",
    "environment",
    "region",
    "status",
    "reason",
    "message",
    "url",
    "sourceSecret",
    "createdAt",
]

services = App(name="services", help="Services: Postgres Sync (type postgres) and durable streams (type streams).")
create = App(name="create", help="Make a service.")
services.command(create)

Environment = Annotated[str, Parameter(help="The environment: id or short name.")]
Region = Annotated[str | None, Parameter(help="The region, where there are several.")]
ServiceId = Annotated[str | None, Parameter(help="Only for a service that moves in and keeps its id.")]
Storage = Annotated[str | None, Parameter(help="Size of its volume, for example 10Gi.")]
UntilActive = Annotated[bool, Parameter(negative=(), help="Wait until it is active.")]


def register(app: App) -> None:
    """Adds the commands."""
    app.command(services, alias="service")


@create.command(name="postgres")
def create_postgres(
    *,
    environment: Environment,
    database_url: Annotated[
        str | None,
        Parameter(
            help="URL of the database; `-` reads it from stdin. Other users of the machine can see a command line: "
            "prefer --database-url-env or --database-secret.",
            allow_leading_hyphen=True,
        ),
    ] = None,
    database_url_env: Annotated[str | None, Parameter(help="Environment variable that holds the URL.")] = None,
    pooled_database_url_env: Annotated[
        str | None, Parameter(help="Environment variable with the URL of a connection pooler.")
    ] = None,
    database_secret: Annotated[
        str | None, Parameter(help="Secret of the workspace with the URL: NAME, or NAME/KEY (the key is else `url`).")
    ] = None,
    name: Annotated[str, Parameter(help="Its short name.")] = "db",
    region: Region = None,
    db_pool_size: Annotated[int | None, Parameter(help="Connections to the database at most.")] = None,
    manual_table_publishing: Annotated[
        bool, Parameter(negative=(), help="You add tables to the publication yourself.")
    ] = False,
    service_id: ServiceId = None,
    storage: Storage = None,
    wait: UntilActive = False,
    wait_timeout: WaitTimeout = 300,
) -> int:
    """Sync a Postgres database. It needs wal_level=logical and a role with REPLICATION."""
    url = secret_value("--database-url", database_url, database_url_env)
    if (url is None) == (database_secret is None):
        raise validation("give the database by --database-url, --database-url-env or --database-secret")
    body = _common(name, environment, region, service_id, storage)
    database: dict[str, Any] = {} if db_pool_size is None else {"poolSize": db_pool_size}
    if url is not None:
        body["databaseUrl"] = url
        body["pooledDatabaseUrl"] = secret_value("--pooled-database-url", None, pooled_database_url_env)
    elif database_secret is not None:
        secret, _, key = database_secret.partition("/")
        database["urlSecretRef"] = {"name": secret, "key": key or "url"}
    body["database"] = database
    if manual_table_publishing:
        body["manualTablePublishing"] = True
    return _create("syncsources", body, wait, wait_timeout)


@create.command(name="streams")
def create_streams(
    *,
    environment: Environment,
    name: Annotated[str, Parameter(help="Its short name.")] = "streams",
    region: Region = None,
    variant: Annotated[str | None, Parameter(help="A preset, such as json or state.")] = None,
    service_id: ServiceId = None,
    storage: Storage = None,
    wait: UntilActive = False,
    wait_timeout: WaitTimeout = 300,
) -> int:
    """Make a server of durable streams."""
    body = _common(name, environment, region, service_id, storage)
    return _create("streamsservices", {**body, "variant": variant}, wait, wait_timeout)


@services.command(name="list")
def list_services(*, environment: Annotated[str | None, Parameter(help="Only of this environment.")] = None) -> int:
    """List services."""
    with Api() as api:
        params = {"environment": environment} if environment is not None else None
        views = api.call("GET", api.here("services"), params=params)["services"]
    columns = [
        ("Id", "id"),
        ("Name", "name"),
        ("Type", "type"),
        ("Environment", "environment"),
        ("Status", "status"),
        ("URL", "url"),
    ]
    show_list(views, "services", columns)
    return 0


@services.command(name="get")
def get_service(id: str, /) -> int:  # noqa: A002
    """Show one service: by service id, resource name or short name."""
    with Api() as api:
        show_one(api.call("GET", api.here("services", id)), _FIELDS)
    return 0


@services.command(name="get-secret")
def get_secret(id: str, /) -> int:  # noqa: A002
    """Print a service's secret."""
    with Api() as api:
        answer = api.call("GET", api.here("services", id, "secret"))
    current().output.result(answer, str(answer["secret"]), str(answer["secret"]))
    return 0


@services.command(name="delete")
def delete_service(
    id: str,  # noqa: A002
    /,
    *,
    force: Force = False,
    wait: Wait = True,
    wait_timeout: WaitTimeout = 120,
) -> int:
    """Delete a service with its storage, its secret and its replication slot."""
    with Api() as api:
        path = api.here("services", id)
        return delete(api, path, f"the service {id}", force=force, wait=wait, timeout=wait_timeout)


def _common(
    name: str, environment: str, region: str | None, service_id: str | None, storage: str | None
) -> dict[str, Any]:
    return {
        "name": name,
        "environmentRef": {"name": environment},
        "region": region,
        "serviceId": service_id,
        "storage": {"size": storage} if storage is not None else None,
    }


def _create(plural: str, body: dict[str, Any], wait: bool, timeout: float) -> int:
    with Api() as api:
        sent = {field: value for field, value in body.items() if value is not None}
        view = api.call("POST", api.here(plural), body=sent)
        if wait:
            secret = view.get("sourceSecret")
            path = api.here("services", view["resourceName"])
            view = await_active(api, path, view, timeout)
            view["sourceSecret"] = secret or api.call("GET", f"{path}/secret")["secret"]
    show_one(view, _FIELDS)
    return 0
