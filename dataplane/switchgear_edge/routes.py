"""The table of services and their ready pods, built from what the watchers see. Pure: no clock, no I/O.

Invariants: a service id belongs to the oldest object that carries it (creationTimestamp, then UID), whatever its kind;
a pod serves only an object of its own namespace; an object that cannot be read is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from switchgear_edge.credentials import SLOTS, SecretHash
from switchgear_edge.paths import Family
from switchgear_model import kinds, labels

FAMILY_OF = {kinds.SYNC_SOURCE: Family.SHAPE, kinds.STREAMS_SERVICE: Family.STREAM}
_CLOSED_STATES = frozenset({kinds.SUSPENDED, kinds.DELETING})
Key = tuple[str, str]
_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class ServiceObject:
    """What the edge needs of a SyncSource or StreamsService. `closed` is the reason not to serve it, or ""."""

    kind: str
    namespace: str
    name: str
    uid: str
    created: str
    service_id: str
    state: str
    closed: str
    hashes: tuple[SecretHash, ...]


@dataclass(frozen=True, slots=True)
class PodObject:
    """A pod of a service; `address` is None unless it is Ready, has an IP and a port, and is not being deleted."""

    namespace: str
    name: str
    created: str
    service_id: str
    owner_uid: str
    address: tuple[str, int] | None


@dataclass(frozen=True, slots=True)
class Route:
    """A service id that somebody holds. `authorization` is the header value that its pod accepts."""

    service: ServiceObject
    family: Family
    address: tuple[str, int] | None
    authorization: bytes


class RouteTable:
    """Service id → Route. `authorization` makes the header value for a service id."""

    def __init__(self, authorization: Callable[[str], bytes]) -> None:
        self._authorization = authorization
        self._services: dict[str, dict[Key, ServiceObject]] = {kind: {} for kind in FAMILY_OF}
        self._pods: dict[Key, PodObject] = {}
        self._claims: dict[str, set[tuple[str, Key]]] = {}
        self._pods_of: dict[str, set[Key]] = {}
        self._routes: dict[str, Route] = {}

    def __len__(self) -> int:
        return len(self._routes)

    @property
    def pods(self) -> int:
        return len(self._pods)

    def find(self, service_id: str) -> Route | None:
        return self._routes.get(service_id)

    def apply_service(self, kind: str, raw: Mapping[str, Any]) -> str | None:
        """An object was added or changed. Returns why it cannot be read, if it cannot."""
        made, problem = _read(lambda: read_service(kind, raw))
        self._set_service(kind, object_key(raw), made)
        return problem

    def delete_service(self, kind: str, key: Key) -> None:
        self._set_service(kind, key, None)

    def service_keys(self, kind: str) -> Iterable[Key]:
        return list(self._services[kind])

    def apply_pod(self, raw: Mapping[str, Any]) -> str | None:
        """A pod with our label was added or changed. Returns why it cannot be read, if it cannot."""
        made, problem = _read(lambda: read_pod(raw))
        self._set_pod(object_key(raw), made)
        return problem

    def delete_pod(self, key: Key) -> None:
        self._set_pod(key, None)

    def pod_keys(self) -> Iterable[Key]:
        return list(self._pods)

    def _set_service(self, kind: str, key: Key, made: ServiceObject | None) -> None:
        old = self._services[kind].pop(key, None)
        if old is not None:
            _drop(self._claims, old.service_id, (kind, key))
        if made is not None and made.service_id:
            self._services[kind][key] = made
            self._claims.setdefault(made.service_id, set()).add((kind, key))
        for service_id in {o.service_id for o in (old, made) if o is not None}:
            self._rebuild(service_id)

    def _set_pod(self, key: Key, made: PodObject | None) -> None:
        old = self._pods.pop(key, None)
        if old is not None:
            _drop(self._pods_of, old.service_id, key)
        if made is not None:
            self._pods[key] = made
            self._pods_of.setdefault(made.service_id, set()).add(key)
        for service_id in {o.service_id for o in (old, made) if o is not None}:
            self._rebuild(service_id)

    def _rebuild(self, service_id: str) -> None:
        claims = [self._services[kind][key] for kind, key in self._claims.get(service_id, ())]
        if not claims:
            self._routes.pop(service_id, None)
            return
        holder = min(claims, key=lambda o: (o.created, o.uid))
        ready = [
            pod
            for pod in (self._pods[key] for key in self._pods_of.get(service_id, ()))
            if pod.address is not None and pod.namespace == holder.namespace and pod.owner_uid in ("", holder.uid)
        ]
        address = max(ready, key=lambda p: (p.created, p.name)).address if ready else None
        known = self._routes.get(service_id)
        authorization = known.authorization if known is not None else self._authorization(service_id)
        self._routes[service_id] = Route(holder, FAMILY_OF[holder.kind], address, authorization)


def _read(make: Callable[[], _Made | None]) -> tuple[_Made | None, str | None]:
    try:
        return make(), None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        return None, f"{type(error).__name__}: {error}"


def _drop(index: dict[str, set[Any]], service_id: str, entry: object) -> None:
    entries = index[service_id]
    entries.discard(entry)
    if not entries:
        del index[service_id]


def object_key(raw: Mapping[str, Any]) -> Key:
    """(namespace, name)."""
    metadata = raw.get("metadata") or {}
    return metadata.get("namespace") or "", metadata.get("name") or ""


def read_service(kind: str, raw: Mapping[str, Any]) -> ServiceObject:
    """Raises ValueError and the like for what is no object of ours. A hash that cannot be read is left out: it fails
    closed, for that secret alone."""
    meta = kinds.parse_meta(raw["metadata"])
    status = raw.get("status") or {}
    state = status.get("state") or ""
    hashes = [_read_hash(entry) for entry in status.get("secretHashes") or ()]
    closed = kinds.DELETING if meta.deleting else state if state in _CLOSED_STATES else ""
    return ServiceObject(
        kind=kind,
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        created=meta.created,
        service_id=status.get("serviceId") or "",
        state=state,
        closed=closed,
        hashes=tuple([h for h in hashes if h is not None][:SLOTS]),
    )


def _read_hash(entry: Mapping[str, Any]) -> SecretHash | None:
    try:
        digest = bytes.fromhex(entry["sha256"])
        expires = entry.get("expiresAt")
        if len(digest) != 32:
            return None
        moment = None if expires is None else datetime.fromisoformat(expires)
        if moment is not None and moment.tzinfo is None:
            return None
        return SecretHash(digest, None if moment is None else moment.timestamp())
    except (ValueError, TypeError, KeyError):
        return None


def read_pod(raw: Mapping[str, Any]) -> PodObject | None:
    """The pod, None if it is of no service. Raises ValueError and the like for what is no pod."""
    meta = kinds.parse_meta(raw["metadata"])
    service_id = meta.labels.get(labels.SERVICE_ID, "")
    if not service_id:
        return None
    status = raw.get("status") or {}
    conditions = status.get("conditions") or ()
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
    ip = status.get("podIP") or ""
    port = _port(raw)
    usable = ready and ip and port and not meta.deleting
    return PodObject(
        namespace=meta.namespace,
        name=meta.name,
        created=meta.created,
        service_id=service_id,
        owner_uid=meta.labels.get(labels.OWNER_UID, ""),
        address=(ip, port) if usable else None,
    )


def _port(raw: Mapping[str, Any]) -> int:
    for container in (raw.get("spec") or {}).get("containers") or ():
        for port in container.get("ports") or ():
            if port.get("name") == labels.PORT_NAME:
                return int(port["containerPort"])
    return 0
