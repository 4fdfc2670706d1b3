"""The HTTP face: routes, authentication, and answers; wires the parts together and runs the periodic work.

Order for every request: preflight and health first, then the secret (before anything that tells whether a stream
exists), then the path, then the method.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import time
from collections.abc import Awaitable, Callable
from urllib.parse import unquote_to_bytes, urlsplit

import orjson

from switchgear_streams import answers, live, measures, reads, recovery, segments
from switchgear_streams import request as commands
from switchgear_streams.checkpoint import Checkpointer
from switchgear_streams.disk import Disk
from switchgear_streams.limits import Others, Rate, Seats
from switchgear_streams.rules.retention import Retention
from switchgear_streams.settings import Settings
from switchgear_streams.store import Store
from switchgear_streams.stream import Stream
from switchgear_streams.subscriptions.api import Api
from switchgear_streams.subscriptions.engine import Engine
from switchgear_streams.trimming import Trimmer
from switchgear_streams.wal import Log, Room
from switchgear_streams.workers.placing import SUBSCRIPTIONS, first_generation
from switchgear_streams.writes import Writes
from switchgear_streams.yjs import api as yjs
from switchgear_streams.yjs.compactor import Compactor
from switchgear_streams.yjs.documents import Documents
from switchgear_streams.yjs.errors import dressed
from switchgear_wire.errors import BodyTooLarge, HttpError
from switchgear_wire.files import SENDFILE_FROM
from switchgear_wire.metrics import Registry
from switchgear_wire.request import Request
from switchgear_wire.response import AnyResponse, FileResponse, Response, StreamResponse, Writer

log = logging.getLogger("switchgear.streams")

_JSON = b"content-type: application/json\r\n" + answers.NO_STORE
# Bodies that are being received may take this much memory all together.
_BODY_BUDGET = 256 * 1_048_576
_SWEEP_BATCH = 1000
_SWEEP_PAUSE = 0.05
# Headers that take a POST off the fast path.
_SPECIAL = frozenset(
    (b"stream-closed", b"stream-seq", b"producer-id", b"producer-epoch", b"producer-seq", b"transfer-encoding")
)
_RETRY = b"retry-after: 1\r\n"
_TOUCH_EVERY = 10
_TIDY_EVERY = 30
_STALE_TICK = 30.0
_NO_LIMIT = 2_000_000
"""The default of --max-streams, which guards the memory of one process, not a customer's bill."""

Answer = AnyResponse | Awaitable[AnyResponse]


def wall_clock() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def unauthorised() -> Response:
    return answers.problem(
        401,
        "UNAUTHORIZED",
        "Send the service's secret as Authorization: Bearer <secret>.",
        b"www-authenticate: Bearer\r\n",
    )


