"""Reads and writes resources: the only place that knows which calls to Kubernetes one call of this API makes.

Creating is a look and then a server-side apply without force, one at a time per workspace, so that of two callers
with one name the second gets 409 and changes nothing. Deleting names the UID it has looked at.
"""

from __future__ import annotations

import asyncio
import base64
import time
import weakref
from collections.abc import Mapping
from typing import Any

from switchgear_api import names
from switchgear_api.kube import Kube, segment
from switchgear_api.problems import Json, Problem, invalid, not_found
from switchgear_api.resources import build, views
from switchgear_api.resources.kinds import ENVIRONMENT, PROJECT, SERVICES, WORKSPACE, Kind
from switchgear_model import ids, labels

_CHILDREN: dict[str, tuple[Kind, ...]] = {
    WORKSPACE.kind: (PROJECT,),
    PROJECT.kind: (ENVIRONMENT,),
    ENVIRONMENT.kind: SERVICES,
}
_RESERVED_PREFIX = "kube-"
_RESERVED = frozenset({"default", "switchgear-system"})
_POLL_SECONDS = 0.25
_GRANT_SECONDS = 5.0


class Store:
    """Resources through one Kubernetes client."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def reachable(self) -> None:
        """Raises Problem 503 when the Kubernetes API does not answer."""
        await self._kube.get("/version")

    # Reading

    async def workspaces(self) -> list[Json]:
        """The Workspace of each namespace: the oldest, when there are several."""
        found = await self._kube.list_all(WORKSPACE.collection(None))
        oldest: dict[str, Json] = {}
        for resource in sorted(found, key=_age):
            oldest.setdefault(resource["metadata"]["namespace"], resource)
        return sorted(oldest.values(), key=lambda r: str(r["metadata"]["namespace"]))

    async def workspace(self, namespace: str) -> Json:
        """The Workspace of a namespace. Raises Problem 404."""
        found = await self._kube.list_all(WORKSPACE.collection(namespace)) if names.is_name(namespace) else []
        if not found:
            raise not_found("workspace", namespace, "this region")
        return min(found, key=_age)

    async def list_of(self, kind: Kind, namespace: str, parent: str | None = None) -> list[Json]:
        """All of a kind in a workspace, oldest first; below `parent` (a resource name) when that is given."""
        await self.workspace(namespace)
        found = await self._kube.list_all(kind.collection(namespace))
        return sorted((r for r in found if parent is None or kind.parent_of(r) == parent), key=_age)

    async def services(self, namespace: str, environment: str | None = None) -> list[Json]:
        """Both kinds of service."""
        both = [await self.list_of(kind, namespace, environment) for kind in SERVICES]
        return sorted((service for one in both for service in one), key=_age)

    async def one(self, kind: Kind, namespace: str, reference: str) -> Json:
        """The resource meant by a resource name, service id or short name. Raises Problem 404, or 409 if ambiguous."""
        return _only(await self.list_of(kind, namespace), reference, kind.word, namespace)

    async def service(self, namespace: str, reference: str) -> tuple[Kind, Json]:
        """The same for both kinds of service at once."""
        found = _only(await self.services(namespace), reference, "service", namespace)
        return next(kind for kind in SERVICES if kind.kind == found["kind"]), found

    async def secret(self, service: Json) -> str | None:
        """The secret of a service, or None while it has none.

        The Secret is looked up by the service's id and must be labelled with the resource's own UID: what a status
        says, or a service id that belongs to another resource, never opens another Secret.
        """
        reference = (service.get("status") or {}).get("secretRef") or {}
        name = ids.child_name(names.service_id(service))
        if reference.get("name") != name:
            return None
        found = await self._kube.find(_secret_path(service["metadata"]["namespace"], name))
        if found is None:
            return None
        owner = (found["metadata"].get("labels") or {}).get(labels.OWNER_UID)
        if owner != service["metadata"]["uid"]:
            return None
        value = (found.get("data") or {}).get(str(reference.get("key") or "secret"))
        return base64.b64decode(value).decode() if value else None

    # Writing

    async def create_workspace(self, name: str, spec: Mapping[str, Any]) -> Json:
        """The namespace, when missing, and its Workspace. Raises Problem 409 when the namespace has one already."""
        if not names.is_name(name):
            raise invalid("name: use at most 63 of a-z, 0-9 and '-', with a letter or digit at both ends")
        if name.startswith(_RESERVED_PREFIX) or name in _RESERVED:
            raise invalid(f"name: the namespace {name} belongs to the cluster; choose another name")
        async with self._lock(name):
            path = f"/api/v1/namespaces/{segment(name)}"
            found = await self._kube.find(path)
            if found is None:
                await self._kube.create("/api/v1/namespaces", build.namespace(name))
            elif found["metadata"].get("deletionTimestamp"):
                raise Problem(
                    409, "CONFLICT", f"The namespace {name} is still being deleted. Try again when it is gone."
                )
            elif await self._kube.list_all(WORKSPACE.collection(name)):
                raise Problem(409, "NAME_TAKEN", f"The namespace {name} has a workspace already.")
            return await self._apply_new(WORKSPACE, build.manifest(WORKSPACE, name, name, spec))

    async def create(
        self, kind: Kind, namespace: str, parent: str | None, short: str, wanted: str | None, spec: Mapping[str, Any]
    ) -> Json:
        """A resource named `wanted`, else by the convention. Raises Problem 409 when the name is taken."""
        if wanted is not None and not names.is_name(wanted):
            raise invalid("resourceName: use at most 63 of a-z, 0-9 and '-', with a letter or digit at both ends")
        async with self._lock(namespace):
            every = [r for one in _same_names(kind) for r in await self.list_of(one, namespace)]
            siblings = [r for r in every if kind.parent_of(r) == parent]
            if any(names.short_name(r) == short for r in siblings):
                raise _taken(kind, short, parent or namespace)
            used = {r["metadata"]["name"] for r in every if r["kind"] == kind.kind}
            options = (wanted,) if wanted is not None else names.candidates(parent, short)
            name = next((option for option in options if option not in used), None)
            if name is None:
                raise _taken(kind, options[0], namespace)
            return await self._apply_new(kind, build.manifest(kind, namespace, name, spec))

    async def create_secret(self, namespace: str, manifest: Json) -> None:
        """Makes a Secret; never changes one. The right to do so comes with a workspace's role binding, which the
        operator adds a moment after the workspace is made: it is waited for, _GRANT_SECONDS at most."""
        deadline = time.monotonic() + _GRANT_SECONDS
        while True:
            try:
                await self._kube.create(f"/api/v1/namespaces/{segment(namespace)}/secrets", manifest)
                return
            except Problem as problem:
                if problem.status != 403 or time.monotonic() >= deadline:
                    raise
            await asyncio.sleep(_POLL_SECONDS)

    async def delete(self, kind: Kind, resource: Json, *, force: bool, wait: float) -> bool:
        """Deletes what was looked at, and waits up to `wait` seconds for it to go; answers whether it has gone.

        Raises Problem 409 when something is below it and `force` is not set.
        """
        namespace = resource["metadata"]["namespace"]
        below = [] if force else await self._below(kind, resource)
        if below:
            word = kind.word
            raise Problem(
                409,
                f"{word.upper().replace(' ', '_')}_NOT_EMPTY",
                f"The {word} {names.short_name(resource)!r} still holds {_enumerate(below)}. "
                f"Delete that first, or delete the {word} with force.",
                [views.brief(r) for r in below],
            )
        path, uid = kind.path(namespace, resource["metadata"]["name"]), resource["metadata"]["uid"]
        await self._kube.delete(path, uid)
        deadline = time.monotonic() + wait
        while True:
            left = await self._kube.find(path)
            if left is None or left["metadata"]["uid"] != uid:
                return True
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(_POLL_SECONDS)

    async def await_secret(self, kind: Kind, service: Json, wait: float) -> tuple[Json, str | None]:
        """The newest state of a service and its secret, once there is one, at most `wait` seconds later."""
        deadline = time.monotonic() + wait
        path = kind.path(service["metadata"]["namespace"], service["metadata"]["name"])
        while True:
            secret = await self.secret(service)
            if secret is not None or time.monotonic() >= deadline or views.state(service) in ("error", "deleting"):
                return service, secret
            await asyncio.sleep(_POLL_SECONDS)
            service = await self._kube.find(path) or service

    async def _apply_new(self, kind: Kind, manifest: Json) -> Json:
        meta = manifest["metadata"]
        path = kind.path(meta["namespace"], meta["name"])
        if await self._kube.find(path) is not None:
            raise _taken(kind, meta["name"], meta["namespace"])
        created, resource = await self._kube.apply(path, manifest)
        if not created:
            raise _taken(kind, meta["name"], meta["namespace"])
        return resource

    async def _below(self, kind: Kind, resource: Json) -> list[Json]:
        namespace, name = resource["metadata"]["namespace"], resource["metadata"]["name"]
        parent = None if kind is WORKSPACE else name
        return [r for child in _CHILDREN.get(kind.kind, ()) for r in await self.list_of(child, namespace, parent)]

    def _lock(self, namespace: str) -> asyncio.Lock:
        lock = self._locks.get(namespace)
        if lock is None:
            lock = self._locks[namespace] = asyncio.Lock()
        return lock


def _same_names(kind: Kind) -> tuple[Kind, ...]:
    """The kinds that share one set of short names: the services of an environment do."""
    return SERVICES if kind in SERVICES else (kind,)


def _only(resources: list[Json], reference: str, word: str, namespace: str) -> Json:
    found = names.matching(resources, reference)
    if not found:
        raise not_found(word, reference, f"the workspace {namespace}")
    if len(found) > 1:
        options = ", ".join(str(r["metadata"]["name"]) for r in found)
        raise Problem(409, "AMBIGUOUS_NAME", f"{reference!r} may mean {options}. Use one of these resource names.")
    return dict(found[0])


def _taken(kind: Kind, name: str, where: str) -> Problem:
    code = f"{kind.word.upper().replace(' ', '_')}_NAME_ALREADY_EXISTS"
    return Problem(409, code, f"The {kind.word} {name!r} exists in {where} already. Choose another name.")


def _enumerate(resources: list[Json], most: int = 10) -> str:
    words = [f"{r['kind']} {names.short_name(r)}" for r in resources[:most]]
    return ", ".join(words) + (f" and {len(resources) - most} more" if len(resources) > most else "")


def _age(resource: Json) -> tuple[str, str]:
    meta = resource["metadata"]
    return str(meta.get("creationTimestamp") or ""), str(meta.get("uid") or "")


def _secret_path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{segment(namespace)}/secrets/{segment(name)}"
