"""From the parameters of a request to its definition, and to the shape: found, or begun.

What is cached of a table may be old: a request that is wrong by it is looked at again with what Postgres says now.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from switchgear_shapes import errors
from switchgear_shapes.definition import Definition, define, no_such_table
from switchgear_shapes.errors import ShapeError
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.relations import Relation
from switchgear_shapes.request import ShapeParams, ShapeRequest
from switchgear_shapes.stack import Stack
from switchgear_shapes.subset_query import SubsetQuery
from switchgear_shapes.subset_request import subset_error

READY_SECONDS = 5.0
"""How long a request waits for this instance to become able to make shapes."""
NOT_YET = "are not supported by this server yet; leave the parameter out."
REMEMBERED = 100_000
REMEMBERED_WEIGHT = 512
"""Parameters with more text than this are resolved anew each time, so that what is remembered stays small."""


class Resolver:
    """Definitions by their parameters."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._resolved: OrderedDict[ShapeParams, Shape] = OrderedDict()

    def known(self, params: ShapeParams) -> Shape | None:
        """The living shape of parameters that were resolved before."""
        shape = self._resolved.get(params)
        return shape if shape is not None and shape.alive else None

    async def definition(self, params: ShapeParams) -> tuple[Definition, Relation]:
        """What the parameters mean, and the table. Raises ShapeError."""
        try:
            return await self._definition(params)
        except ShapeError as error:  # perhaps not wrong, but newer than what is cached
            if error.status != 400:
                raise
        self._stack.catalog.forget(params.schema, params.table)
        return await self._definition(params)

    async def _definition(self, params: ShapeParams) -> tuple[Definition, Relation]:
        relation = await self._stack.catalog.get(params.schema, params.table)
        if relation is None:
            raise no_such_table(params)
        if params.where is not None or params.values:
            raise errors.invalid("where", f"Where clauses {NOT_YET}")
        return define(params, relation, stored_generated=self._stack.stored_generated), relation

    async def subset(self, request: ShapeRequest) -> SubsetQuery:
        """The checked query that a request for a subset means. Raises ShapeError."""
        subset = request.subset
        assert subset is not None
        definition, relation = await self.definition(request.params)
        if subset.where is not None or subset.order_by is not None:
            raise subset_error(where=[f"Where clauses {NOT_YET}"])
        return SubsetQuery(definition, relation, None, None, subset.limit, subset.offset)

    async def shape(self, params: ShapeParams) -> Shape:
        """The shape of these parameters, made if need be. The creation checks what is cached of the table."""
        definition, relation = await self.definition(params)
        return await self.find(params, definition, relation)

    async def find(self, params: ShapeParams, definition: Definition, relation: Relation) -> Shape:
        """The shape of a definition, begun if there is none. Raises ShapeError (503)."""
        stack = self._stack
        if stack.read_only:
            found = await self._made_elsewhere(definition)
            if found is not None:
                self._remember(params, found)
                return found
        store, creator = stack.store, stack.creator
        if store is None or creator is None or not stack.active:
            raise errors.not_ready(stack.waiting_for)
        shape = store.by_identity.get(definition.identity)
        if shape is not None and not shape.definition.survives(
            definition.oid, definition.schema, definition.table, definition.signature
        ):
            store.drop(shape, "its table's definition changed")
            shape = None
        if shape is None:
            shape = store.create(definition)
            creator.start(shape, relation)
        self._remember(params, shape)
        return shape

    async def _made_elsewhere(self, definition: Definition) -> Shape | None:
        """On a standby: a new shape is for the instance that has the lock; None when this one has it in time."""
        stack = self._stack
        deadline = time.monotonic() + READY_SECONDS
        while stack.read_only:
            shape = None if stack.known is None else stack.known.by_identity.get(definition.identity)
            if shape is not None and shape.snapshot.complete:
                return shape
            if time.monotonic() > deadline or await stack.wait_active(0.2):
                break
        await stack.wait_active(max(0.0, deadline - time.monotonic()))
        return None

    def _remember(self, params: ShapeParams, shape: Shape) -> None:
        if params.weight > REMEMBERED_WEIGHT:
            return
        self._resolved[params] = shape
        self._resolved.move_to_end(params)
        if len(self._resolved) > REMEMBERED:
            self._resolved.popitem(last=False)
