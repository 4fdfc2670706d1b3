"""Reads the world into one frozen snapshot for a key. Reads only.

Order matters in one place: the namespace is read after the Secrets, so that a namespace that began to go away
meanwhile is seen as going away.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from switchgear_model import conditions as c
from switchgear_model import credentials, ids, labels
from switchgear_model.kinds import (
    KINDS,
    PROJECT,
    WORKSPACE,
    Meta,
    Parent,
    Resource,
    SecretKeyRef,
    Service,
    StreamsService,
    SyncSource,
    claimed_id,
    short_name,
)
from switchgear_operator.decide import Snapshot
from switchgear_operator.decide.sync_source import probe_url
from switchgear_operator.edges import Edges
from switchgear_operator.jobs import Jobs
from switchgear_operator.kube.client import KubeClient
from switchgear_operator.kube.refs import Ref
from switchgear_operator.region_key import RegionKey
from switchgear_operator.snapshot import (
    Children,
    Config,
    JobView,
    NamespaceSnapshot,
    Need,
    ParentSnapshot,
    ParentView,
    ServiceSnapshot,
    UserSecret,
)
from switchgear_operator.specs import roles, secrets
from switchgear_operator.store import NAMESPACE_KIND, Key, Store, is_below, key_of, oldest, parent_key, parsed

PROBE: Final = "probe"
CLEANUP: Final = "cleanup"


def probe_digest(url: str, publishes: bool) -> str:
    """Tells one input of a probe from another; stays in memory."""
    return hashlib.sha256(f"{publishes}\0{url}".encode()).hexdigest()


def cleanup_digest(url: str | None) -> str:
    """Tells the cleanup of one database from that of another; stays in memory."""
    return hashlib.sha256((url or "").encode()).hexdigest()


class Observer:
    """Everything that reading needs, in one place."""

    def __init__(
        self, kube: KubeClient, config: Config, store: Store, jobs: Jobs, edges: Edges, region_key: RegionKey
    ) -> None:
        self._kube = kube
        self._config = config
        self._store = store
        self._jobs = jobs
        self._edges = edges
        self._region_key = region_key

    async def observe(self, key: Key) -> Snapshot | None:
        """The snapshot for a key; None when the object is gone. Raises `ApiError`, `RetryLater`."""
        kind, namespace, name = key
        if kind == NAMESPACE_KIND:
            return await self._namespace(name)
        raw = await self._kube.get(Ref(kind, namespace, name))
        obj = parsed(raw) if raw is not None else None
        if obj is None:
            return None
        if isinstance(obj, SyncSource | StreamsService):
            return await self._service(obj)
        return await self._parent(obj)

    async def complete(self, snapshot: Snapshot, needs: Iterable[Need]) -> Snapshot:
        """The snapshot with what a decision asked for."""
        if isinstance(snapshot, ServiceSnapshot) and Need.EDGES in set(needs):
            bearer = credentials.edge_internal_key(await self._region_key.get())
            return replace(snapshot, edges=await self._edges.ask(snapshot.service_id, bearer))
        return snapshot

    async def _namespace(self, name: str) -> NamespaceSnapshot:
        bindings = await self._bindings(name)
        left = bool(bindings) and await self._any_left(name)
        return NamespaceSnapshot(name, left, bindings)

    async def _any_left(self, namespace: str) -> bool:
        for kind in KINDS:
            if await self._kube.list(Ref(kind, namespace)):
                return True
        return False

    async def _bindings(self, namespace: str) -> dict[str, Mapping[str, Any]]:
        found = await asyncio.gather(*(self._kube.get(Ref("RoleBinding", namespace, role)) for role in roles.ACCOUNTS))
        return {
            role: binding
            for role, binding in zip(roles.ACCOUNTS, found, strict=True)
            if binding is not None and (binding["metadata"].get("labels") or {}).get(labels.MANAGED_BY)
        }

    async def _parent(self, obj: Parent) -> ParentSnapshot:
        namespace = obj.meta.namespace
        around = list(self._store.namespace(namespace))
        if obj.kind == WORKSPACE:
            siblings: list[Resource] = [o for o in around if o.kind == WORKSPACE]
            if obj.meta.deleting is not None:
                # Deleting is for the holder alone: whether it is the oldest must not be judged by an old mirror.
                raws = await self._kube.list(Ref(WORKSPACE, namespace))
                siblings = [o for o in map(parsed, raws) if o is not None]
            bindings = await self._bindings(namespace)
            return ParentSnapshot(
                self._config,
                obj,
                holder=_older(obj, siblings),
                namespace_terminating=await self._terminating(namespace),
                below=await self._below(obj),
                bindings=bindings,
            )
        parent, siblings = await self._parent_view(obj, around), _siblings(obj, around)
        return ParentSnapshot(
            self._config, obj, parent=parent, holder=_older(obj, siblings), below=await self._below(obj)
        )

    async def _below(self, obj: Parent) -> tuple[Resource, ...]:
        """What refers to an object that is being deleted, read afresh: nothing may be overlooked."""
        if obj.meta.deleting is None:
            return ()
        found: list[Resource] = []
        for kind, info in KINDS.items():
            if info.parent == obj.kind:
                items = map(parsed, await self._kube.list(Ref(kind, obj.meta.namespace)))
                found += [item for item in items if item is not None and is_below(item, obj)]
        return tuple(found)

    async def _parent_view(self, obj: Resource, around: list[Resource]) -> ParentView:
        kind = KINDS[obj.kind].parent
        assert kind is not None
        key = parent_key(obj, around)
        if key is None:
            # The mirror may be a moment late, a Workspace is looked for only here.
            raws = await self._kube.list(Ref(WORKSPACE, obj.meta.namespace)) if obj.kind == PROJECT else []
            found = oldest(o for o in map(parsed, raws) if o is not None)
        else:
            raw = await self._kube.get(Ref(*key))
            found = parsed(raw) if raw is not None else None
        if found is None:
            return ParentView(kind, key[2] if key else "", found=False)
        return ParentView(
            kind,
            found.meta.name,
            found=True,
            deleting=found.meta.deleting is not None,
            ready=c.is_true(found.status.conditions, c.READY),
        )

    async def _terminating(self, namespace: str) -> bool:
        found = await self._kube.get(Ref("Namespace", "", namespace))
        return found is None or found["metadata"].get("deletionTimestamp") is not None

    async def _service(self, obj: Service) -> ServiceSnapshot:
        service_id = claimed_id(obj)
        namespace = obj.meta.namespace
        around = list(self._store.namespace(namespace))
        key = await self._region_key.get()
        binding = await self._kube.get(Ref("RoleBinding", namespace, labels.OPERATOR_SECRETS_ROLE))
        parent = await self._parent_view(obj, around)
        # Without the binding we have no rights to Secrets here.
        readable = binding is not None
        children, url, pooled = await asyncio.gather(
            self._children(namespace, service_id, readable),
            self._user_secret(obj, readable, pooled=False),
            self._user_secret(obj, readable, pooled=True),
        )
        snapshot = ServiceSnapshot(
            config=self._config,
            obj=obj,
            service_id=service_id,
            parent=parent,
            id_holder=await self._id_holder(obj, service_id),
            name_holder=_older(obj, _siblings(obj, around)),
            namespace_terminating=await self._terminating(namespace),
            readable=readable,
            children=children,
            pod_key=credentials.pod_key(key, service_id),
            url=url,
            pooled_url=pooled,
            cleanup=self._jobs.view(
                obj.meta.uid, CLEANUP, cleanup_digest(secrets.read(children.database, labels.DATABASE_URL_KEY))
            ),
        )
        return replace(snapshot, probe=self._probe_view(snapshot))

    def _probe_view(self, snapshot: ServiceSnapshot) -> JobView | None:
        obj, url = snapshot.obj, None
        if isinstance(obj, SyncSource):
            url = probe_url(snapshot)
            if url is not None:
                digest = probe_digest(url, not obj.spec.manual_table_publishing)
                return self._jobs.view(obj.meta.uid, PROBE, digest)
        return None

    async def _children(self, namespace: str, service_id: str, readable: bool) -> Children:
        name = ids.child_name(service_id)

        async def secret(secret_name: str) -> Mapping[str, Any] | None:
            return await self._kube.get(Ref("Secret", namespace, secret_name)) if readable else None

        found = await asyncio.gather(
            secret(name),
            secret(ids.key_secret_name(service_id)),
            secret(ids.database_secret_name(service_id)),
            self._kube.get(Ref("PersistentVolumeClaim", namespace, name)),
            self._kube.get(Ref("StatefulSet", namespace, name)),
            self._kube.get(Ref("Service", namespace, name)),
            self._kube.get(Ref("NetworkPolicy", namespace, name)),
            self._kube.get(Ref("Pod", namespace, ids.pod_name(service_id))),
        )
        return Children(*found)

    async def _user_secret(self, obj: Service, readable: bool, *, pooled: bool) -> UserSecret | None:
        if not isinstance(obj, SyncSource):
            return None
        database = obj.spec.database
        ref: SecretKeyRef | None = database.pooled_url_secret_ref if pooled else database.url_secret_ref
        if ref is None:
            return None
        found = await self._kube.get(Ref("Secret", obj.meta.namespace, ref.name)) if readable else None
        return UserSecret(ref.name, ref.key, found is not None, secrets.read(found, ref.key))

    async def _id_holder(self, obj: Service, service_id: str) -> Meta | None:
        """The older object with the same id. Given ids are compared afresh: two may have come at once."""
        if obj.spec.service_id is None:
            claimants = [found for key in self._store.claimants(service_id) if (found := self._store.get(key))]
            return _older(obj, claimants)
        everyone: list[Resource] = []
        for kind, info in KINDS.items():
            if info.is_service:
                everyone += [o for o in map(parsed, await self._kube.list(Ref(kind, ""))) if o is not None]
        same = [o for o in everyone if isinstance(o, SyncSource | StreamsService) and claimed_id(o) == service_id]
        return _older(obj, same)


def _siblings(obj: Resource, around: Iterable[Resource]) -> list[Resource]:
    """Objects of the same rank below the same parent and with the same short name."""
    objects = list(around)
    parent = KINDS[obj.kind].parent
    mine = parent_key(obj, objects)
    return [
        other
        for other in objects
        if KINDS[other.kind].parent == parent
        and short_name(other) == short_name(obj)
        and parent_key(other, objects) == mine
    ]


def _older(obj: Resource, others: Iterable[Resource]) -> Meta | None:
    """The oldest of the others, if it is older than this object."""
    holder = oldest(other for other in others if key_of(other) != key_of(obj))
    if holder is not None and holder.meta.age_order < obj.meta.age_order:
        return holder.meta
    return None
