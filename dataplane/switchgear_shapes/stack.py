"""What the shape API needs of the running server. Types only."""

from __future__ import annotations

from typing import Protocol

from switchgear_shapes.catalog import Catalog
from switchgear_shapes.creation import Creator
from switchgear_shapes.live import Live
from switchgear_shapes.log.store import Store
from switchgear_shapes.reading import Reader
from switchgear_shapes.settings import Settings
from switchgear_shapes.subset_query import Subsets


class Stack(Protocol):
    """What the API needs of the running server."""

    settings: Settings
    live: Live
    catalog: Catalog
    creator: Creator | None
    store: Store | None
    reader: Reader | None
    subsets: Subsets

    @property
    def active(self) -> bool: ...

    @property
    def serving(self) -> bool:
        """Whether known shapes may be read."""

    @property
    def stored_generated(self) -> bool: ...

    @property
    def waiting_for(self) -> str: ...

    async def wait_active(self, seconds: float) -> bool: ...
