"""The HTTP face: routes, authentication, and answers; wires the parts together, starts and stops them.

Order for every request: preflight and health first, then the secret (before anything that tells whether a stream
exists), then the path, then the method.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable
from urllib.parse import unquote_to_bytes, urlsplit

import orjson

from switchgear_streams import answers, live, measures, reads, recovery, segments
from switchgear_streams import request as commands
from switchgear_streams.addresses import Addresses
from switchgear_streams.bodies import Bodies
from switchgear_streams.checkpoint import Checkpointer
from switchgear_streams.disk import Disk
from switchgear_streams.gate import Gate
from switchgear_streams.limits import Others
from switchgear_streams.read_requests import ReadRequests
from switchgear_streams.rules import media, messages
from switchgear_streams.rules.retention import Retention
from switchgear_streams.settings import Settings
from switchgear_streams.store import Store
from switchgear_streams.stream import Stream
from switchgear_streams.subscriptions.api import Api
from switchgear_streams.subscriptions.engine import Engine
from switchgear_streams.upkeep import Upkeep
from switchgear_streams.wal import Log, Room
from switchgear_streams.workers.placing import SUBSCRIPTIONS, first_generation
from switchgear_streams.writes import Writes
from switchgear_streams.yjs import api as yjs
from switchgear_streams.yjs.compactor import Compactor
from switchgear_streams.yjs.documents import Documents
from switchgear_streams.yjs.errors import dressed
from switchgear_wire.errors import BodyTooLarge, HttpError
from switchgear_wire.metrics import Registry
from switchgear_wire.request import Request
from switchgear_wire.response import AnyResponse, Response

log = logging.getLogger("switchgear.streams")

_JSON = b"content-type: application/json\r\n" + answers.NO_STORE
# Headers that take a POST off the fast path.
_SPECIAL = frozenset(
    (b"stream-closed", b"stream-seq", b"producer-id", b"producer-epoch", b"producer-seq", b"transfer-encoding")
)

Answer = AnyResponse | Awaitable[AnyResponse]


def wall_clock() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


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
        self._ready = False
        self._yjs: yjs.Api | None = None
        self._compactor: Compactor | None = None
        self._bodies = Bodies()
        self._addresses = Addresses(settings)
        labels = {} if settings.service is None else {"service": settings.service}
        self.metrics = Registry(**labels, **({} if worker is None else {"worker": str(worker)}))
        self._requests = measures.requests(self.metrics)
        self._posts = self._requests["POST"]
        self.gate = Gate(settings, self.metrics, self.others)
        cacheable = b"private" if settings.secret is not None else b"public"
        self._cacheable = b"cache-control: %b, max-age=60, stale-while-revalidate=300\r\n" % cacheable

    # -- life --

    def start(self) -> None:
        """Recover and begin. Raises StartError, OSError."""
        began = time.monotonic()
        report = self._recover()
        self._assemble()
        measures.watch(self.metrics, self.store, self.checkpointer, self.hub, report)
        measures.watch_usage(self.metrics, self.store.usage, self._clock)
        measures.watch_retention(self.metrics, self.upkeep.trimmer, self.checkpointer)
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
        self.upkeep.start()
        self._ready = True

    def _recover(self) -> recovery.Report:
        """The store as the directory has it, and what writes to it."""
        settings, report = self.settings, recovery.Report()
        log_id = recovery.take(self._disk)
        self.wal = Log(self._disk, log_id, settings.wal_segment_bytes, self._fatal)
        default = Retention(settings.retention_seconds, settings.retention_bytes)
        packs = segments.Packs(self._disk)
        self.store = Store(packs, self.wal, self._clock, default, first_generation(self._worker or 0))
        writer, covered = recovery.load_catalog(self._disk, self.store, log_id, report)
        recovery.replay(self._disk, self.store, log_id, covered, report)
        recovery.check_packs(self._disk, self.store, report)
        self.store.deadlines.collect()
        self.wal.start(report.last_number, report.old)
        self.checkpointer = Checkpointer(self.store, self._disk, writer, self._fatal, settings.checkpoint_bytes)
        return report

    def _assemble(self) -> None:
        """The parts over the store."""
        settings, addresses = self.settings, self._addresses
        self.reader = reads.Reader(self.store)
        self.hub = live.Hub(self.store, self.reader, settings.long_poll_timeout, self._cacheable)
        self.reads = ReadRequests(
            self.store, self.reader, self.hub, self._cacheable, settings.max_live_reads, self.others, self.gate.refused
        )
        self.writes = Writes(self.store, self.reader, settings.max_streams, settings.max_bytes, self.others)
        loopback = settings.allow_loopback_webhooks
        self.engine = Engine(self.store, self.reader, self.writes.append, loopback, addresses.fixed_root)
        self._subscriptions = Api(self.engine, settings.root_path, addresses.root)
        expired = measures.expired(self.metrics)
        self.upkeep = Upkeep(self.store, self.reader, self.hub, self.engine, self.checkpointer, expired)
        if settings.yjs_root is not None:
            documents = Documents(self.store, self.reader, self.writes)
            self._compactor = Compactor(documents, settings.yjs_compaction_bytes)
            root, most = settings.yjs_root.encode(), settings.max_document_bytes
            self._yjs = yjs.Api(documents, self._compactor, root, most, self.reads.read, self._bodies.receive)
            measures.watch_documents(self.metrics, self._compactor)

    def drain(self) -> None:
        """End live reads in a retryable way; new requests are still answered."""
        self._ready = False
        self.reads.stopping = True
        self.hub.stop()

    async def stop(self) -> None:
        """After the listener is closed: make everything durable and leave nothing to replay."""
        self.upkeep.stop()
        await self.engine.stop()
        if self._compactor is not None:
            await self._compactor.stop()
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
        if b"stream-forked-from" not in request.headers or not self.gate.allowed(request):
            return None
        return commands.create(request.headers, self._fork_prefix).forked_from

    def shared(self) -> tuple[int, int, int, int, int]:
        """Streams, bytes kept, live reads, connections, and appends so far: what counts against limits."""
        hub, gate = self.hub, self.gate
        return (
            self.store.count,
            self.store.usage.held,
            hub.long_polls + hub.subscribers,
            gate.taken,
            gate.appends,
        )

    def error_headers(self, request: Request | None) -> bytes:
        """For answers that wire makes itself."""
        return answers.BASE

    def handle(self, request: Request) -> Answer:
        """The handler. Fast paths answer at once or with a future."""
        method = request.method
        if self.gate.seats and not self._admitted(request):
            answer = self.gate.crowded(request)
            return answer if request.path.startswith(self._prefix) else dressed(answer)
        if method == "POST" and request.path.startswith(self._prefix):
            return self._post(request)
        if method == "OPTIONS":
            return Response(204, answers.PREFLIGHT)
        documents = self._yjs
        if documents is not None and request.path.startswith(documents.root):
            (self._requests.get(method) or self._requests["other"]).value += 1
            if not self.gate.allowed(request):
                return dressed(self.gate.unauthorised())
            if method == "POST" and (late := self.gate.throttled()) is not None:
                return dressed(late)
            return documents.handle(request, self._addresses.public(request) + request.path)
        if not request.path.startswith(self._prefix):
            return self._system(request)
        requests = self._requests.get(method) or self._requests["other"]
        requests.value += 1
        if not self.gate.allowed(request) and not self._subscriptions.is_open(request):
            return self.gate.unauthorised()
        if self._subscriptions.mine(request.path):
            return self._subscriptions.handle(request)
        key = self._key(request)
        if method == "GET":
            return self.reads.get(request, key)
        if method == "HEAD":
            return self.reads.head(key)
        if method == "PUT":
            return self._put(request, key)
        if method == "DELETE":
            return self.writes.delete(key)
        return self._wrong_method(b"GET, POST, PUT, DELETE, HEAD, OPTIONS")

    def _admitted(self, request: Request) -> bool:
        """Has its connection a seat, or needs none?"""
        path = request.path
        ours = path.startswith(self._prefix) or (self._yjs is not None and path.startswith(self._yjs.root))
        return not ours or request.method == "OPTIONS" or self.gate.admit(request)

    def _key(self, request: Request) -> bytes:
        key = commands.stream_key(request.path, self._prefix)
        if key is None:
            raise HttpError(404, "NOT_FOUND", "There is no stream without a name; put one behind the root path.")
        if commands.is_reserved(key):
            raise HttpError(400, "RESERVED_PATH", "Paths below __ds belong to subscriptions; write __ds as it is.")
        return key

    def _wrong_method(self, allow: bytes) -> Response:
        return answers.problem(405, "METHOD_NOT_ALLOWED", "Use another method.", b"allow: %b\r\n" % allow)

    # -- POST and PUT --

    def _post(self, request: Request) -> Answer:
        self._posts.value += 1
        gate = self.gate
        if gate.locked and not gate.allowed(request) and not self._subscriptions.is_open(request):
            return gate.unauthorised()
        if gate.throttles and not self._subscriptions.mine(request.path) and (late := gate.throttled()) is not None:
            return late
        headers = request.headers
        name = request.path[self._prefix_length :]
        stream = None if b"%" in name else self.store.streams.get(name)
        if type(stream) is Stream and _SPECIAL.isdisjoint(headers) and _is_here(request, stream.json):
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
        if not _is_here(request, json=True) or (command.batch is not None and self._bodies.parses(key)):
            return self._post_later(request, key, command)
        return self._post_body(request, key, request.body_now() or b"")

    def _post_body(self, request: Request, key: bytes, body: bytes) -> Answer:
        if len(body) > self.settings.max_body_bytes:
            raise BodyTooLarge(self.settings.max_body_bytes)
        return self.writes.append(key, commands.append(request.headers), body)

    async def _post_later(self, request: Request, key: bytes, command: commands.Append) -> AnyResponse:
        body = await self._bodies.receive(request, self.settings.max_body_bytes)
        answer = self.writes.append(key, command, body, await self._bodies.prepare(key, body, self._is_json(key)))
        return answer if isinstance(answer, Response) else await answer

    def _put(self, request: Request, key: bytes) -> Answer:
        command = commands.create(request.headers, self._fork_prefix)
        location = self._addresses.of(request)
        if not _is_here(request, json=True):
            return self._put_later(request, key, command, location)
        body = request.body_now() or b""
        if len(body) > self.settings.max_body_bytes:
            raise BodyTooLarge(self.settings.max_body_bytes)
        return self.writes.create(key, command, body, location)

    async def _put_later(self, request: Request, key: bytes, command: commands.Create, location: bytes) -> AnyResponse:
        body = await self._bodies.receive(request, self.settings.max_body_bytes)
        source, given = command.forked_from, command.content_type
        json = media.essence(given or b"") == media.JSON or (source is not None and self._is_json(source))
        answer = self.writes.create(key, command, body, location, await self._bodies.prepare(key, body, json))
        return answer if isinstance(answer, Response) else await answer

    def _is_json(self, key: bytes) -> bool:
        stream = self.store.get(key)
        return stream is not None and stream.json

    # -- health --

    def usage(self, request: Request) -> Answer:
        """GET /usage, which needs the secret."""
        if not self.gate.allowed(request):
            return self.gate.unauthorised()
        if request.method not in ("GET", "HEAD"):
            return self._wrong_method(b"GET, HEAD, OPTIONS")
        return self._usage()

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
            if self.settings.service is not None and not self.gate.allowed(request):  # of several: names do not leak
                return self.gate.unauthorised()
            return answers.problem(404, "NOT_FOUND", f"Streams are below {self.settings.root_path}/.")
        if request.method not in ("GET", "HEAD"):
            return self._wrong_method(b"GET, HEAD, OPTIONS")
        if path == b"/metrics":
            headers = answers.BASE + b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n" + answers.NO_STORE
            return Response(200, headers, self.metrics.render())
        if path == b"/live":
            return self.health(self.well, "alive" if self.well else "stuck")
        return self.health(self._ready, "ok" if self._ready else "stopping")

    @property
    def well(self) -> bool:
        """Does its periodic work go on?"""
        return self.upkeep.well

    @staticmethod
    def health(well: bool, word: str) -> Response:
        return Response(200 if well else 503, answers.BASE + _JSON, orjson.dumps({"status": word}))


def _is_here(request: Request, json: bool) -> bool:
    """Is the whole body here, and, if it may be JSON, short enough to be parsed at once?"""
    return request.body_complete and not (json and request.buffered > messages.LONG)
