"""One service in one worker: handles what is about its own streams, and hands on what is about those of others.

A stream lies with the worker of its name (`placing`), a fork with its source. The worker of a fork's name knows where
it is: it keeps the name for whoever makes the fork, and is told when the fork is there, or not, or gone. At start all
tell each other what they have. Invariant: a name is in one worker at most.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, NamedTuple

import orjson

from switchgear_streams import answers
from switchgear_streams.house import Result
from switchgear_streams.request import Append
from switchgear_streams.rules import offsets
from switchgear_streams.service import Service
from switchgear_streams.workers.mesh import Mesh
from switchgear_streams.workers.placing import home
from switchgear_wire.errors import HttpError
from switchgear_wire.request import Request
from switchgear_wire.response import AnyResponse, Elsewhere, Outcome, Response

log = logging.getLogger("switchgear.streams.workers")

_AT_ONCE = 2000
_WAIT_SECONDS = 30.0
_SOURCE_SECONDS = 2.0
_PAUSE = 0.02
_RETRY = b"retry-after: 1\r\n"
MOST_MOVES = 8
_JSON = b"content-type: application/json\r\n" + answers.NO_STORE


class Note(NamedTuple):
    """Goes along with a connection: how often it moved for this request, and who keeps the name of the fork that the
    request makes (-1: it makes none)."""

    moves: int
    service: int
    keeper: int = -1
    key: bytes = b""
    seated: bool = False
    """Has the connection a seat (`limits.Seats`) where it comes from?"""


class Share:
    """See the module. `number`: that of the service, the same in all workers."""

    def __init__(self, service: Service, number: int, mesh: Mesh) -> None:
        self.service = service
        self.number = number
        self._mesh = mesh
        self._foreign: dict[bytes, int] = {}
        """Forks of which this is the name's worker, and the worker that has them."""
        self._kept: dict[bytes, asyncio.Future[None]] = {}
        """Names of forks that are being made elsewhere."""
        self._making: set[bytes] = set()
        """Names that others keep for forks that are being made here."""

    def announce(self) -> None:
        """Tell the workers of their names which streams are here."""
        store, mesh = self.service.store, self._mesh
        store.on_removed, store.claimed = self._removed, self.claimed
        strays: dict[int, list[bytes]] = {peer: [] for peer in mesh.peers}
        for key in store.streams:
            at = home(key, mesh.count)
            if at != mesh.index:
                strays[at].append(key)
        for peer, keys in strays.items():
            for start in range(0, len(keys), _AT_ONCE):
                mesh.send(peer, "foreign", (self.number, keys[start : start + _AT_ONCE]))

    # -- what others say --

    def foreign(self, peer: int, keys: list[bytes]) -> None:
        """Of these names, which are ours to know, another worker has the streams."""
        self._foreign.update(dict.fromkeys(keys, peer))

    def settle(self, key: bytes, at: int) -> None:
        """The fork of a name that was kept is with worker `at` (-1: it was not made)."""
        if at >= 0 and at != self._mesh.index:
            self._foreign[key] = at
        kept = self._kept.pop(key, None)
        if kept is not None and not kept.done():
            kept.set_result(None)

    def gone(self, peer: int, key: bytes) -> None:
        """It is not there any more."""
        if self._foreign.get(key) == peer:
            del self._foreign[key]

    def tell(self, note: Note) -> None:
        """The keeper of a name: is the fork here now?"""
        if note.keeper >= 0:
            at = self._mesh.index if note.key in self.service.store.streams else -1
            if note.keeper == self._mesh.index:
                self.settle(note.key, at)
            else:
                self._mesh.send(note.keeper, "settle", (self.number, note.key, at))

    def claimed(self, key: bytes) -> bool:
        """May no stream of this name be made here? (Asked last of all: bodies come late, deletions are waited for.)"""
        if key in self._making:
            return False
        return home(key, self._mesh.count) != self._mesh.index or key in self._foreign or key in self._kept

    def _removed(self, key: bytes) -> None:
        at = home(key, self._mesh.count)
        if at != self._mesh.index:
            self._mesh.send(at, "gone", (self.number, key))

    # -- requests --

    def handle(self, request: Request) -> Result:
        """The handler."""
        note = request.note
        moves = 0
        if isinstance(note, Note):
            moves = note.moves
            if note.seated:
                self.service.gate.seat(request)
            if note.keeper >= 0:
                return self._make_fork(request, note)
        service = self.service
        key = service.subject(request)
        if key is None or request.method == "OPTIONS":
            return self._whole(request)
        if key in service.store.streams:
            if request.method == "PUT" and self._passing(request, key):
                return self._outlast(request, key)
            return service.handle(request)
        at = home(key, self._mesh.count)
        if at == self._mesh.index:
            known = self._foreign.get(key)
            if known is None:
                return self._unknown(request, key, moves)
            at = known
        return self._elsewhere(request, at, Note(moves + 1, self.number))

    def _elsewhere(self, request: Request, at: int, note: Note) -> Result:
        if note.moves > MOST_MOVES:
            self.tell(note)
            return answers.problem(503, "WORKER_BUSY", "This stream is on the move; try again.", _RETRY)
        mesh, note = self._mesh, note._replace(seated=self.service.gate.seated(request))
        return Elsewhere(
            lambda fd, data, handled: mesh.send(at, "adopt", (data, handled, tuple(note)), fd), lambda: self.tell(note)
        )

    def _unknown(self, request: Request, key: bytes, moves: int) -> Result:
        """There is no stream of this name, which would be here if it were not a fork."""
        if key in self._kept:
            return self._wait(request, self._kept[key])
        if request.method == "PUT":
            source = self._source(request)
            if source in self._kept:
                return self._wait(request, self._kept[source])
            if source is not None and (at := self._place(source)) != self._mesh.index:
                self._kept[key] = asyncio.get_running_loop().create_future()
                return self._elsewhere(request, at, Note(moves + 1, self.number, self._mesh.index, key))
        return self.service.handle(request)

    def _source(self, request: Request) -> bytes | None:
        """What a PUT forks from, if it can be done at all (if not, the service says so itself)."""
        try:
            return self.service.fork_source(request)
        except HttpError:
            return None

    def _place(self, key: bytes) -> int:
        """The worker to ask for a stream."""
        if key in self.service.store.streams:
            return self._mesh.index
        at = home(key, self._mesh.count)
        return self._foreign.get(key, at) if at == self._mesh.index else at

    async def _wait(self, request: Request, kept: asyncio.Future[None]) -> Outcome:
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await asyncio.shield(kept)
        except TimeoutError:
            return answers.problem(503, "WORKER_BUSY", "This stream is being made; try again.", _RETRY)
        answer = self.handle(request)
        return await answer if isinstance(answer, Awaitable) else answer

    def _passing(self, request: Request, key: bytes) -> bool:
        """Is the stream on its way out, and what comes after it perhaps not made here?"""
        store = self.service.store
        stream = store.get(key)
        if stream is None or stream.gone or (stream.leaving is None and not stream.expired(store.clock())):
            return False
        source = self._source(request)
        if source is not None and self._place(source) != self._mesh.index:
            return True
        return stream.leaving is not None and home(key, self._mesh.count) != self._mesh.index

    async def _outlast(self, request: Request, key: bytes) -> Outcome:
        deadline = asyncio.get_running_loop().time() + _WAIT_SECONDS
        while self._passing(request, key):  # rare, so asked again and again
            if asyncio.get_running_loop().time() > deadline:
                return answers.problem(503, "WORKER_BUSY", "This stream is being deleted; try again.", _RETRY)
            await asyncio.sleep(_PAUSE)
        answer = self.handle(request)
        return await answer if isinstance(answer, Awaitable) else answer

    def _make_fork(self, request: Request, note: Note) -> Result:
        """The source should be here, and so will be the fork."""
        request.note = None
        source = self._source(request)
        if source in self._kept:
            return self._make_later(request, note, self._kept[source])
        if source is not None and (at := self._place(source)) != self._mesh.index:
            return self._elsewhere(request, at, note._replace(moves=note.moves + 1))
        return self._told(request, note)

    async def _make_later(self, request: Request, note: Note, kept: asyncio.Future[None]) -> Outcome:
        """The source may be there already, as a fork elsewhere. (Not for long: two could wait for each other.)"""
        try:
            async with asyncio.timeout(_SOURCE_SECONDS):
                await asyncio.shield(kept)
        except TimeoutError:
            return await self._told(request, note)
        answer = self._make_fork(request, note)
        return await answer if isinstance(answer, Awaitable) else answer

    async def _told(self, request: Request, note: Note) -> AnyResponse:
        self._making.add(note.key)
        try:
            answer = self.service.handle(request)
            return await answer if isinstance(answer, Awaitable) else answer
        finally:
            self._making.discard(note.key)
            self.tell(note)

    # -- what concerns all workers --

    def _whole(self, request: Request) -> Result:
        if request.path == b"/usage" and request.method in ("GET", "HEAD"):
            return self.usage(request)
        return self.service.handle(request)

    def usage(self, request: Request) -> Result:
        """GET /usage, or what the service says instead."""
        answer = self.service.usage(request)
        return self._usage(answer) if isinstance(answer, Awaitable) else answer

    async def _usage(self, mine: Awaitable[AnyResponse]) -> AnyResponse:
        answer = await mine
        if not isinstance(answer, Response):
            return answer
        total = orjson.loads(answer.body)
        for report in await self._mesh.ask_all("usage", self.number):
            for name, value in report.items():
                total[name] = max(total[name], value) if name == "at" else total[name] + value
        return Response(200, answers.BASE + _JSON, orjson.dumps(total))

    # -- for the subscriptions, which are in one worker --

    def append(self, key: bytes, command: Append, body: bytes) -> Response | Awaitable[Response]:
        """Like `Writes.append`, wherever the stream is. Of the answer only the status counts."""
        at = self._place(key)
        if at == self._mesh.index:
            return self.service.writes.append(key, command, body)
        return self._append_there(at, key, command, body)

    async def _append_there(self, at: int, key: bytes, command: Append, body: bytes) -> Response:
        try:
            status: int = await self._mesh.ask(at, "append", (self.number, key, command.media, body))
        except HttpError as error:
            status = error.status
        return Response(status)

    async def append_for(self, key: bytes, media: bytes, body: bytes) -> int:
        """The status of an append that another worker asked for."""
        answer = self.append(key, Append(media, False, None, None), body)
        return (answer if isinstance(answer, Response) else await answer).status

    async def position_for(self, key: bytes, token: str) -> int:
        """The position of an offset. Raises HttpError."""
        at = self._place(key)
        if at != self._mesh.index:
            found: int = await self._mesh.ask(at, "position", (self.number, key, token))
            return found
        stream = self.service.store.get(key)
        if stream is None or stream.gone:
            raise HttpError(404, "NOT_FOUND", "is not there any more")
        return self.service.reader.position(stream, offsets.parse(token))

    async def settled(self) -> None:
        """Until everything that was accepted here is durable."""
        wal = self.service.wal
        await wal.wait(wal.flush())


def note_of(value: Any) -> Note:
    return Note(*value)
