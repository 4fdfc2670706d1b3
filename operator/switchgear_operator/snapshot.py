"""What deciding starts from: frozen values, one snapshot for one reconcile. Pure.

Children are kept as the API server's JSON (by convention never changed), because comparing needs all of it.
Texts that are secret are out of every ``repr``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from switchgear_model.kinds import Meta, Parent, Resource, Service

Json = Mapping[str, Any]


class Need(Enum):
    """Observations that cost something and are made only when a decision asks for them."""

    EDGES = "edges"


@dataclass(frozen=True, slots=True)
class JobView:
    """What is known of a job: `result` of the last finished run (None: none yet), how often in a row it has run."""

    running: bool
    result: Any = None
    finished: datetime | None = None
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Config:
    """The part of the settings that decisions depend on."""

    namespace: str
    region: str
    public_url: str
    shapes_image: str
    streams_image: str
    metrics_namespaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ParentView:
    """The object a reference points to. `found` False: there is none."""

    kind: str
    name: str
    found: bool
    deleting: bool = False
    ready: bool = False


@dataclass(frozen=True, slots=True)
class UserSecret:
    """A key of a user's Secret. `value` None: the Secret (`found` False) or the key in it is missing."""

    name: str
    key: str
    found: bool
    value: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Children:
    """The service's own objects as they are; None where there is none."""

    secret: Json | None = field(default=None, repr=False)
    key: Json | None = field(default=None, repr=False)
    database: Json | None = field(default=None, repr=False)
    pvc: Json | None = field(default=None, repr=False)
    statefulset: Json | None = field(default=None, repr=False)
    service: Json | None = field(default=None, repr=False)
    network_policy: Json | None = field(default=None, repr=False)
    pod: Json | None = field(default=None, repr=False)

    def present(self) -> list[Json]:
        """Those that exist."""
        every = (
            self.secret,
            self.key,
            self.database,
            self.pvc,
            self.statefulset,
            self.service,
            self.network_policy,
            self.pod,
        )
        return [child for child in every if child is not None]


@dataclass(frozen=True, slots=True)
class EdgeAnswer:
    """What one ready edge says about a service. `known` False: it has no route to it (`problem` says why)."""

    edge: str
    known: bool
    pod_ready: bool = False
    uid: str = ""
    secret_hashes: frozenset[str] = frozenset()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ServiceSnapshot:
    """A service and everything its reconcile depends on.

    `id_holder`: the older object that claims the same id. `name_holder`: the older sibling of the same short name.
    `probe` is about the URL that the user's Secret has now, `cleanup` about slot and
    publication in the database that our copy leads to.
    `edges` None: not asked; empty: there is no edge. `readable` False: we have no rights to Secrets in the
    namespace, so that Secrets among the children are unknown and not absent.
    """

    config: Config
    obj: Service
    service_id: str
    parent: ParentView
    id_holder: Meta | None = None
    name_holder: Meta | None = None
    namespace_terminating: bool = False
    readable: bool = True
    children: Children = Children()
    pod_key: str = field(default="", repr=False)
    url: UserSecret | None = None
    pooled_url: UserSecret | None = None
    probe: JobView | None = None
    cleanup: JobView | None = None
    edges: tuple[EdgeAnswer, ...] | None = None


@dataclass(frozen=True, slots=True)
class ParentSnapshot:
    """A Workspace, Project or Environment.

    `parent` None: it needs none. `holder`: the older object that holds the namespace (Workspaces) or the short name.
    `below`: the objects that refer to this one; read afresh from the API server when it is being deleted.
    `bindings`: the role bindings of its namespace by name (Workspaces only).
    """

    config: Config
    obj: Parent
    parent: ParentView | None = None
    holder: Meta | None = None
    namespace_terminating: bool = False
    below: tuple[Resource, ...] = ()
    bindings: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NamespaceSnapshot:
    """Role bindings of a namespace, and whether any object of ours is left in it (read afresh)."""

    name: str
    ours_left: bool
    bindings: Mapping[str, Json]
