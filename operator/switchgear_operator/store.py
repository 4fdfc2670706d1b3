"""What we know of our own kinds: a mirror of all objects, fed by the watches and corrected by every walk.

Deciding takes siblings and children from here, where being a moment late does no harm; the object itself, its
references and its children are read from the API server, and so are objects below a parent that is being deleted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from switchgear_model.fields import ModelError
from switchgear_model.kinds import (
    KINDS,
    PROJECT,
    WORKSPACE,
    Resource,
    StreamsService,
    SyncSource,
    claimed_id,
    parent_name,
    parse,
)

_log = logging.getLogger(__name__)

#: (kind, namespace, name)
Key = tuple[str, str, str]

NAMESPACE_KIND: Final = "Namespace"


@dataclass(frozen=True, slots=True)
class Change:
    """What an update did: the object before and after; both None when nothing is new."""

    before: Resource | None
    after: Resource | None


class Store:
    """All objects of our kinds by key, with the few indexes that reconciling asks for."""

    def __init__(self) -> None:
        self._objects: dict[Key, Resource] = {}
        self._namespaces: dict[str, dict[Key, Resource]] = {}
        self._claims: dict[str, set[Key]] = {}
        self._uids: dict[str, Key] = {}
        #: When the watch of a kind last told us something, by monotonic time.
        self.heard: dict[str, float] = {}
        self._unheard: dict[Key, tuple[str, float]] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: Key) -> Resource | None:
        """The object as we know it."""
        return self._objects.get(key)

    def namespace(self, namespace: str) -> Iterator[Resource]:
        """All objects in a namespace."""
        yield from self._namespaces.get(namespace, {}).values()

    def everything(self) -> list[Resource]:
        """All objects."""
        return list(self._objects.values())

    def by_uid(self, uid: str) -> Key | None:
        """The key of the object with this UID."""
        return self._uids.get(uid)

    def claimants(self, service_id: str) -> list[Key]:
        """Services that claim an id."""
        return list(self._claims.get(service_id, ()))

    def update(self, raw: Mapping[str, Any], *, gone: bool) -> Change:
        """An event of a watch. An older state than the known one is ignored."""
        obj = parsed(raw)
        if obj is None:
            return Change(None, None)
        key = key_of(obj)
        self.heard[obj.kind] = time.monotonic()
        unheard = self._unheard.get(key)
        if unheard is not None and _newer_or_same(obj.meta.resource_version, unheard[0]):
            del self._unheard[key]
        before = self._objects.get(key)
        if before is not None and _newer(before.meta.resource_version, obj.meta.resource_version):
            return Change(None, None)
        if gone:
            if before is not None:
                self._remove(key)
            return Change(before or obj, None)
        self._put(key, obj)
        return Change(before, obj)

    def replace(self, kind: str, items: Iterable[Mapping[str, Any]]) -> list[Key]:
        """The whole of one kind, read by a walk. Returns the keys of objects that are gone.

        Whatever the walk sees and no watch has told us of stays under suspicion until a watch does (`stale`).
        """
        now = time.monotonic()
        seen: set[Key] = set()
        for item in items:
            obj = parsed(item)
            if obj is None:
                continue
            key = key_of(obj)
            seen.add(key)
            before = self._objects.get(key)
            if before is None or _newer(obj.meta.resource_version, before.meta.resource_version):
                self._unheard.setdefault(key, (obj.meta.resource_version, now))
                self._put(key, obj)
        gone = [key for key in self._objects if key[0] == kind and key not in seen]
        for key in gone:
            self._remove(key)
        for key in [key for key in self._unheard if key[0] == kind and key not in seen]:
            del self._unheard[key]
        return gone

    def trust(self) -> None:
        """What is known now counts as heard: for the first walk, which comes before the watches."""
        self._unheard.clear()

    def stale(self, seconds: float) -> list[Key]:
        """Objects whose change a walk found, and no watch reported within so many seconds: a watch is dead."""
        limit = time.monotonic() - seconds
        return [key for key, (_, since) in self._unheard.items() if since < limit]

    def _put(self, key: Key, obj: Resource) -> None:
        self._remove(key)
        self._objects[key] = obj
        self._uids[obj.meta.uid] = key
        self._namespaces.setdefault(obj.meta.namespace, {})[key] = obj
        if isinstance(obj, SyncSource | StreamsService):
            self._claims.setdefault(claimed_id(obj), set()).add(key)

    def _remove(self, key: Key) -> None:
        obj = self._objects.pop(key, None)
        if obj is None:
            return
        self._uids.pop(obj.meta.uid, None)
        inside = self._namespaces[obj.meta.namespace]
        inside.pop(key, None)
        if not inside:
            del self._namespaces[obj.meta.namespace]
        if isinstance(obj, SyncSource | StreamsService):
            claims = self._claims.get(claimed_id(obj), set())
            claims.discard(key)
            if not claims:
                self._claims.pop(claimed_id(obj), None)


def parsed(raw: Mapping[str, Any]) -> Resource | None:
    """The object, or None for one we cannot read (of a newer version of the kinds, say): it is left alone."""
    try:
        return parse(raw)
    except ModelError as error:
        metadata = raw.get("metadata") or {}
        _log.warning("%s %s/%s: %s", raw.get("kind"), metadata.get("namespace"), metadata.get("name"), error)
        return None


def key_of(obj: Resource) -> Key:
    """The key of an object."""
    return (obj.kind, obj.meta.namespace, obj.meta.name)


def parent_key(obj: Resource, objects: Iterable[Resource]) -> Key | None:
    """The key of what an object refers to; for a Project the Workspace that holds the namespace, if any."""
    kind = KINDS[obj.kind].parent
    if kind is None:
        return None
    if obj.kind == PROJECT:
        holder = oldest(o for o in objects if o.kind == WORKSPACE)
        return key_of(holder) if holder is not None else None
    name = parent_name(obj)
    assert name is not None
    return (kind, obj.meta.namespace, name)


def is_below(obj: Resource, parent: Resource) -> bool:
    """Whether an object refers to this one (a Project to every Workspace of its namespace: see `oldest`)."""
    if KINDS[obj.kind].parent != parent.kind or obj.meta.namespace != parent.meta.namespace:
        return False
    return obj.kind == PROJECT or parent_name(obj) == parent.meta.name


def oldest(objects: Iterable[Resource]) -> Resource | None:
    """The one that holds what several claim."""
    return min(objects, key=lambda obj: obj.meta.age_order, default=None)


def _newer(first: str, second: str) -> bool:
    """Whether the first resourceVersion is newer. Numbers in every storage that Kubernetes has."""
    return first.isdigit() and second.isdigit() and int(first) > int(second)


def _newer_or_same(first: str, second: str) -> bool:
    return first == second or _newer(first, second)
