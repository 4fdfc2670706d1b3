"""`apply`: server-side apply of any Kubernetes objects, without kubectl."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from switchgear_cli import cluster, manifests
from switchgear_cli.cluster import Cluster, ClusterError
from switchgear_cli.commands.region import DataDir
from switchgear_cli.context import current
from switchgear_cli.failures import Failure
from switchgear_cli.output import table

Json = dict[str, Any]
_CRD_SECONDS = 15.0

Kubeconfig = Annotated[Path | None, Parameter(help="Kubeconfig to use instead of the local region's or KUBECONFIG.")]


def register(app: App) -> None:
    """Adds the command."""
    app.command(apply, name="apply")


@dataclass(frozen=True)
class _Result:
    kind: str
    namespace: str | None
    name: str
    result: str
    failure: Failure | None = None

    @property
    def title(self) -> str:
        return f"{self.kind.lower()}/{self.name}"

    def as_json(self) -> Json:
        body = {"kind": self.kind, "namespace": self.namespace, "name": self.name, "result": self.result}
        return body if self.failure is None else {**body, "message": self.failure.message}


def apply(
    *,
    filename: Annotated[
        list[str],
        Parameter(
            name=("-f", "--filename"),
            help="File, directory or `-` for stdin; may be repeated.",
            negative=(),
            allow_leading_hyphen=True,
        ),
    ],
    namespace: Annotated[
        str | None, Parameter(name=("-n", "--namespace"), help="For objects that name no namespace.")
    ] = None,
    force_conflicts: Annotated[
        bool, Parameter(negative=(), help="Take fields over that another tool has set.")
    ] = False,
    dry_run: Annotated[
        bool, Parameter(negative=(), help="Let the API server check everything, change nothing.")
    ] = False,
    kubeconfig: Kubeconfig = None,
    data_dir: DataDir = None,
) -> int:
    """Apply the objects of YAML files to the local region, or the cluster of KUBECONFIG."""
    objects = manifests.read(filename)
    output = current().output
    with cluster.connect(kubeconfig, data_dir) as kube:
        output.note(f"Applying to {kube.server}")
        results = [_one(kube, found, namespace, force=force_conflicts, dry_run=dry_run) for found in objects]
    rows = [(r.title, r.namespace or "", r.result, r.failure.message if r.failure else "") for r in results]
    failures = [r.failure for r in results if r.failure is not None]
    columns = ["Object", "Namespace", "Result"] + (["Why"] if failures else [])
    human = table(columns, [row[: len(columns)] for row in rows])
    output.result([r.as_json() for r in results], human, [r.title for r in results])
    if failures:
        first = failures[0]
        many = f"{len(failures)} of {len(results)} objects were not applied; the first: " if len(results) > 1 else ""
        raise Failure(first.exit_code, many + first.message, first.word)
    return 0


def _one(kube: Cluster, manifest: Json, fallback: str | None, *, force: bool, dry_run: bool) -> _Result:
    kind, meta = manifest["kind"], manifest["metadata"]
    name, namespace = meta["name"], meta.get("namespace")
    try:
        if kube.is_namespaced(manifest["apiVersion"], kind):
            namespace = namespace or fallback or kube.namespace
        else:
            namespace = None
        path = kube.path(manifest["apiVersion"], kind, namespace, name)
        before = kube.find(path)
        created, after = kube.apply(path, manifest, force=force, dry_run=dry_run)
        if kind == "CustomResourceDefinition" and not dry_run:
            _await_served(kube, path)
    except ClusterError as error:
        return _Result(kind, namespace, name, "failed", _explain(error))
    if created:
        return _Result(kind, namespace, name, "created")
    same = before is not None and before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]
    return _Result(kind, namespace, name, "unchanged" if same else "configured")


def _explain(error: ClusterError) -> Failure:
    if error.status == 409 and "conflict" in error.message.lower():
        return Failure(error.exit_code, f"{error.message}; take the fields over with --force-conflicts", error.word)
    return error


def _await_served(kube: Cluster, path: str) -> None:
    """Waits until a new CRD's kind can be used by the objects that follow it."""
    deadline = time.monotonic() + _CRD_SECONDS
    while time.monotonic() < deadline:
        conditions = ((kube.find(path) or {}).get("status") or {}).get("conditions") or []
        if any(c.get("type") == "Established" and c.get("status") == "True" for c in conditions):
            break
        time.sleep(0.1)
    kube.forget()
