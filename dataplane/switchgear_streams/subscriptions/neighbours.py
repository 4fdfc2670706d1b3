"""The streams that are not in this process, as subscriptions see them. Here: that there are none.

`workers.directory` has them where several processes share one service.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from switchgear_streams.subscriptions.state import Subscription
from switchgear_wire.errors import HttpError


class Seen(Protocol):
    """What is looked at of a stream, wherever it is."""

    @property
    def generation(self) -> int: ...
    @property
    def space(self) -> int: ...
    @property
    def base(self) -> int: ...
    @property
    def visible(self) -> int: ...


class Neighbours:
    """See the module."""

    def get(self, key: bytes) -> Seen | None:
        """The stream as readers see it, as far as it is watched."""
        return None

    def items(self) -> Iterable[tuple[bytes, Seen]]:
        """All that are watched."""
        return ()

    async def watch(self, subscription: Subscription, explicit: Iterable[bytes]) -> None:
        """From now on hear of the streams that its pattern and `explicit` name; when this returns, `get` knows them."""

    def forget(self, subscription: Subscription) -> None:
        """It is gone."""

    def unlinked(self, subscription: Subscription, key: bytes) -> None:
        """It wants this stream no longer by its name."""

    async def catch_up(self) -> None:
        """When this returns, everything that was answered elsewhere before is known here."""

    async def settled(self) -> None:
        """Until everything that was accepted elsewhere is durable."""

    async def position(self, key: bytes, token: str) -> int:
        """The position of an offset in one of these streams. Raises HttpError."""
        raise HttpError(404, "STREAM_NOT_FOUND", "There is no stream at this path; create it with PUT.")
