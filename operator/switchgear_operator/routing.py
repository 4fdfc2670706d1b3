"""Which keys an event concerns. Pure but for reading the mirror."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from switchgear_model import conditions as c
from switchgear_model import labels
from switchgear_model.conditions import Reason
from switchgear_model.kinds import PROJECT, WORKSPACE, Resource, StreamsService, SyncSource, claimed_id
from switchgear_operator.store import NAMESPACE_KIND, Change, Key, Store, is_below, key_of, parent_key

_CONTESTED = {Reason.NAME_TAKEN, Reason.NAMESPACE_TAKEN, Reason.SERVICE_ID_TAKEN}


def of_ours(store: Store, change: Change) -> set[Key]:
    """An object of ours changed: itself, what waits for it, what it waits for."""
    obj = change.after or change.before
    if obj is None:
        return set()
    keys = {key_of(obj)}
    around = list(store.namespace(obj.meta.namespace))
    came_or_went = change.before is None or change.after is None
    if came_or_went or _matters_below(change.before) != _matters_below(change.after):
        keys |= {key_of(other) for other in around if is_below(other, obj)}
        if obj.kind == WORKSPACE:
            keys |= {key_of(other) for other in around if other.kind in (WORKSPACE, PROJECT)}
    if change.after is None or change.after.meta.deleting is not None:
        parent = parent_key(obj, around)
        keys |= {parent} if parent is not None else set()
        keys |= _contenders(store, obj, around)
    if change.after is None:
        keys.add((NAMESPACE_KIND, "", obj.meta.namespace))
    return keys


def _matters_below(obj: Resource | None) -> tuple[bool, bool] | None:
    """The part of an object that those below it look at."""
    if obj is None:
        return None
    return c.is_true(obj.status.conditions, c.READY), obj.meta.deleting is not None


def _contenders(store: Store, obj: Resource, around: list[Resource]) -> set[Key]:
    """Objects that lost a claim which this one's going may free."""
    keys = set()
    for other in around:
        ready = c.find(other.status.conditions, c.READY)
        if ready is not None and ready.reason in _CONTESTED:
            keys.add(key_of(other))
    if isinstance(obj, SyncSource | StreamsService):
        keys |= set(store.claimants(claimed_id(obj)))
    return keys


def of_child(raw: Mapping[str, Any]) -> set[Key]:
    """A child changed: the service whose labels it carries."""
    metadata = raw.get("metadata") or {}
    found = metadata.get("labels") or {}
    kind, name = found.get(labels.KIND), found.get(labels.NAME)
    return {(kind, metadata["namespace"], name)} if kind and name else set()


def of_binding(store: Store, raw: Mapping[str, Any]) -> set[Key]:
    """A role binding changed: its namespace, and the Workspaces in it, which want it."""
    namespace = raw["metadata"]["namespace"]
    keys = {key_of(obj) for obj in store.namespace(namespace) if obj.kind == WORKSPACE}
    return keys | {(NAMESPACE_KIND, "", namespace)}


def of_namespace(store: Store, raw: Mapping[str, Any]) -> set[Key]:
    """A namespace began to go away: everything of ours in it."""
    metadata = raw["metadata"]
    if metadata.get("deletionTimestamp") is None:
        return set()
    keys = {key_of(obj) for obj in store.namespace(metadata["name"])}
    return keys | {(NAMESPACE_KIND, "", metadata["name"])}
