"""The answer of an append, which comes when that is durable.

With hundreds of answers a group, the turn that asyncio would put between "durable" and "answered" is a good part of the
time per append: what waits hears of it at once. So it must be quick, and must not raise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any, Protocol

from switchgear_wire.response import AnyResponse, Deferred, Response

log = logging.getLogger("switchgear.streams")


class Resolvable(Protocol):
    """What an entry of the log answers to."""

    def resolve(self, response: Response) -> None:
        """For the log's completion only: listeners run inside it."""


class Promise(Deferred):
    """That of a request: for its connection, or for one that awaits it."""

    __slots__ = ()
    in_a_row = True

    def resolve(self, response: Response) -> None:
        try:
            self.settle(response)
        except Exception:
            log.exception("an answer could not be given")

    def __await__(self) -> Generator[Any, None, Response]:
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

        def heard(answer: AnyResponse | None) -> None:
            if isinstance(answer, Response) and not future.done():
                future.set_result(answer)

        self.listen(heard)
        return future.__await__()


class Pending(asyncio.Future[Response]):
    """The same as a future."""

    _listener: Callable[[Any], object] | None = None

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        if self._listener is None and context is None and not self.done():
            self._listener = fn
        else:
            super().add_done_callback(fn, context=context)

    def resolve(self, response: Response) -> None:
        """Set the result and run the listener, unless somebody has cancelled."""
        if not self.done():
            self.set_result(response)
            if self._listener is not None:
                try:
                    self._listener(self)
                except Exception:
                    log.exception("an answer could not be given")