class Service:
    """One streams server over one data directory."""

    def __init__(self, settings: Settings, clock: Callable[[], int] = wall_clock, worker: int | None = None) -> None:
        """`worker`: the number of this process, where several share the service (`workers`)."""
        self.settings = settings
        self.others = Others()
        self._worker = worker
        self._clock = clock
        self._prefix = settings.root_path.encode() + b"/"
        self._prefix_length = len(self._prefix)
        root = settings.public_root_url
        self._fork_prefix = self._prefix if root is None else urlsplit(root).path.encode() + b"/"
        self._disk = Disk(settings.data_dir)
        self._bearer = None if settings.secret is None else b"Bearer " + settings.secret
        self._ready = False
        self._stopping = False
        self._stopped = False
        self._yjs: yjs.Api | None = None
        self._compactor: Compactor | None = None
        self._bodies = 0
        self._ticker: asyncio.Task[None] | None = None
        self._ticked = time.monotonic()
        labels = {} if settings.service is None else {"service": settings.service}
        self.metrics = Registry(**labels, **({} if worker is None else {"worker": str(worker)}))
        self._requests = measures.requests(self.metrics)
        self._posts = self._requests["POST"]
        self._unauthorized = self.metrics.counter("streams_unauthorized_total", "Requests without the right secret.")
        rate = settings.max_append_rate
        self._rate = None if rate is None else Rate(rate)
        self._limited = self.metrics.counter("streams_limited_total", "Requests refused by a limit of the service.")
        most = settings.max_connections
        self._seats = None if most is None else Seats(most, others=self.others)
        if self._seats is not None:
            measures.watch_connections(self.metrics, self._seats)
        self._expired = self.metrics.counter("streams_expired_total", "Streams removed because their time was over.")
        cacheable = b"private" if settings.secret is not None else b"public"
        self._cacheable = b"cache-control: %b, max-age=60, stale-while-revalidate=300\r\n" % cacheable

    # -- life --

    def start(self) -> None:
        """Recover and begin. Raises StartError, OSError."""
        began = time.monotonic()
        log_id = recovery.take(self._disk)
        report = recovery.Report()
        packs = segments.Packs(self._disk)
        self.wal = Log(self._disk, log_id, self.settings.wal_segment_bytes, self._fatal)
        default = Retention(self.settings.retention_seconds, self.settings.retention_bytes)
        self.store = Store(packs, self.wal, self._clock, default, first_generation(self._worker or 0))
        writer, covered = recovery.load_catalog(self._disk, self.store, log_id, report)
        recovery.replay(self._disk, self.store, log_id, covered, report)
        recovery.check_packs(self._disk, self.store, report)
        self.store.collect_deadlines()
        self.wal.start(report.last_number, report.old)
        self.checkpointer = Checkpointer(self.store, self._disk, writer, self._fatal, self.settings.checkpoint_bytes)
        self.reader = reads.Reader(self.store)
        self.hub = live.Hub(self.store, self.reader, self.settings.long_poll_timeout, self._cacheable)
        self._trimmer = Trimmer(self.store, self.reader)
        limits = self.settings
        self.writes = Writes(self.store, self.reader, limits.max_streams, limits.max_bytes, self.others)
        self.engine = Engine(
            self.store, self.reader, self.writes.append, self.settings.allow_loopback_webhooks, self._fixed_root_url()
        )
        self._subscriptions = Api(self.engine, self.settings.root_path, self._root_url)
        self._start_yjs()
        measures.watch(self.metrics, self.store, self.checkpointer, self.hub, report)
        measures.watch_usage(self.metrics, self.store.usage, self._clock)
        measures.watch_retention(self.metrics, self._trimmer, self.checkpointer)
        measures.watch_subscriptions(self.metrics, self.engine)
        for line in report.damage:
            log.error("data was damaged: %s", line)
        if report.torn_bytes:
            log.warning("cut %d bytes of an unfinished write from the end of the log", report.torn_bytes)
        log.info(
            "recovered %d streams, replayed %d records in %.2f s",
            len(self.store.streams),
            report.replayed,
            time.monotonic() - began,
        )
        if report.replayed:
            self.checkpointer.request()
        self.engine.load()
        if self._worker is None:
            self.engine.start()
        self._ticker = asyncio.ensure_future(self._tick())
        self._ready = True

    def _start_yjs(self) -> None:
        root = self.settings.yjs_root
        if root is None:
            return
        documents = Documents(self.store, self.reader, self.writes)
        self._compactor = Compactor(documents, self.settings.yjs_compaction_bytes)
        self._yjs = yjs.Api(
            documents, self._compactor, root.encode(), self.settings.max_document_bytes, self._read, self._body
        )
        measures.watch_documents(self.metrics, self._compactor)

    def drain(self) -> None:
        """End live reads in a retryable way; new requests are still answered."""
        self._stopping = True
        self._ready = False
        self.hub.stop()

    async def stop(self) -> None:
        """After the listener is closed: make everything durable and leave nothing to replay."""
        if self._ticker is not None:
            self._ticker.cancel()
        await self.engine.stop()
        if self._compactor is not None:
            await self._compactor.stop()
        self._stopped = True
        while self.store.flush_touches():
            if self.wal.room(4096, reserved=True) is not Room.OK:
                break
        await self.checkpointer.finish()
        await self.wal.stop()
        self.store.packs.close()
        self._disk.unlock()

    def _fatal(self, error: OSError) -> None:
        """The disk does not do what it says: whatever is not acknowledged must never be."""
        log.critical("the disk failed (%s); stopping at once, recovery will start from what is on the disk", error)
        logging.shutdown()
        os._exit(70)

    async def _tick(self) -> None:
        """Once a second: expiry, keep-alives, last accesses, memory."""
        beats, touching = 0, False
        while True:
            await asyncio.sleep(1.0)
            beats += 1
            try:
                self.hub.tick()
                self.engine.tick()
                self._sweep()
                if touching or beats % _TOUCH_EVERY == 0:
                    touching = self.store.flush_touches()
                if beats % _TIDY_EVERY == 0:
                    self.checkpointer.tidy()
                self.store.pack_idle()
                self._ticked = time.monotonic()
            except Exception:
                log.exception("periodic work failed")

    def _sweep(self) -> None:
        store = self.store
        if store.hold is not None or self._stopped:
            return
        found = 0
        for stream in store.expired(self._clock(), _SWEEP_BATCH):
            if self.wal.room(len(stream.key) + 1024, reserved=True) is not Room.OK:
                store.watch_deadline(stream)
                return
            if store.hold_on(stream) is not None:
                store.watch_deadline(stream)
                continue
            self._expired.value += 1
            store.delete(stream, lambda: None)
            found += 1
        more = self._trimmer.sweep()
        if store.ripe:
            self.checkpointer.request_squeezes()
        if more or found == _SWEEP_BATCH:
            asyncio.get_running_loop().call_later(_SWEEP_PAUSE, self._sweep)

    # -- requests --

    def subject(self, request: Request) -> bytes | None:
        """The name of the stream (or whatever all streams of it share) that a request is about, None for none."""
        path = request.path
        if path.startswith(self._prefix):
            if self._subscriptions.mine(path):
                return SUBSCRIPTIONS
            name = path[self._prefix_length :]
            return unquote_to_bytes(name) if b"%" in name else name
        return None if self._yjs is None else self._yjs.document(path)

    def fork_source(self, request: Request) -> bytes | None:
        """What a PUT with the secret forks from. Raises HttpError."""
        if b"stream-forked-from" not in request.headers or not self._allowed(request):
            return None
        return commands.create(request.headers, self._fork_prefix).forked_from

    def shared(self) -> tuple[int, int, int, int, int]:
        """Streams, bytes kept, live reads, connections, and appends so far: what counts against limits."""
        hub, seats, rate = self.hub, self._seats, self._rate
        return (
            len(self.store.streams),
            self.store.usage.held,
            hub.long_polls + hub.subscribers,
            0 if seats is None else seats.taken,
            0 if rate is None else rate.taken,
        )

    def appended_elsewhere(self, number: int) -> None:
        """So many appends of this service were accepted by other processes."""
        if self._rate is not None:
            self._rate.elsewhere(number)

    @property
    def limited(self) -> bool:
        """Is there any limit to share?"""
        limits = self.settings
        some = (limits.max_bytes, limits.max_append_rate, limits.max_live_reads, limits.max_connections)
        return any(one is not None for one in some) or limits.max_streams < _NO_LIMIT

    def error_headers(self, request: Request | None) -> bytes:
        """For answers that wire makes itself."""
        return answers.BASE

    def handle(self, request: Request) -> Answer:
        """The handler. Fast paths answer at once or with a future."""
        method = request.method
        if self._seats is not None and not self._seated(request, self._seats):
            return self._crowded(request, self._seats.most)
        if method == "POST" and request.path.startswith(self._prefix):
            return self._post(request)
        if method == "OPTIONS":
            return Response(204, answers.PREFLIGHT)
        documents = self._yjs
        if documents is not None and request.path.startswith(documents.root):
            (self._requests.get(method) or self._requests["other"]).value += 1
            if not self._allowed(request):
                return dressed(self._unauthorised())
            return documents.handle(request, self._public_url(request) + request.path)
        if not request.path.startswith(self._prefix):
            return self._system(request)
        requests = self._requests.get(method) or self._requests["other"]
        requests.value += 1
        if not self._allowed(request) and not self._subscriptions.is_open(request):
            return self._unauthorised()
        if self._subscriptions.mine(request.path):
            return self._subscriptions.handle(request)
        key = self._key(request)
        if method == "GET":
            return self._get(request, key)
        if method == "HEAD":
            return self._head(key)
        if method == "PUT":
            return self._put(request, key)
        if method == "DELETE":
            return self.writes.delete(key)
        return self._wrong_method(b"GET, POST, PUT, DELETE, HEAD, OPTIONS")

    def _seated(self, request: Request, seats: Seats) -> bool:
        """Only those with the secret count, so that strangers cannot take a service's connections."""
        path = request.path
        ours = path.startswith(self._prefix) or (self._yjs is not None and path.startswith(self._yjs.root))
        return not ours or request.method == "OPTIONS" or not self._allowed(request) or seats.take(request)

    def _crowded(self, request: Request, most: int) -> Response:
        request.keep_alive = False
        message = f"{most} connections use this service, as many as may; use them again, or wait."
        answer = self._refused(answers.problem(429, "TOO_MANY_SERVICE_CONNECTIONS", message, _RETRY))
        return answer if request.path.startswith(self._prefix) else dressed(answer)

    def _allowed(self, request: Request) -> bool:
        bearer = self._bearer
        if bearer is None:
            return True
        given = request.headers.get(b"authorization", b"")
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != b"bearer":
            token = b""
        return hmac.compare_digest(b"Bearer " + token.strip(), bearer)

    def _unauthorised(self) -> Response:
        self._unauthorized.value += 1
        return unauthorised()

    def _key(self, request: Request) -> bytes:
        key = commands.stream_key(request.path, self._prefix)
        if key is None:
            raise HttpError(404, "NOT_FOUND", "There is no stream without a name; put one behind the root path.")
        if commands.is_reserved(key):
            raise HttpError(400, "RESERVED_PATH", "Paths below __ds belong to subscriptions; write __ds as it is.")
        return key

    def _wrong_method(self, allow: bytes) -> Response:
        return answers.problem(405, "METHOD_NOT_ALLOWED", "Use another method.", b"allow: %b\r\n" % allow)

    def _refused(self, answer: Response) -> Response:
        self._limited.value += 1
        return answer

    # -- POST and PUT --

    def _post(self, request: Request) -> Answer:
        self._posts.value += 1
        if self._bearer is not None and not self._allowed(request) and not self._subscriptions.is_open(request):
            return self._unauthorised()
        if self._rate is not None and not self._rate.take(time.monotonic()):
            most = self._rate.per_second
            return self._refused(
                answers.problem(429, "RATE_LIMITED", f"This service takes {most} appends a second.", _RETRY)
            )
        headers = request.headers
        name = request.path[self._prefix_length :]
        stream = None if b"%" in name else self.store.streams.get(name)
        if type(stream) is Stream and headers.keys().isdisjoint(_SPECIAL) and request.body_complete:
            body = request.body_now()
            if body and len(body) <= self.settings.max_body_bytes:
                pending = self.writes.plain(stream, headers.get(b"content-type"), body)
                if pending is not None:
                    return pending
            return self._post_body(request, self._key(request), body or b"")
        if self._subscriptions.mine(request.path):
            return self._subscriptions.handle(request)
        key = self._key(request)
        command = commands.append(request.headers)
        body = request.body_now()
        if body is None:
            return self._post_later(request, key, command)
        return self._post_body(request, key, body)

    def _post_body(self, request: Request, key: bytes, body: bytes) -> Answer:
        if len(body) > self.settings.max_body_bytes:
            raise BodyTooLarge(self.settings.max_body_bytes)
        return self.writes.append(key, commands.append(request.headers), body)

    async def _post_later(self, request: Request, key: bytes, command: commands.Append) -> AnyResponse:
        answer = self.writes.append(key, command, await self._body(request, self.settings.max_body_bytes))
        return answer if isinstance(answer, Response) else await answer

    def _put(self, request: Request, key: bytes) -> Answer:
        command = commands.create(request.headers, self._fork_prefix)
        location = self._location(request)
        body = request.body_now()
        if body is None:
            return self._put_later(request, key, command, location)
        if len(body) > self.settings.max_body_bytes:
            raise BodyTooLarge(self.settings.max_body_bytes)
        return self.writes.create(key, command, body, location)

    async def _put_later(self, request: Request, key: bytes, command: commands.Create, location: bytes) -> AnyResponse:
        body = await self._body(request, self.settings.max_body_bytes)
        answer = self.writes.create(key, command, body, location)
        return answer if isinstance(answer, Response) else await answer

    def _location(self, request: Request) -> bytes:
        root = self.settings.public_root_url
        if root is not None:
            return root.encode() + request.path[self._prefix_length - 1 :]
        return self._public_url(request) + request.path

    def _public_url(self, request: Request) -> bytes:
        if self.settings.public_url is not None:
            return self.settings.public_url.encode()
        host = request.headers.get(b"host") or b"%b:%d" % (self.settings.host.encode(), self.settings.port)
        return b"http://" + host

    def _fixed_root_url(self) -> str | None:
        if self.settings.public_root_url is not None:
            return self.settings.public_root_url
        public = self.settings.public_url
        return None if public is None else public + self.settings.root_path

    def _root_url(self, request: Request) -> str:
        """Where clients find the root path."""
        return self._fixed_root_url() or self._public_url(request).decode("latin-1") + self.settings.root_path

    async def _body(self, request: Request, limit: int) -> bytes:
        """The whole body. Raises BodyTooLarge, ClientGone, 503 when too much is being received already."""
        if request.content_length is not None and request.content_length > limit:
            raise BodyTooLarge(limit)
        parts: list[bytes] = []
        size = 0
        try:
            async for chunk in request.chunks():
                size += len(chunk)
                self._bodies += len(chunk)
                if size > limit:
                    raise BodyTooLarge(limit)
                if self._bodies > _BODY_BUDGET:
                    raise HttpError(
                        503, "OVERLOADED", "Too many large bodies at once; try again.", b"retry-after: 1\r\n"
                    )
                parts.append(chunk)
        finally:
            self._bodies -= size
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # -- GET and HEAD --

    def _visible(self, key: bytes, touch: bool) -> Stream | Response:
        """The stream as readers may see it, or the answer instead."""
        stream = self.store.get(key)
        if stream is None or not stream.durable_born:
            return answers.not_found()
        if stream.gone:
            return answers.gone()
        now = self._clock()
        if stream.expired(now):
            return answers.not_found()
        if touch:
            self.store.touch(stream, now)
        return stream

    def _head(self, key: bytes) -> Response:
        stream = self._visible(key, touch=False)
        if isinstance(stream, Response):
            return Response(stream.status, stream.headers)
        return answers.head(stream)

    def _get(self, request: Request, key: bytes) -> Answer:
        return self._read(request, key, commands.read(request.query))

    def _read(self, request: Request, key: bytes, command: commands.Read) -> Answer:
        stream = self._visible(key, touch=True)
        if isinstance(stream, Response):
            return stream
        try:
            position = self.reader.position(stream, command.offset)
            self.reader.check(stream, position)
            if command.live is not None and self.hub.busy(self.settings.max_live_reads, self.others.live):
                return self._refused(
                    answers.problem(429, "TOO_MANY_LIVE_READS", "As many live reads as this service may have.", _RETRY)
                )
            if command.live == "sse":
                return self._sse(stream, position, command.cursor)
            if command.live == "long-poll":
                return self._long_poll(request, stream, position, command.cursor)
            if command.offset is None:
                return self._now(stream)
            return self._catch_up(request, stream, position)
        except OSError as error:
            log.error("cannot read %r: %s", key, error)
            return answers.problem(
                503, "READ_FAILED", "The server cannot read this part of its disk.", b"retry-after: 5\r\n"
            )

    def _now(self, stream: Stream) -> Response:
        headers = (
            answers.BASE
            + answers.NO_STORE
            + answers.content_type(stream)
            + answers.next_offset(stream, stream.visible)
            + answers.UP_TO_DATE
            + (answers.CLOSED if stream.visible_closed else b"")
        )
        return Response(200, headers, b"[]" if stream.json else b"")

    def _catch_up(self, request: Request, stream: Stream, position: int, cursor: bytes = b"") -> AnyResponse:
        found = self.reader.range(stream, position, reads.CHUNK)
        closed = found.tail and stream.visible_closed
        etag = answers.etag(stream, position, found.end, closed)
        headers = answers.BASE + self._cacheable + b"etag: %b\r\n" % etag
        if etag in request.headers.get(b"if-none-match", b"").replace(b" ", b"").split(b","):
            self.reader.release(found.held)
            return Response(304, headers + cursor)
        headers += (
            answers.content_type(stream)
            + answers.next_offset(stream, found.end)
            + (answers.UP_TO_DATE if found.tail else b"")
            + (answers.CLOSED if closed else b"")
            + cursor
        )
        parts = reads.json_parts(found.parts) if stream.json else found.parts
        if not found.held and found.end - found.start < SENDFILE_FROM:
            return Response(200, headers, b"".join(part for part in parts if isinstance(part, bytes)))
        return FileResponse(200, headers, parts, segments.releaser(self.store.packs, found.held))

    def _long_poll(self, request: Request, stream: Stream, position: int, cursor: int | None) -> Answer:
        if position < stream.visible:
            line = b"stream-cursor: %d\r\n" % live.cursor_for(cursor, time.time())
            return self._catch_up(request, stream, position, line)
        waiting = self.hub.at(stream)
        if stream.visible_closed or self._stopping:
            self.hub.forget(waiting)
            return waiting.nothing_new(cursor)
        future = waiting.wait(cursor)
        request.on_close(lambda: waiting.drop_waiter(future))
        return future

    def _sse(self, stream: Stream, position: int, cursor: int | None) -> AnyResponse:
        headers = (
            answers.BASE
            + b"content-type: text/event-stream\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
            + (b"" if reads.is_text(stream) else b"stream-sse-data-encoding: base64\r\n")
        )
        if self._stopping:
            return answers.problem(503, "STOPPING", "The server is stopping; come back.", b"retry-after: 1\r\n")

        def start(writer: Writer) -> None:
            live.Subscriber(self.hub.at(stream), writer, position, cursor).begin()

        return StreamResponse(200, headers, start)

    # -- health --

    def usage(self, request: Request) -> Answer:
        """GET /usage, which needs the secret."""
        if request.method not in ("GET", "HEAD"):
            return self._wrong_method(b"GET, HEAD, OPTIONS")
        return self._usage() if self._allowed(request) else self._unauthorised()

    async def _usage(self) -> Response:
        """What the service used, once it is durable: no crash can take back what this says."""
        return Response(200, answers.BASE + _JSON, orjson.dumps(await self.durable_usage()))

    async def durable_usage(self) -> dict[str, int]:
        """See `_usage`."""
        report = self.store.usage.report(self._clock())
        await self.wal.wait(self.wal.flush())
        return report

    def _system(self, request: Request) -> Answer:
        path = request.path
        if path == b"/usage":
            return self.usage(request)
        if path not in (b"/health", b"/ready", b"/live", b"/metrics"):
            return answers.problem(404, "NOT_FOUND", f"Streams are below {self.settings.root_path}/.")
        if request.method not in ("GET", "HEAD"):
            return self._wrong_method(b"GET, HEAD, OPTIONS")
        if path == b"/metrics":
            headers = answers.BASE + b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n" + answers.NO_STORE
            return Response(200, headers, self.metrics.render())
        if path == b"/live":
            return self._health(self.well, "alive" if self.well else "stuck")
        return self._health(self._ready, "ok" if self._ready else "stopping")

    @property
    def well(self) -> bool:
        """Does its periodic work go on?"""
        return time.monotonic() - self._ticked < _STALE_TICK

    @staticmethod
    def _health(well: bool, word: str) -> Response:
        return Response(200 if well else 503, answers.BASE + _JSON, orjson.dumps({"status": word}))
