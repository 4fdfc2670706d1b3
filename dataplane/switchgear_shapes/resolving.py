"""From the parameters of a request to its definition, and to the shape: found, or begun.

What is cached of a table may be old: a request that is wrong by it is looked at again with what Postgres says now.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable

from switchgear_shapes import errors
from switchgear_shapes.definition import Definition, define, no_such_table, publishable
from switchgear_shapes.errors import ShapeError, Unpublished
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.relations import Relation, obstacle
from switchgear_shapes.request import ShapeParams, ShapeRequest
from switchgear_shapes.stack import Stack
from switchgear_shapes.subset_query import INVALID_ENUM, SubsetQuery
from switchgear_shapes.subset_request import subset_error
from switchgear_shapes.where.expression import Where
from switchgear_shapes.where.parse import WhereError, is_quick, parse_where, tables_of
from switchgear_shapes.where.subset import never_fails, parse_order_by, parse_subset_where

READY_SECONDS = 5.0
"""How long a request waits for this instance to become able to make shapes."""
REMEMBERED = 100_000
REMEMBERED_CHARACTERS = 32_000_000
"""How many parameters, and how much text of theirs, are remembered; the least recently used ones go first."""


class Resolver:
    """Definitions by their parameters."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._resolved: OrderedDict[ShapeParams, Shape] = OrderedDict()
        self._characters = 0

    def known(self, params: ShapeParams) -> Shape | None:
        """The living shape of parameters that were resolved before."""
        shape = self._resolved.get(params)
        return shape if shape is not None and shape.alive else None

    async def definition(self, params: ShapeParams) -> tuple[Definition, Relation]:
        """What the parameters mean, and the table. Raises ShapeError."""
        catalog = self._stack.catalog
        relation = await catalog.get(params.schema, params.table)
        if relation is None:
            raise no_such_table(params)
        failure: ShapeError | None = None
        try:
            definition = await self._define(params, relation)
            if not self._unknown_here(definition):
                return definition, relation
        except ShapeError as error:
            if error.status != 400 and not isinstance(error, Unpublished):
                raise
            failure = error
        # Perhaps not wrong, but newer than what is cached.
        catalog.forget(params.schema, params.table)
        now = await catalog.get(params.schema, params.table)
        if now is None:
            raise no_such_table(params)
        published_now = failure is not None and await self._publishes_other_columns(now)
        if now == relation and not published_now and not _reads_others(params):
            if failure is not None:
                raise failure
            return definition, relation
        with contextlib.suppress(WhereError):
            for name in tables_of(params.where or "") if _reads_others(params) else ():
                catalog.forget(*name)
        return await self._define(params, now), now

    async def _publishes_other_columns(self, relation: Relation) -> bool:
        """Whether the publication carries generated columns of the table, unlike before, or no longer does."""
        return (
            any(publishable(c, relation) for c in relation.columns)
            and await self._stack.publication.look_at_generated()
        )

    def _unknown_here(self, definition: Definition) -> bool:
        """Whether a standby has no such shape: perhaps the table changed, of which nobody tells it."""
        known = self._stack.known
        return self._stack.read_only and known is not None and definition.identity not in known.by_identity

    async def _define(self, params: ShapeParams, relation: Relation) -> Definition:
        refused = obstacle(relation)
        if refused is not None:
            raise errors.invalid("table", refused)
        where = await self._where(params, relation)
        stored, publication = self._stack.publication.stored_generated, self._stack.settings.publication_name
        return define(params, relation, where, stored_generated=stored, publication=publication)

    async def _where(self, params: ShapeParams, relation: Relation) -> Where | None:
        text = params.where
        if text is None:
            return None
        try:
            relations = await self._relations(text) if _reads_others(params) else {}
            values = dict(enumerate(params.values, 1))
            stored = self._stack.publication.stored_generated
            where = await _aside(
                (text, *values.values()),
                lambda: parse_where(text, relation, values, relations, stored_generated=stored),
            )
        except WhereError as error:
            raise errors.invalid(error.field, error.message) from None
        return where

    async def _relations(self, text: str) -> dict[tuple[str, str], Relation]:
        """The tables that a clause's subqueries read, those that exist. Raises WhereError."""
        found = {name: await self._stack.catalog.get(*name) for name in sorted(tables_of(text))}
        relations = {name: relation for name, relation in found.items() if relation is not None}
        for relation in relations.values():
            refused = obstacle(relation)
            if refused is not None:
                raise WhereError(refused)
        return relations

    async def subset(self, request: ShapeRequest) -> SubsetQuery:
        """The checked query that a request for a subset means. Raises ShapeError."""
        subset = request.subset
        assert subset is not None
        definition, relation = await self.definition(request.params)
        queryable = request.params.queryable_columns
        condition = order_by = None
        try:
            if subset.where is not None:
                values = dict(enumerate(subset.params, 1))
                text = subset.where
                parsed = await _aside(
                    (text, *values.values()), lambda: parse_subset_where(text, relation, values, queryable)
                )
                condition = guarded(parsed, definition.where)
            if subset.order_by is not None:
                order_by = parse_order_by(subset.order_by, relation, queryable)
        except WhereError as error:
            raise _refused(error) from None
        return SubsetQuery(definition, relation, condition, order_by, subset.limit, subset.offset)

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
        if shape is not None and (
            shape.definition.rewritten(relation)
            or not shape.definition.survives(definition.oid, definition.schema, definition.table, definition.signature)
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
        if params not in self._resolved:
            self._characters += params.weight
        self._resolved[params] = shape
        self._resolved.move_to_end(params)
        while len(self._resolved) > REMEMBERED or self._characters > REMEMBERED_CHARACTERS:
            self._characters -= self._resolved.popitem(last=False)[0].weight


def guarded(condition: Where, main: Where | None) -> str:
    """The condition's SQL. One that can fail is evaluated only where the shape's own filter holds: its failing must not
    tell of other rows, and Postgres evaluates the sides of AND in any order."""
    if main is None or never_fails(condition.expression):
        return condition.sql
    return f"CASE WHEN ({main.sql}) THEN ({condition.sql}) END"


def _refused(error: WhereError) -> ShapeError:
    enum = error.message.find(INVALID_ENUM)
    if enum >= 0 and error.field == "where":
        return subset_error(where=error.message[enum:])
    return subset_error(**{error.field: [error.message]})


def _reads_others(params: ShapeParams) -> bool:
    """Whether the clause may have subqueries."""
    return params.where is not None and "select" in params.where.lower()


async def _aside(texts: tuple[str, ...], parse: Callable[[], Where]) -> Where:
    """Parse at once, or if that may take its time without keeping others waiting."""
    if is_quick(texts):
        return parse()
    return await asyncio.get_running_loop().run_in_executor(None, parse)
