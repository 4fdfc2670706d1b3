"""What the shape API needs of the running server. Types only."""

from __future__ import annotations

from typing import Protocol

from switchgear_shapes.catalog import Catalog
from switchgear_shapes.creation import Creator
from switchgear_shapes.live import Live
from switchgear_shapes.log.registry import Registry
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.store import Store
from switchgear_shapes.reading import Reader
from switchgear_shapes.relations import Relation
from switchgear_shapes.replication.publication import Publication
from switchgear_shapes.settings import Settings
from switchgear_shapes.subset_query import Moment, Subsets


class Stack(Protocol):
    """What the API needs of the running server."""

    settings: Settings
    live: Live
    catalog: Catalog
    subsets: Subsets
    publication: Publication

    @property
    def creator(self) -> Creator | None: ...

    @property
    def store(self) -> Store | None:
        """The shapes, when they are this instance's to change."""

    @property
    def known(self) -> Registry | None:
        """The shapes to read from: the store's, or those that a standby reads along."""

    @property
    def reader(self) -> Reader | None: ...

    @property
    def read_only(self) -> bool:
        """Whether this instance waits for another one's lock, and serves that one's shapes meanwhile."""

    @property
    def active(self) -> bool: ...

    @property
    def serving(self) -> bool:
        """Whether known shapes may be read."""

    @property
    def waiting_for(self) -> str: ...

    def moment(self, shape: Shape, relation: Relation) -> Moment | None:
        """How to take a snapshot that a reader can join with the shape's log; None when any snapshot will do."""

    async def wait_active(self, seconds: float) -> bool: ...
