"""The future of an append: it calls its one listener at once instead of in the next turn of the loop.

With hundreds of answers a group, the turn that asyncio would put between "durable" and "answered" is a good part of the
time per append.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context
from typing import Any

from switchgear_wire.response import Response

log = logging.getLogger("switchgear.streams")


class Pending(asyncio.Future[Response]):
    """An answer to come. `resolve` is for the log's completion only: listeners run inside it."""

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
