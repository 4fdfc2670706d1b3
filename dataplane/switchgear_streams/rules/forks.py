"""Where a fork branches off. Pure; positions are stored bytes of the source."""

from __future__ import annotations

from switchgear_streams.rules import messages
from switchgear_wire.errors import HttpError


def sub_position(following: bytes, sub_offset: int, json: bool) -> int:
    """How many stored bytes `sub_offset` messages (JSON) or bytes of the append `following` are.

    Raises 400 FORK_SUB_OFFSET_TOO_LARGE.
    """
    taken = messages.nth_end(following, sub_offset) if json else sub_offset
    if taken is None or taken > len(following):
        raise HttpError(
            400, "FORK_SUB_OFFSET_TOO_LARGE", "Stream-Fork-Sub-Offset goes beyond the append that follows the offset."
        )
    return taken
