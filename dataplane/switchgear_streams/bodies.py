"""Request bodies that come in pieces: received whole, within a bound for each and one for all of them together."""

from __future__ import annotations

from switchgear_wire.errors import BodyTooLarge, HttpError
from switchgear_wire.request import Request

BUDGET = 256 * 1_048_576
"""Bodies that are being received may take this much memory all together."""


class Bodies:
    """Those of one service."""

    def __init__(self) -> None:
        self._held = 0

    async def receive(self, request: Request, limit: int) -> bytes:
        """The whole body. Raises BodyTooLarge, ClientGone, 503 when too much is being received already."""
        if request.content_length is not None and request.content_length > limit:
            raise BodyTooLarge(limit)
        parts: list[bytes] = []
        size = 0
        try:
            async for chunk in request.chunks():
                size += len(chunk)
                self._held += len(chunk)
                if size > limit:
                    raise BodyTooLarge(limit)
                if self._held > BUDGET:
                    raise HttpError(
                        503, "OVERLOADED", "Too many large bodies at once; try again.", b"retry-after: 1\r\n"
                    )
                parts.append(chunk)
        finally:
            self._held -= size
        return parts[0] if len(parts) == 1 else b"".join(parts)
