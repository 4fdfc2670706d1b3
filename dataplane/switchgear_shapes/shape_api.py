"""`/v1/shape`: from a request to its answer, through the protocol's steps in their order.

authenticate → admit → body → parameters → shape (found or made) → handle → position → bytes or a wait.
A request that needs no waiting is answered synchronously.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import time
from collections.abc import Awaitable
from dataclasses import replace
from functools import partial

from switchgear_shapes import answers, errors
from switchgear_shapes.admission import EXISTING, INITIAL, Admission, Permit
from switchgear_shapes.calls import CACHED_QUERY_BYTES, Answer, Call, close, not_found, parsed, settled, unexpected
from switchgear_shapes.deletion import delete
from switchgear_shapes.errors import ShapeError
from switchgear_shapes.live_answers import Frames, LogAnswerer, events
from switchgear_shapes.live_requests import EventStream, LongPoll
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.measures import RequestMeasures
from switchgear_shapes.offsets import BEFORE_ALL, INFINITY, Offset
from switchgear_shapes.parameters import Query
from switchgear_shapes.prepared import ChunkResponse, Prepared
from switchgear_shapes.reading import Reader
from switchgear_shapes.relations import schema_header
from switchgear_shapes.request import ShapeRequest, with_body
from switchgear_shapes.resolving import Resolver
from switchgear_shapes.stack import Stack
from switchgear_shapes.subqueries.queries import header_fields
from switchgear_shapes.subset_query import TableChanged
from switchgear_shapes.subset_request import from_body
from switchgear_shapes.together import TOGETHER
from switchgear_shapes.turns import Turns
from switchgear_shapes.waits import SNAPSHOT_START_SECONDS, until_ready, until_started
from switchgear_wire import AnyResponse, BodyBroken, BodyTooLarge, ClientGone, Request, Response, StreamResponse

log = logging.getLogger("switchgear.shapes.api")

BODY_LIMIT = 8_000_000
SUBSET_ATTEMPTS = 2


class ShapeApi:
    """The handler of the shape route."""

    def __init__(self, stack: Stack, measures: RequestMeasures) -> None:
        self._stack = stack
        self._measures = measures
        self._settings = stack.settings
        self._secret = None if self._settings.secret is None else self._settings.secret.encode()
        self._resolver = Resolver(stack)
        self._turns = Turns(max(self._settings.db_pool_size, 2 * TOGETHER))
        self.admission = Admission(*self._settings.max_concurrent)

    def handle(self, request: Request) -> Answer:
        """Any method on the shape route."""
        base = answers.base_headers(request, answers.SHAPE_METHODS)
        if request.method == "OPTIONS":
            return Response(204, base + answers.preflight_headers(request))
        if request.method not in ("GET", "HEAD", "POST", "DELETE"):
            return not_found(base)
        call = Call(request, base)
        answer = self._again(call) or self._answer(call)
        if isinstance(answer, AnyResponse):
            self._answered(call, answer)
        return answer

    def _again(self, call: Call) -> Answer | None:
        """A complete chunk whose answer is prepared; None for whatever takes another look, errors among them."""
        request, stack = call.request, self._stack
        reader = stack.reader
        if reader is None or request.method != "GET":
            return None
        prepared = reader.prepared.find(request.query, stack.catalog)
        if prepared is None or b"if-none-match" in request.headers or not stack.serving:
            return None
        if not self._authentic(request, prepared.query):
            return None
        return reader.again(prepared, call.base)

    def _prepare(self, call: Call, query: Query, sr: ShapeRequest, answer: Answer) -> None:
        """Keep what the next one who asks the same is answered with."""
        request, reader = call.request, self._stack.reader
        if not isinstance(answer, ChunkResponse) or sr.live or request.method != "GET" or reader is None:
            return
        definition = answer.shape.definition
        relation = self._stack.catalog.peek(definition.schema, definition.table)
        if relation is not None and len(request.query) <= CACHED_QUERY_BYTES:
            headers = answer.headers[len(call.base) :]
            reader.prepared.keep(request.query, Prepared(query, answer, headers, relation))

    def _answered(self, call: Call, answer: AnyResponse) -> AnyResponse:
        self._measures.answered(answer, call.started, call.live)
        return answer

    def _answer(self, call: Call) -> Answer:
        request = call.request
        try:
            query, asked = parsed(request.query)
            if not self._authentic(request, query):
                raise errors.unauthorized()
            if request.method == "DELETE":
                return self._admitted(call, EXISTING, self._delete(call, query))
            if request.method == "POST" and request.has_body:
                known = self._knows(query.values.get("handle"))
                return self._admitted(call, EXISTING if known else INITIAL, self._with_body(call, asked))
            if isinstance(asked, ShapeError):
                raise asked.with_traceback(None)
            answer = self._get(call, asked)
            self._prepare(call, query, asked, answer)
            return answer
        except ShapeError as error:
            return answers.error_response(request, call.base, error)
        except Exception as error:
            return unexpected(call, error)

    # -- steps --

    def _authentic(self, request: Request, query: Query) -> bool:
        if self._secret is None:
            return True
        given = query.values.get("secret", query.values.get("api_secret"))
        if given is not None and hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._secret):
            return True
        authorization = request.headers.get(b"authorization", b"")
        return authorization[:7].lower() == b"bearer " and hmac.compare_digest(authorization[7:].strip(), self._secret)

    def _knows(self, handle: str | None) -> bool:
        known = self._stack.known
        return handle is not None and known is not None and handle in known.by_handle

    async def _with_body(self, call: Call, asked: ShapeRequest | ShapeError) -> AnyResponse:
        try:
            body = await call.request.read(BODY_LIMIT)
        except BodyTooLarge:
            raise ShapeError(413, {"error": "Request body too large"}) from None
        except BodyBroken:
            raise ShapeError(400, {"error": "Failed to read request body"}) from None
        subset = from_body(body)
        if isinstance(asked, ShapeError):
            raise asked.with_traceback(None)
        return await settled(self._get(call, asked if subset is None else with_body(asked, subset)))

    def _get(self, call: Call, sr: ShapeRequest) -> Answer:
        call.live = sr.live
        kind = EXISTING if self._knows(sr.handle) else INITIAL
        if sr.subset is not None:
            return self._admitted(call, kind, self._subset(call, sr))
        if self._stack.serving:
            shape = self._resolver.known(sr.params)
            if shape is not None:
                return self._with_shape(call, sr, shape)
        return self._admitted(call, kind, self._find(call, sr))

    async def _find(self, call: Call, sr: ShapeRequest) -> AnyResponse:
        """Find the shape by its definition, or make it."""
        await until_ready(self._stack)
        await self._turns.enter()
        try:
            shape = await self._resolver.shape(sr.params)
            if sr.handle is None:
                await until_started(shape)
                failure = shape.snapshot.failure
                # The table was altered since it was last looked at, or the shape was evicted at once.
                if failure.status == 409 if failure is not None else not shape.alive:
                    shape = await self._resolver.shape(sr.params)
        finally:
            self._turns.leave()
        return await settled(self._with_shape(call, sr, shape))

    async def _subset(self, call: Call, sr: ShapeRequest) -> AnyResponse:
        """Some of the shape's rows as they are now, beside its log."""
        for _ in range(SUBSET_ATTEMPTS):
            with contextlib.suppress(TableChanged):  # what was known of it is old, which need not end the shape
                return await self._try_subset(call, sr)
            self._stack.catalog.forget(sr.params.schema, sr.params.table)
        return answers.must_refetch(call.request, call.base, None, sr.offset_text)

    async def _try_subset(self, call: Call, sr: ShapeRequest) -> AnyResponse:
        """Raises TableChanged."""
        await until_ready(self._stack)
        query = await self._resolver.subset(sr)
        shape = await self._resolver.find(sr.params, query.definition, query.relation)
        if sr.handle is not None and sr.handle != shape.handle:
            return answers.must_refetch(call.request, call.base, shape.handle, sr.offset_text)
        shape.last_read = time.monotonic()
        # Before the log has begun, a change could be neither in the subset nor in the log.
        await until_started(shape)
        if shape.snapshot.failure is not None or not shape.alive:
            return self._initial(call, sr, shape, None)
        if call.permit is not None:
            call.permit.become(EXISTING)
        # A client goes on from here: at its own place if it has one, so that it skips nothing of the log.
        offset = shape.log.latest if sr.offset is None or sr.offset == BEFORE_ALL else sr.offset
        schema = schema_header(query.relation, shape.definition.columns)
        headers = call.base + answers.subset_headers(shape.handle, offset, schema)
        # By the shape's own definition: keys of tables without a primary key depend on its salt.
        fields = header_fields(shape.definition, shape.handle)
        moment = self._stack.moment(shape, query.relation)
        query = replace(query, definition=shape.definition, fields=fields, moment=moment)
        return await self._stack.subsets.answer(query, headers, call.request.on_close)

    # -- with a shape --

    def _with_shape(self, call: Call, sr: ShapeRequest, shape: Shape) -> Answer:
        if sr.handle is not None and sr.handle != shape.handle:
            return answers.must_refetch(call.request, call.base, shape.handle, sr.offset_text)
        shape.last_read = time.monotonic()
        schema = None
        if not sr.live:
            relation = self._stack.catalog.peek(shape.definition.schema, shape.definition.table)
            if relation is None or relation.oid != shape.definition.oid:
                return self._admitted(call, EXISTING, self._read_catalog(call, sr, shape))
            schema = schema_header(relation, shape.definition.columns)
        return self._at_position(call, sr, shape, schema)

    def _at_position(self, call: Call, sr: ShapeRequest, shape: Shape, schema: bytes | None) -> Answer:
        snapshot = shape.snapshot
        if sr.offset is None or sr.offset == BEFORE_ALL:
            if not snapshot.started:
                return self._admitted(call, INITIAL, self._snapshot_start(call, sr, shape, schema))
            return self._initial(call, sr, shape, schema)
        if sr.offset[0] == 0 and sr.offset[1] < INFINITY:
            following = snapshot.exists(sr.offset[1] + 1)
            if following is None:
                return self._admitted(call, EXISTING, self._snapshot_end(call, sr, shape))
            if following:
                return self._reader.chunk(call.request, call.base, sr, shape, sr.offset[1] + 1, schema)
        return self._log(call, sr, shape, sr.offset, schema)

    @property
    def _reader(self) -> Reader:
        """Raises ShapeError when it went while the request waited: another instance has taken over."""
        reader = self._stack.reader
        if reader is None:
            raise errors.not_ready(self._stack.waiting_for, retry_after=1)
        return reader

    def _now(self, shape: Shape) -> Shape:
        """The shape after a wait: in a hand-over the same one comes from another place. Raises ShapeError."""
        if shape.alive:
            return shape
        known = self._stack.known
        if known is None:
            raise errors.not_ready(self._stack.waiting_for, retry_after=1)
        return known.by_handle.get(shape.handle, shape)

    async def _read_catalog(self, call: Call, sr: ShapeRequest, shape: Shape) -> AnyResponse:
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
            return answers.must_refetch(call.request, call.base, None, sr.offset_text)
        schema = schema_header(relation, definition.columns)
        return await settled(self._at_position(call, sr, self._now(shape), schema))

    async def _snapshot_start(self, call: Call, sr: ShapeRequest, shape: Shape, schema: bytes | None) -> AnyResponse:
        await until_started(shape)
        return self._initial(call, sr, self._now(shape), schema)

    def _initial(self, call: Call, sr: ShapeRequest, shape: Shape, schema: bytes | None) -> AnyResponse:
        failure = shape.snapshot.failure
        if sr.offset is None and sr.subset is None:
            if not shape.alive and failure is not None and failure.status != 409:
                raise failure
            return self._reader.nothing(call.request, call.base, sr, shape, schema)
        if failure is not None and failure.status != 409:
            raise failure
        if failure is not None or not shape.alive:
            return self._gone(call, sr)
        return self._reader.chunk(call.request, call.base, sr, shape, 0, schema)

    async def _snapshot_end(self, call: Call, sr: ShapeRequest, shape: Shape) -> AnyResponse:
        """The requested chunk is beyond the one being written: wait until it is known whether it exists."""
        assert sr.offset is not None
        number = sr.offset[1] + 1
        deadline = time.monotonic() + SNAPSHOT_START_SECONDS
        while shape.snapshot.exists(number) is None:
            left = deadline - time.monotonic()
            if shape.snapshot.failure is not None or not shape.alive:
                return answers.must_refetch(call.request, call.base, None, sr.offset_text)
            if left <= 0 or not await shape.snapshot.changed(left):
                raise errors.snapshot_failed("The snapshot is still being written; try again")
        return await settled(self._with_shape(call, sr, shape))

    def _log(self, call: Call, sr: ShapeRequest, shape: Shape, offset: Offset, schema: bytes | None) -> Answer:
        known = self._stack.known
        if known is None or not shape.alive:
            return self._gone(call, sr)
        if sr.live:
            offset = shape.log.resume(offset)
        ahead = offset > shape.log.latest and offset[0] > known.commit_lsn
        if not ahead:
            if sr.live and sr.sse:
                return self._events(call, sr, shape, offset)
            response = self._reader.after(call.request, call.base, sr, shape, offset, schema)
            if response is not None:
                return response
        answerer = LogAnswerer(self._stack, call.request, call.base, sr, shape, offset, schema, ahead)
        timeout = self._settings.long_poll_timeout
        return self._wait(call, shape, answerer, timeout / 2 if ahead else timeout)

    def _gone(self, call: Call, sr: ShapeRequest) -> Response:
        """The shape ended while the request waited. Raises ShapeError when that is not known."""
        if not self._stack.serving:
            raise errors.not_ready(self._stack.waiting_for, retry_after=1)
        return answers.must_refetch(call.request, call.base, None, sr.offset_text)

    def _wait(self, call: Call, shape: Shape, answerer: LogAnswerer, seconds: float) -> Answer:
        if self._stack.live.stopped:
            return answerer.nothing()
        if call.permit is not None:  # the coroutine that holds it gives it back
            call.permit.become(EXISTING)
            poll = LongPoll(shape, answerer, self._stack.live, seconds, lambda answer: None)
        else:
            permit = self.admission.enter(EXISTING)
            try:
                poll = LongPoll(shape, answerer, self._stack.live, seconds, partial(self._polled, call, permit))
            except BaseException:
                permit.leave()
                raise
        call.request.on_close(poll.cancel)
        return poll

    def _polled(self, call: Call, permit: Permit, answer: AnyResponse | None) -> None:
        permit.leave()
        if answer is not None:
            self._answered(call, answer)

    def _events(self, call: Call, sr: ShapeRequest, shape: Shape, offset: Offset) -> AnyResponse:
        reader = self._reader
        request, base = call.request, call.base
        found = reader.events_after(shape, offset)
        if found is not None and found[1] >= shape.log.latest:
            return events(reader, request, base, sr, shape, found[0])
        # Where the client is: nothing lies between that and the end, or what does is sent first.
        begin, shown = offset, sr.offset or offset
        if found is None:
            begin, shown = max(begin, shape.log.latest), max(shown, shape.log.latest)
        headers = reader.headers(request, base, sr, shape, shown, schema=None, content_type=answers.EVENT_STREAM)
        permit = self.admission.enter(EXISTING)
        settings = self._settings
        stream = EventStream(
            shape, begin, Frames(reader), self._stack.live, settings.sse_timeout, settings.sse_keepalive
        )
        stream.on_end = permit.leave
        response: StreamResponse = stream.response(200, headers, request)
        return response

    async def _delete(self, call: Call, query: Query) -> Response:
        await delete(self._stack, self._resolver, query)
        return Response(202, call.base + answers.NO_CACHE)

    # -- running coroutines --

    def _admitted(self, call: Call, kind: str, work: Awaitable[AnyResponse]) -> Awaitable[AnyResponse]:
        """Run it with a permit; within another one's work, with that one's."""
        if call.permit is not None:
            return work
        try:
            call.permit = self.admission.enter(kind)
        except ShapeError:
            close(work)
            raise
        return self._guard(call, work, call.permit)

    async def _guard(self, call: Call, work: Awaitable[AnyResponse], permit: Permit) -> AnyResponse:
        try:
            return self._answered(call, await work)
        except ShapeError as error:
            return self._answered(call, answers.error_response(call.request, call.base, error))
        except ClientGone:
            raise
        except Exception as error:
            return self._answered(call, unexpected(call, error))
        finally:
            permit.leave()
