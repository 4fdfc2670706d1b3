"""Makes snapshots: one document after the other, decoded in a process of its own that starts when there is work.

Invariants: at most one worker, of bounded memory, and `MAX_WAITING` documents in the queue (the next update of one that
found no place asks again); a document that cannot be compacted is left as it is and tried again after as much new data.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NamedTuple

from switchgear_streams.yjs import worker
from switchgear_streams.yjs.documents import Documents
from switchgear_wire.errors import HttpError

if TYPE_CHECKING:
    from switchgear_streams.stream import Stream

log = logging.getLogger("switchgear.streams.yjs")

MAX_WAITING = 10_000
WORKER_MEMORY = 384 * 1_048_576
WORKER_SECONDS = 60.0
IDLE_SECONDS = 30.0
_PIECE = 262_144
# All that the worker gets to know of the environment, which holds a secret.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG")


class CompactionFailed(Exception):
    """Why there is no snapshot."""


class _Part(NamedTuple):
    """Bytes of a stream."""

    key: bytes
    generation: int
    start: int
    end: int


class Compactor:
    """`threshold`: bytes of updates after which a document is due."""

    def __init__(self, documents: Documents, threshold: int) -> None:
        self._documents = documents
        self._threshold = threshold
        self._waiting: dict[bytes, None] = {}
        self._failed: dict[bytes, int] = {}
        self._leaving: dict[bytes, int] = {}
        self._running: bytes | None = None
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._worker: Process | None = None
        self.done = 0
        self.failures = 0
        self.seconds = 0.0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def look(self, document: bytes, updates: Stream) -> None:
        """An update is durable: is the document due?"""
        if len(self._waiting) >= MAX_WAITING or not self._due(document, updates):
            return
        self._waiting[document] = None
        self._wanted.set()
        if self._task is None:
            self._task = asyncio.ensure_future(self._work())

    def _due(self, document: bytes, updates: Stream) -> bool:
        """Are there enough updates since the snapshot? (In proportion to it, for all of it is written anew.)"""
        found = self._documents.snapshot(document, updates)
        position, size = (0, 0) if found is None else (found[0].position, found[1].visible)
        begun = max(position, self._failed.get(document, 0))
        return updates.visible - begun >= max(self._threshold, size // 4)

    def hopeful(self, document: bytes) -> bool:
        """Will the document perhaps become smaller soon?"""
        return document in self._waiting or document == self._running

    @contextlib.asynccontextmanager
    async def without(self, document: bytes) -> AsyncIterator[None]:
        """While the document is deleted: no snapshot of it is written."""
        self._leaving[document] = self._leaving.get(document, 0) + 1
        self._waiting.pop(document, None)
        self._failed.pop(document, None)
        try:
            while self._running == document:
                await self._idle.wait()
            yield
        finally:
            self._leaving[document] -= 1
            if not self._leaving[document]:
                del self._leaving[document]

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._end_worker()

    # -- the work --

    async def _work(self) -> None:
        """From the first document on, until the server stops; the worker ends when it has had nothing to do."""
        while True:
            while self._waiting:
                document = next(iter(self._waiting))
                del self._waiting[document]
                await self._one(document)
            self._wanted.clear()
            try:
                await asyncio.wait_for(self._wanted.wait(), IDLE_SECONDS)
            except TimeoutError:
                await self._end_worker()
                await self._wanted.wait()

    async def _one(self, document: bytes) -> None:
        self._running = document
        self._idle.clear()
        began = time.monotonic()
        try:
            await self._compact(document)
        except (CompactionFailed, HttpError, OSError) as error:
            self._note_failure(document, error)
        except Exception:
            log.exception("a compaction failed")
            self._note_failure(document, None)
        finally:
            self.seconds = time.monotonic() - began
            self._running = None
            self._idle.set()

    def _note_failure(self, document: bytes, error: Exception | None) -> None:
        self.failures += 1
        updates = self._documents.find(document)
        if updates is not None:
            if len(self._failed) >= MAX_WAITING:
                self._failed.pop(next(iter(self._failed)))
            self._failed[document] = updates.visible
        log.warning("document %s was not compacted: %s", document[5:].decode("utf-8", "replace"), error)

    async def _compact(self, document: bytes) -> None:
        documents = self._documents
        updates = documents.find(document)
        if updates is None or document in self._leaving or not self._due(document, updates):
            return
        found = documents.snapshot(document, updates)
        start, end = (0 if found is None else found[0].position), updates.visible
        generation = updates.generation
        parts = [_Part(updates.key, generation, start, end)]
        if found is not None:
            parts.insert(0, _Part(found[1].key, found[1].generation, 0, found[1].visible))
        async with asyncio.timeout(WORKER_SECONDS):
            try:
                content = await self._merge(parts)
            except BaseException:
                await self._kill_worker()
                raise
        if document in self._leaving:
            return
        refusal = await documents.install(document, generation, end, content)
        if refusal is not None:
            raise CompactionFailed(f"the snapshot could not be written ({refusal.status})")
        self._failed.pop(document, None)
        self.done += 1
        log.info("compacted %d bytes of updates into a snapshot of %d", end - start, len(content))

    async def _merge(self, parts: list[_Part]) -> bytes:
        """Of a snapshot, if there is one, and updates. Raises CompactionFailed, HttpError (damaged), OSError."""
        process = await self._start_worker()
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None
        sizes = [part.end - part.start for part in parts]
        try:
            stdin.write(worker.REQUEST.pack(*([0] * (2 - len(parts))), *sizes))
            for part in parts:
                await self._send(stdin, part)
            status, length = worker.ANSWER.unpack(await stdout.readexactly(worker.ANSWER.size))
            content = await stdout.readexactly(length)
        except (ConnectionError, asyncio.IncompleteReadError):
            raise CompactionFailed("the worker ended; the document may need more memory than it may have") from None
        if status != worker.DONE:
            raise CompactionFailed(content.decode("utf-8", "replace"))
        return content

    async def _send(self, stdin: asyncio.StreamWriter, part: _Part) -> None:
        at = part.start
        while at < part.end:
            stream = self._documents.visible(part.key)
            if stream is None or stream.generation != part.generation:
                raise CompactionFailed("the document was deleted")
            data, at = self._documents.reader.take(stream, at, min(_PIECE, part.end - at))
            stdin.write(data)
            await stdin.drain()

    # -- the process --

    async def _start_worker(self) -> Process:
        if self._worker is None or self._worker.returncode is not None:
            command = (sys.executable, "-m", "switchgear_streams.yjs.worker", str(WORKER_MEMORY))
            environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            self._worker = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment
            )
        return self._worker

    async def _end_worker(self) -> None:
        """By closing its input; it is not in the middle of anything that matters."""
        if self._worker is not None and self._worker.returncode is None:
            await self._kill_worker()

    async def _kill_worker(self) -> None:
        process, self._worker = self._worker, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
