"""`DELETE /v1/shape`: a shape ends because somebody says so. Answered when that is durable."""

from __future__ import annotations

import asyncio

from switchgear_shapes import errors
from switchgear_shapes.errors import ShapeError
from switchgear_shapes.parameters import Query
from switchgear_shapes.request import parse_params
from switchgear_shapes.resolving import Resolver
from switchgear_shapes.stack import Stack
from switchgear_shapes.waits import until_ready

DELETE_SECONDS = 30.0


async def delete(stack: Stack, resolver: Resolver, query: Query) -> None:
    """End the shape that the query names by its definition, its handle, or both. Raises ShapeError."""
    if not stack.settings.allow_shape_deletion:
        raise ShapeError(405, {"message": "DELETE not allowed"})
    await until_ready(stack, to_read=False)
    store = stack.store
    assert store is not None
    handle = query.values.get("handle") or None
    if handle is None and not query.values.get("table"):
        raise errors.invalid("handle", "can't be blank when shape definition is missing")
    by_handle = None if handle is None else store.by_handle.get(handle)
    shape = by_handle
    if query.values.get("table"):
        definition, _ = await resolver.definition(parse_params(query))
        shape = store.by_identity.get(definition.identity)
        if handle is not None and (by_handle is not shape or shape is None):
            raise errors.mismatch()
    if shape is None:
        raise ShapeError(404, {"message": "No existing shape found"})
    durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    store.drop(shape, "it was deleted by a request", lambda: None if durable.done() else durable.set_result(None))
    done, _ = await asyncio.wait([durable], timeout=DELETE_SECONDS)
    if not done:
        raise errors.not_ready("the disk of the sync server")
