"""What requests wait for, each with its bound: a server that is ready, a snapshot that has begun."""

from __future__ import annotations

import time

from switchgear_shapes import errors
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.resolving import READY_SECONDS
from switchgear_shapes.stack import Stack

SNAPSHOT_START_SECONDS = 60.0
LOOK_SECONDS = 0.2
"""How soon a request that waits sees that a standby can serve it."""


async def until_ready(stack: Stack, *, to_read: bool = True) -> None:
    """Raises ShapeError (503)."""
    deadline = time.monotonic() + READY_SECONDS
    while not (to_read and stack.read_only):
        left = deadline - time.monotonic()
        if await stack.wait_active(max(0.0, min(left, LOOK_SECONDS))):
            return
        if left <= 0:
            raise errors.not_ready(stack.waiting_for)


async def until_started(shape: Shape) -> None:
    """Until the snapshot has rows for readers, or has failed. Raises ShapeError (503)."""
    deadline = time.monotonic() + SNAPSHOT_START_SECONDS
    while not shape.snapshot.started:
        if not await shape.snapshot.changed(max(0.0, deadline - time.monotonic())):
            raise errors.snapshot_failed("The snapshot did not start in time")
