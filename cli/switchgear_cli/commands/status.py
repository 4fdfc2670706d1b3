"""`status`: everything there is, in one table.

It reads the cluster directly when there is one, so that it also works while the API is down; else it asks the API.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from switchgear_cli import cluster
from switchgear_cli.api import Api
from switchgear_cli.cluster import Cluster, ClusterError
from switchgear_cli.commands.apply import Kubeconfig
from switchgear_cli.commands.region import DataDir
from switchgear_cli.context import current
from switchgear_cli.failures import NOT_FOUND, Failure, validation
from switchgear_cli.output import printable, table
from switchgear_model import kinds
from switchgear_model.labels import API_VERSION

Json = dict[str, Any]
_ORDER = list(kinds.KINDS)
_REFRESH_SECONDS = 1.0


def register(app: App) -> None:
    """Adds the command."""
    app.command(status, name="status")


def status(
    *,
    namespace: Annotated[str | None, Parameter(name=("-n", "--namespace"), help="Only this workspace.")] = None,
    watch: Annotated[bool, Parameter(negative=(), help="Keep the table up to date, until Ctrl-C.")] = False,
    kubeconfig: Kubeconfig = None,
    data_dir: DataDir = None,
) -> int:
    """Show workspaces, projects, environments and services with their state."""
    output = current().output
    if watch and (output.json or output.quiet):
        raise validation("--watch draws a table; call `status --json` again and again instead")
    found = cluster.find(kubeconfig, data_dir)
    if found is None:
        rows = _from_api(namespace)
        _show(rows)
        return 0
    with Cluster(found) as kube:
        if watch:
            _follow(kube, namespace)
        else:
            _show(_from_cluster(kube, namespace))
    return 0


def _show(rows: list[Json]) -> None:
    if not rows:
        current().output.result([], "There is nothing yet. Begin with: switchgear apply -f examples/quickstart.yaml")
        return
    hints = [f"{row['kind']} {row['name']}: {row['message']}" for row in rows if _needs_words(row)]
    quiet = [f"{row['namespace']}/{row['name']} {row['state']}" for row in rows]
    current().output.result(rows, [_table(rows), *hints], quiet)


def _needs_words(row: Json) -> bool:
    return row["state"] != "active" and bool(row["message"])


def _table(rows: list[Json]) -> Any:
    columns = ["Kind", "Namespace", "Name", "State", "Reason", "Service id", "URL"]
    cells = [
        [row["kind"], row["namespace"], row["name"], row["state"], row["reason"], row["serviceId"], row["url"]]
        for row in rows
    ]
    return table(columns, cells)


def _follow(kube: Cluster, namespace: str | None) -> None:
    with _interruptible() as interrupted, Live(console=Console(), auto_refresh=False) as live:
        while not interrupted:
            rows = _from_cluster(kube, namespace)
            hints = [f"{r['kind']} {r['name']}: {r['message']}" for r in rows if _needs_words(r)]
            live.update(Group(_table(rows), Text(printable("\n".join(hints)))), refresh=True)
            time.sleep(_REFRESH_SECONDS)


@contextlib.contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Holds something after the first Ctrl-C: an exception in the middle of a step may be swallowed where it falls.

    The second one is an exception again, for a cluster that does not answer.
    """
    interrupted: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def first(number: int, _: object) -> None:
        interrupted.append(number)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, first)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _from_cluster(kube: Cluster, namespace: str | None) -> list[Json]:
    rows: list[Json] = []
    for kind in _ORDER:
        try:
            found = kube.list_all(kube.path(API_VERSION, kind, namespace))
        except ClusterError as error:
            if error.status == 404:
                message = f"Switchgear's kinds are not installed in the cluster at {kube.server}."
                raise Failure(NOT_FOUND, message) from error
            raise
        rows.extend(_row(kind, resource) for resource in found)
    return sorted(rows, key=_position)


def _row(kind: str, resource: Json) -> Json:
    meta, stat = resource["metadata"], resource.get("status") or {}
    ready: Json = next((c for c in stat.get("conditions") or [] if c.get("type") == "Ready"), {})
    return {
        "kind": kind,
        "namespace": meta["namespace"],
        "name": meta["name"],
        "displayName": (resource.get("spec") or {}).get("displayName"),
        "state": "deleting" if meta.get("deletionTimestamp") else stat.get("state") or "pending",
        "reason": ready.get("reason"),
        "message": ready.get("message") or None,
        "serviceId": stat.get("serviceId"),
        "url": stat.get("url"),
        "createdAt": meta.get("creationTimestamp"),
    }


def _from_api(namespace: str | None) -> list[Json]:
    with Api() as api:
        spaces = api.call("GET", "/v1/workspaces")["workspaces"]
        rows: list[Json] = []
        for space in spaces:
            if namespace is not None and space["workspace"] != namespace:
                continue
            rows.append(_api_row(space))
            for plural in ("projects", "environments", "services"):
                found = api.call("GET", f"/v1/workspaces/{space['workspace']}/{plural}")[plural]
                rows.extend(_api_row(view) for view in found)
    return sorted(rows, key=_position)


def _api_row(view: Json) -> Json:
    return {
        "kind": view["kind"],
        "namespace": view["workspace"],
        "name": view["resourceName"],
        "displayName": view["name"],
        "state": view["state"],
        "reason": view["reason"],
        "message": view["message"],
        "serviceId": view.get("serviceId"),
        "url": view.get("url"),
        "createdAt": view["createdAt"],
    }


def _position(row: Json) -> tuple[str, int, str]:
    return row["namespace"], _ORDER.index(row["kind"]), row["name"]
