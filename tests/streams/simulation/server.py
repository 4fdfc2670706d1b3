"""The real `Service` on a simulated disk: only the disk and the log's thread are exchanged."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
from collections import Counter
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from unittest import mock

from switchgear_streams import pieces, segments, wal
from switchgear_streams import service as module
from switchgear_streams.service import Service
from switchgear_streams.settings import load
from switchgear_streams.usage import counts
from switchgear_wire.errors import HttpError
from switchgear_wire.request import Request
from switchgear_wire.response import FileResponse, Response
from tests.streams.simulation.disk import PowerLoss, SimulatedDisk
from tests.streams.simulation.loop import SimulatedLoop

FLAGS = ["--data-dir", "/simulated", "--insecure", "--wal-segment-bytes", "262144", "--checkpoint-bytes", "6000"]


class _Queue:
    """Jobs for the log's writer."""

    def __init__(self) -> None:
        self.jobs: list[wal._Job] = []
        self.filled = asyncio.Event()

    def put(self, job: wal._Job | None) -> None:
        assert job is not None
        self.jobs.append(job)
        self.filled.set()


class SimulatedLog(wal.Log):
    """The log, its thread a task: what waits is written, synced, and a while later said to be durable."""

    chance: random.Random

    def start(self, last_number: int, old: list[wal.Segment]) -> None:
        self._queue = queue = _Queue()  # type: ignore[assignment]
        super().start(last_number, old)
        self._writer = asyncio.ensure_future(self._write(queue))

    def _work(self) -> None:
        """The real thread has nothing to do."""

    async def _write(self, queue: _Queue) -> None:
        while True:
            await queue.filled.wait()
            await asyncio.sleep(self.chance.uniform(0, 0.004))
            jobs, queue.jobs = queue.jobs, []
            queue.filled.clear()
            try:
                wal._write(self._disk, jobs)
            except OSError as error:
                self._on_fatal(error)
            await asyncio.sleep(self.chance.uniform(0, 0.004))
            self._done(jobs)


class SimulatedService(Service):
    """A disk that fails ends the process."""

    def _fatal(self, error: OSError) -> None:
        assert isinstance(self._disk, SimulatedDisk)
        self._disk.die()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class _Source:
    lease = None

    def want_body(self) -> None: ...
    def update_reading(self) -> None: ...
    def land(self, rest: memoryview) -> None: ...


@contextlib.contextmanager
def _undamaged() -> Iterator[None]:
    """No death leaves what a start takes for damage."""
    told: list[str] = []
    with mock.patch.object(module.log, "error", lambda text, *values: told.append(text % values)):
        yield
    assert not told, told


class Server:
    """One process's life."""

    def __init__(self, disk: SimulatedDisk, loop: SimulatedLoop, chance: random.Random, epoch: float) -> None:
        self.disk = disk
        settings = load([*FLAGS], {})
        log = type("Log", (SimulatedLog,), {"chance": chance})
        crumbs = mock.patch.object(pieces, "SIZE", 700)
        with mock.patch.object(module, "Disk", lambda _: disk), mock.patch.object(module, "Log", log), crumbs:
            self.service = SimulatedService(settings, lambda: int((epoch + loop.time()) * 1000))
            with _undamaged():
                self.service.start()
            self.service.checkpointer.squeeze_room = 3000

    def check_books(self) -> None:
        """What is counted is what there is: bytes kept of all streams, living bytes of all packs, pack files."""
        store = self.service.store
        streams = [stream for key in list(store.streams) if (stream := store.get(key)) is not None]
        held = sum(stream.held for stream in streams if counts(stream.key))
        assert store.usage.held == held, f"{store.usage.held} bytes are counted, {held} are there"
        living: Counter[int] = Counter()
        for stream in streams:
            for run in stream.runs:
                living[run.pack] += run.length
        known = {pack: one.live for pack, one in store.packs.known.items()}
        assert known == living, f"{known} living bytes are counted, {dict(living)} are there"
        files = {pack for name in self.disk.names() if (pack := segments.pack_id(name)) is not None}
        assert files == living.keys(), "a pack that nobody needs is there, or one is missing"

    async def ask(self, method: str, name: str, *, query: str = "", body: bytes = b"", **headers: str) -> Answer:
        """One request. A header's name is written with underscores. Raises PowerLoss: a dead server answers nothing."""
        answer = await self._ask(method, name, query, body, headers)
        if self.disk.dead:
            raise PowerLoss
        return answer

    async def _ask(self, method: str, name: str, query: str, body: bytes, headers: dict[str, str]) -> Answer:
        if self.disk.dead:
            raise PowerLoss
        request = Request(_Source(), "simulated")
        request.method, request.path, request.query = method, b"/v1/stream/" + name.encode(), query.encode()
        request.headers = {k.replace("_", "-").encode(): v.encode() for k, v in headers.items()}
        request.header_list = list(request.headers.items())
        request.content_length, request.has_body = len(body), bool(body)
        if body:
            request.feed(body)
        request.complete()
        try:
            made = self.service.handle(request)
            answer = await made if inspect.isawaitable(made) or isinstance(made, Awaitable) else made
        except HttpError as error:
            return Answer(error.status, {}, error.message.encode())
        if isinstance(answer, FileResponse):
            parts = [p if isinstance(p, bytes) else self.disk.read(p.fd, p.length, p.offset) for p in answer.parts]
            if answer.on_done is not None:
                answer.on_done()
            content = b"".join(parts)
        else:
            assert isinstance(answer, Response)
            content = answer.body
        lines = [tuple(line.split(": ", 1)) for line in answer.headers.decode("latin-1").split("\r\n") if line]
        return Answer(answer.status, dict(lines), content)
