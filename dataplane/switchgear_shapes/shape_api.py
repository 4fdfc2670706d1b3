"""`/v1/shape`: from a request to its answer, through the protocol's steps in their order.

authenticate → admit → body → parameters → shape (found or made) → handle → position → bytes or a wait.
A request that needs no waiting is answered synchronously.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import lru_cache

import orjson

from switchgear_shapes import answers, errors
from switchgear_shapes.admission import Admission
from switchgear_shapes.definition import define, no_such_table
from switchgear_shapes.errors import ShapeError
from switchgear_shapes.live_answers import Frames, LogAnswerer
from switchgear_shapes.live_requests import EventStream, LongPoll
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.offsets import BEFORE_ALL, INFINITY, Offset
from switchgear_shapes.reading import Reader
from switchgear_shapes.relations import schema_header
from switchgear_shapes.request import ShapeParams, ShapeRequest, check_body, parse, parse_params, query_map
from switchgear_shapes.stack import Stack
from switchgear_wire import AnyResponse, BodyTooLarge, ClientGone, Request, Response, StreamResponse
from switchgear_wire.query import parse_query

log = logging.getLogger("switchgear.shapes.api")

BODY_LIMIT = 8_000_000
READY_SECONDS = 5.0
SNAPSHOT_START_SECONDS = 60.0
RESOLVED_LIMIT = 100_000
CACHED_QUERY_BYTES = 2048

Answer = AnyResponse | Awaitable[AnyResponse]


class ShapeApi:
    """The handler of the shape route."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._settings = stack.settings
        self._secret = None if self._settings.secret is None else self._settings.secret.encode()
        self._resolved: OrderedDict[ShapeParams, Shape] = OrderedDict()
        self.admission = Admission(*self._settings.max_concurrent)

    def handle(self, request: Request) -> Answer:
        """Any method on the shape route."""
        base = answers.base_headers(request, answers.SHAPE_METHODS)
        if request.method == "OPTIONS":
            return Response(204, base + answers.preflight_headers(request))
        if request.method not in ("GET", "HEAD", "POST", "DELETE"):
            return not_found(base)
        try:
            query, parsed = (
                _parsed(request.query) if len(request.query) <= CACHED_QUERY_BYTES else _parse(request.query)
            )
            self._authenticate(request, query)
            if request.method == "DELETE":
                return self._guard(request, base, self._delete(base, query))
            if request.method == "POST" and request.has_body:
                return self._guard(request, base, self._with_body(request, base, parsed))
            if isinstance(parsed, ShapeError):
                raise parsed.with_traceback(None)
            return self._get(request, base, parsed)
        except ShapeError as error:
            return answers.error_response(request, base, error)
        except Exception as error:
            return _unexpected(request, base, error)

    # -- steps --

    def _authenticate(self, request: Request, query: dict[str, str]) -> None:
        if self._secret is None:
            return
        given = query.get("secret", query.get("api_secret"))
        if given is not None and hmac.compare_digest(given.encode("utf-8", "replace"), self._secret):
            return
        authorization = request.headers.get(b"authorization", b"")
        if authorization[:7].lower() == b"bearer " and hmac.compare_digest(authorization[7:].strip(), self._secret):
            return
        raise errors.unauthorized()

    async def _with_body(self, request: Request, base: bytes, parsed: ShapeRequest | ShapeError) -> AnyResponse:
        try:
            body = await request.read(BODY_LIMIT)
        except BodyTooLarge:
            raise ShapeError(413, {"error": "Request body too large"}) from None
        if body.strip():
            try:
                value = orjson.loads(body)
            except orjson.JSONDecodeError as error:
                details = str(error)
                raise ShapeError(400, {"error": "Invalid JSON in request body", "details": details}) from None
            check_body(value)
        if isinstance(parsed, ShapeError):
            raise parsed
        answer = self._get(request, base, parsed)
        return answer if isinstance(answer, AnyResponse) else await answer

    def _get(self, request: Request, base: bytes, sr: ShapeRequest) -> Answer:
        if self._stack.serving:
            shape = self._resolved.get(sr.params)
            if shape is not None and shape.alive:
                return self._with_shape(request, base, sr, shape)
        store = self._stack.store
        known = sr.handle is not None and store is not None and sr.handle in store.by_handle
        return self._admitted(request, base, "existing" if known else "initial", self._find(request, base, sr))

    async def _find(self, request: Request, base: bytes, sr: ShapeRequest) -> AnyResponse:
        """Find the shape by its definition, or make it."""
        if not await self._stack.wait_active(READY_SECONDS):
            raise errors.not_ready(self._stack.waiting_for)
        shape = await self._resolve(sr.params)
        if sr.handle is None:
            await self._started(shape)
            failure = shape.snapshot.failure
            if failure is not None and failure.status == 409:  # the table was altered since it was last looked at
                shape = await self._resolve(sr.params)
        answer = self._with_shape(request, base, sr, shape)
        return answer if isinstance(answer, AnyResponse) else await answer

    async def _resolve(self, params: ShapeParams) -> Shape:
        """The shape of these parameters, made if need be. What is cached of the table is checked by the creation."""
        stack = self._stack
        catalog = stack.catalog
        relation = await catalog.get(params.schema, params.table)
        if relation is None:
            raise no_such_table(params)
        try:
            definition = define(params, relation, stored_generated=stack.stored_generated)
        except ShapeError:  # perhaps not wrong, but newer than what is cached
            catalog.forget(params.schema, params.table)
            relation = await catalog.get(params.schema, params.table)
            if relation is None:
                raise no_such_table(params) from None
            definition = define(params, relation, stored_generated=stack.stored_generated)
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
        return self._remember(params, shape)

    def _remember(self, params: ShapeParams, shape: Shape) -> Shape:
        self._resolved[params] = shape
        self._resolved.move_to_end(params)
        if len(self._resolved) > RESOLVED_LIMIT:
            self._resolved.popitem(last=False)
        return shape

    # -- with a shape --

    def _with_shape(self, request: Request, base: bytes, sr: ShapeRequest, shape: Shape) -> Answer:
        if sr.handle is not None and sr.handle != shape.handle:
            return answers.must_refetch(request, base, shape.handle, sr.offset_text)
        shape.last_read = time.monotonic()
        schema = None
        if not sr.live:
            relation = self._stack.catalog.peek(shape.definition.schema, shape.definition.table)
            if relation is None or relation.oid != shape.definition.oid:
                return self._admitted(request, base, "existing", self._read_catalog(request, base, sr, shape))
            schema = schema_header(relation, shape.definition.columns)
        return self._at_position(request, base, sr, shape, schema)

    def _at_position(
        self, request: Request, base: bytes, sr: ShapeRequest, shape: Shape, schema: bytes | None
    ) -> Answer:
        snapshot = shape.snapshot
        if sr.offset is None or sr.offset == BEFORE_ALL:
            if not snapshot.started:
                return self._admitted(request, base, "initial", self._snapshot_start(request, base, sr, shape, schema))
            return self._initial(request, base, sr, shape, schema)
        if sr.offset[0] == 0 and sr.offset[1] < INFINITY:
            following = snapshot.exists(sr.offset[1] + 1)
            if following is None:
                return self._admitted(request, base, "existing", self._snapshot_end(request, base, sr, shape, schema))
            if following:
                return self._reader.chunk(request, base, sr, shape, sr.offset[1] + 1, schema)
        return self._log(request, base, sr, shape, sr.offset, schema)

    @property
    def _reader(self) -> Reader:
        reader = self._stack.reader
        assert reader is not None, "shapes exist only with a store"
        return reader

    async def _read_catalog(self, request: Request, base: bytes, sr: ShapeRequest, shape: Shape) -> AnyResponse:
        """Read the table again for the schema header; it may have become another one."""
        definition = shape.definition
        catalog = self._stack.catalog
        catalog.forget(definition.schema, definition.table)
        try:
            relation = await catalog.get(definition.schema, definition.table)
        except ShapeError:
            # Postgres is away; what is on disk can be read all the same.
            relation = catalog.last_known(definition.schema, definition.table)
            if relation is None:
                raise
        if relation is None or relation.oid != definition.oid:
            if self._stack.store is not None:
                self._stack.store.drop(shape, "its table was dropped or replaced")
            return answers.must_refetch(request, base, None, sr.offset_text)
        schema = schema_header(relation, definition.columns)
        answer = self._at_position(request, base, sr, shape, schema)
        return answer if isinstance(answer, AnyResponse) else await answer

    async def _snapshot_start(
        self, request: Request, base: bytes, sr: ShapeRequest, shape: Shape, schema: bytes | None
    ) -> AnyResponse:
        await self._started(shape)
        return self._initial(request, base, sr, shape, schema)

    async def _started(self, shape: Shape) -> None:
        """Wait until the snapshot has rows for readers, or has failed."""
        deadline = time.monotonic() + SNAPSHOT_START_SECONDS
        while not shape.snapshot.started:
            if not await shape.snapshot.changed(max(0.0, deadline - time.monotonic())):
                raise errors.snapshot_failed("The snapshot did not start in time")

    def _initial(
        self, request: Request, base: bytes, sr: ShapeRequest, shape: Shape, schema: bytes | None
    ) -> AnyResponse:
        failure = shape.snapshot.failure
        if sr.offset is None:
            if not shape.alive and failure is not None and failure.status != 409:
                raise failure
            return self._reader.nothing(request, base, sr, shape, schema)
        if failure is not None:
            if failure.status == 409:
                return answers.must_refetch(request, base, None, sr.offset_text)
            raise failure
        return self._reader.chunk(request, base, sr, shape, 0, schema)

    async def _snapshot_end(
        self, request: Request, base: bytes, sr: ShapeRequest, shape: Shape, schema: bytes | None
    ) -> AnyResponse:
        """The requested chunk is beyond the one being written: wait until it is known whether it exists."""
        assert sr.offset is not None
        number = sr.offset[1] + 1
        deadline = time.monotonic() + SNAPSHOT_START_SECONDS
        while shape.snapshot.exists(number) is None:
            left = deadline - time.monotonic()
            if shape.snapshot.failure is not None or not shape.alive:
                return answers.must_refetch(request, base, None, sr.offset_text)
            if left <= 0 or not await shape.snapshot.changed(left):
                raise errors.snapshot_failed("The snapshot is still being written; try again")
        answer = self._with_shape(request, base, sr, shape)
        return answer if isinstance(answer, AnyResponse) else await answer

    def _log(
        self, request: Request, base: bytes, sr: ShapeRequest, shape: Shape, offset: Offset, schema: bytes | None
    ) -> Answer:
        store = self._stack.store
        assert store is not None
        reader = self._reader
        if sr.live:
            offset = shape.log.resume(offset)
        ahead = offset > shape.log.latest and offset[0] > store.commit_lsn
        if not ahead:
            if sr.live and sr.sse:
                return self._events(request, base, sr, shape, offset)
            response = reader.after(request, base, sr, shape, offset, schema)
            if response is not None:
                return response
        answerer = LogAnswerer(self._stack, request, base, sr, shape, offset, schema, ahead)
        timeout = self._settings.long_poll_timeout
        return self._wait(request, base, shape, answerer, timeout / 2 if ahead else timeout)

    def _wait(self, request: Request, base: bytes, shape: Shape, answerer: LogAnswerer, seconds: float) -> Answer:
        if self._stack.live.stopped:
            return answerer.nothing()
        self.admission.enter("existing")
        try:
            poll = LongPoll(shape, answerer, self._stack.live, seconds)
        except BaseException:
            self.admission.leave("existing")
            raise
        poll.future.add_done_callback(lambda _: self.admission.leave("existing"))
        request.on_close(poll.cancel)
        return poll.future

    def _events(self, request: Request, base: bytes, sr: ShapeRequest, shape: Shape, offset: Offset) -> AnyResponse:
        reader = self._reader
        content_type = answers.EVENT_STREAM
        found = reader.events_after(shape, offset)
        if found is not None:
            events, end = found
            headers = reader.headers(request, base, sr, shape, end, schema=None, content_type=content_type)
            return Response(200, headers, events)
        headers = reader.headers(
            request, base, sr, shape, max(sr.offset or offset, shape.log.latest), schema=None, content_type=content_type
        )
        end = max(offset, shape.log.latest)
        self.admission.enter("existing")
        settings = self._settings
        stream = EventStream(shape, end, Frames(reader), self._stack.live, settings.sse_timeout, settings.sse_keepalive)
        stream.on_end = lambda: self.admission.leave("existing")
        response: StreamResponse = stream.response(200, headers)
        return response

    # -- DELETE --

    async def _delete(self, base: bytes, query: dict[str, str]) -> AnyResponse:
        if not self._settings.allow_shape_deletion:
            raise ShapeError(405, {"message": "DELETE not allowed"})
        if not await self._stack.wait_active(READY_SECONDS):
            raise errors.not_ready(self._stack.waiting_for)
        store = self._stack.store
        assert store is not None
        handle = query.get("handle") or None
        by_handle = None if handle is None else store.by_handle.get(handle)
        shape = by_handle
        if query.get("table") or handle is None:
            params = parse_params(query)
            relation = await self._stack.catalog.get(params.schema, params.table)
            if relation is None:
                raise no_such_table(params)
            definition = define(params, relation, stored_generated=self._stack.stored_generated)
            shape = store.by_identity.get(definition.identity)
            if handle is not None and (by_handle is not shape or shape is None):
                raise ShapeError(
                    400,
                    {
                        "message": "The specified shape definition and handle do not match."
                        " Please ensure the shape definition is correct or omit the shape handle from the request"
                        " to obtain a new one."
                    },
                )
        if shape is None:
            raise ShapeError(404, {"message": "No existing shape found"})
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        store.drop(shape, "it was deleted by a request", lambda: None if durable.done() else durable.set_result(None))
        await durable
        return Response(202, base + answers.NO_CACHE)

    # -- running coroutines --

    def _admitted(
        self, request: Request, base: bytes, kind: str, work: Awaitable[AnyResponse]
    ) -> Awaitable[AnyResponse]:
        try:
            self.admission.enter(kind)
        except ShapeError:
            _close(work)
            raise
        return self._guard(request, base, work, lambda: self.admission.leave(kind))

    async def _guard(
        self, request: Request, base: bytes, work: Awaitable[AnyResponse], done: Callable[[], None] = lambda: None
    ) -> AnyResponse:
        try:
            return await work
        except ShapeError as error:
            return answers.error_response(request, base, error)
        except ClientGone:
            raise
        except Exception as error:
            return _unexpected(request, base, error)
        finally:
            done()


def _unexpected(request: Request, base: bytes, error: Exception) -> Response:
    """A fault of this server: the client learns only that."""
    log.error("unexpected error in %s %s", request.method, request.path, exc_info=error)
    return answers.error_response(request, base, ShapeError(500, {"error": "Internal server error"}))


def not_found(base: bytes) -> Response:
    return Response(404, base + b"content-type: text/plain; charset=utf-8\r\n" + answers.DEFAULT_CACHE, b"Not found")


def _parse(raw: bytes) -> tuple[dict[str, str], ShapeRequest | ShapeError]:
    query = query_map(parse_query(raw))
    try:
        return query, parse(query)
    except ShapeError as error:
        return query, error


_parsed = lru_cache(maxsize=4096)(_parse)


def _close(work: Awaitable[AnyResponse]) -> None:
    close = getattr(work, "close", None)
    if close is not None:
        close()
