"""The routes of the Yjs protocol: one URL for each document, its parts chosen by the query. Answers are durable.

What it must not do: decode a document. Refusals are JSON `{"error": {"code", "message"}}`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from switchgear_streams import answers
from switchgear_streams import request as commands
from switchgear_streams.request import Read
from switchgear_streams.rules import media, offsets
from switchgear_streams.stream import Stream
from switchgear_streams.yjs import frames, paths
from switchgear_streams.yjs.compactor import Compactor
from switchgear_streams.yjs.documents import AWARENESS_TTL, Documents
from switchgear_streams.yjs.errors import Refused, dressed, no_document
from switchgear_wire.errors import BodyTooLarge, HttpError
from switchgear_wire.query import parse_query
from switchgear_wire.request import Request
from switchgear_wire.response import AnyResponse, Response

MAX_AWARENESS_BODY = 262_144
# Presence is of the moment: a stream of it that has become this long is begun anew.
MAX_AWARENESS = 1_048_576
# Longer bodies are checked outside the event loop.
_LONG_BODY = 65_536
_DEFAULT = "default"
_RETRY = b"retry-after: 1\r\n"
# An update has at least its two counters; an awareness update one.
_UPDATE, _AWARENESS = 2, 1
_NOT_FOR_DOCUMENTS = (b"stream-ttl", b"stream-expires-at", b"stream-forked-from", b"stream-closed")

ReadStream = Callable[[Request, bytes, Read], AnyResponse | Awaitable[AnyResponse]]
ReadBody = Callable[[Request, int], Awaitable[bytes]]


class Api:
    """`root`: what all paths begin with; `read` answers a read of a stream, `body` takes a request's body."""

    def __init__(
        self,
        documents: Documents,
        compactor: Compactor,
        root: bytes,
        max_document: int,
        read: ReadStream,
        body: ReadBody,
    ) -> None:
        self._documents = documents
        self._compactor = compactor
        self.root = root
        self._with_service = root == b"/v1/yjs/"
        self._max_document = max_document
        self._read = read
        self._body = body

    def document(self, path: bytes) -> bytes | None:
        """The key of the document that a path names, if it names one."""
        if not path.startswith(self.root):
            return None
        try:
            return paths.document(path, self.root, self._with_service)
        except Refused:
            return None

    async def handle(self, request: Request, location: bytes) -> AnyResponse:
        try:
            return await self._route(request, location)
        except Refused as error:
            return error.answer()
        except BodyTooLarge as error:
            return Refused(413, error.code, error.message).answer()
        except HttpError as error:
            return dressed(answers.problem(error.status, error.code, error.message, error.headers))

    async def _route(self, request: Request, location: bytes) -> AnyResponse:
        document = paths.document(request.path, self.root, self._with_service)
        query: dict[str, str] = {}
        for name, value in parse_query(request.query):
            query.setdefault(name, value)
        if "awareness" in query:
            return await self._awareness(request, document, query)
        method = request.method
        if method in ("GET", "HEAD"):
            return await self._get(request, document, query)
        if method == "POST":
            return await self._post(request, document)
        if method == "PUT":
            return await self._put(request, document, location)
        if method == "DELETE":
            return await self._delete(document)
        raise _wrong_method()

    def _found(self, document: bytes) -> Stream:
        updates = self._documents.find(document)
        if updates is None:
            raise no_document()
        return updates

    # -- reading --

    async def _get(self, request: Request, document: bytes, query: dict[str, str]) -> AnyResponse:
        updates = self._found(document)
        offset = query.get("offset", "")
        if offset == "snapshot":
            return self._discover(request, document, updates, query)
        if offset.endswith(paths.SNAPSHOT):
            return await self._snapshot(request, document, updates, offset.removesuffix(paths.SNAPSHOT))
        if request.method == "HEAD":
            return answers.head(updates)
        return await self._stream(request, updates.key, _read(query, "long-poll"), "DOCUMENT_NOT_FOUND")

    def _discover(self, request: Request, document: bytes, updates: Stream, query: dict[str, str]) -> Response:
        """307 to the snapshot, or to the start of the updates."""
        found = self._documents.snapshot(document, updates)
        goal = "-1"
        if found is not None:
            goal = offsets.mint(updates.space, found[0].position).decode() + paths.SNAPSHOT
        pairs = [f"{quote(n, safe='')}={quote(goal if n == 'offset' else v, safe='')}" for n, v in query.items()]
        line = b"location: %b?%b\r\ncache-control: private, max-age=5\r\n" % (request.path, "&".join(pairs).encode())
        return Response(307, answers.BASE + line)

    async def _snapshot(self, request: Request, document: bytes, updates: Stream, token: str) -> AnyResponse:
        asked = offsets.parse(token)
        found = self._documents.snapshot(document, updates)
        if found is None or (asked.space, asked.position) != (updates.space, found[0].position):
            raise Refused(404, "SNAPSHOT_NOT_FOUND", "This snapshot is not there any more; ask for offset=snapshot.")
        block = (
            answers.BASE
            + answers.NO_STORE
            + b"content-type: application/octet-stream\r\n"
            + answers.next_offset(updates, found[0].position)
        )
        if request.method == "HEAD":
            return Response(200, block)
        return self._documents.whole(found[1], block)

    async def _stream(self, request: Request, key: bytes, command: Read, missing: str) -> AnyResponse:
        answer = self._read(request, key, command)
        made = await answer if isinstance(answer, Awaitable) else answer
        return dressed(made, missing) if isinstance(made, Response) else made

    # -- writing --

    async def _put(self, request: Request, document: bytes, location: bytes) -> Response:
        for name in _NOT_FOR_DOCUMENTS:
            if name in request.headers:
                raise Refused(400, "INVALID_REQUEST", f"A document takes no {name.decode()}; leave it out.")
        given = request.headers.get(b"content-type")
        if given is not None and media.essence(given) != media.OCTETS:
            raise Refused(400, "INVALID_REQUEST", "A document's content type is application/octet-stream.")
        body = await self._checked(request, self._max_document, _UPDATE)
        made = await self._documents.create(paths.updates(document), body, location)
        if made.status not in (200, 201):
            return dressed(made)
        # Where there is no room for it now, whoever asks for it first makes it: the document is there all the same.
        await self._presence(document, paths.awareness_name(_DEFAULT))
        return made

    async def _post(self, request: Request, document: bytes) -> Response:
        """Updates. Other headers than a producer's do not matter: a document is never closed."""
        batch = commands.append(request.headers).batch
        self._found(document)
        body = await self._checked(request, self._max_document, _UPDATE)
        updates = self._found(document)
        if not body:
            raise Refused(400, "INVALID_REQUEST", "Send updates, each behind its length; documents are never closed.")
        if self._documents.size(document, updates) + len(body) > self._max_document:
            self._refuse_size(document, updates)
        answer = await self._documents.append(updates.key, body, batch)
        written = self._documents.find(document)
        if answer.status < 300 and written is not None:
            self._compactor.look(document, written)
        return dressed(answer)

    def _refuse_size(self, document: bytes, updates: Stream) -> None:
        self._compactor.look(document, updates)
        if self._compactor.hopeful(document):
            raise Refused(503, "COMPACTING", "The document is being compacted; try again.", _RETRY)
        raise Refused(413, "DOCUMENT_TOO_LARGE", f"A document may have {self._max_document} bytes; start another one.")

    async def _delete(self, document: bytes) -> Response:
        generation = self._found(document).generation
        async with self._compactor.without(document):
            await self._documents.delete(paths.slot(document, "a"))
            await self._documents.delete(paths.slot(document, "b"))
            answer = await self._documents.delete(paths.updates(document))
        await self._documents.delete(paths.awareness(document, generation, _DEFAULT.encode()))
        return dressed(answer)

    async def _checked(self, request: Request, limit: int, least: int) -> bytes:
        """The body, if it is framed as it must be."""
        body = bytes(await self._body(request, limit))
        try:
            if len(body) > _LONG_BODY:
                await asyncio.to_thread(frames.check, body, least)
            else:
                frames.check(body, least)
        except frames.BadFrame as error:
            raise Refused(400, "INVALID_REQUEST", f"Send updates, each behind its length: {error}.") from None
        return body

    # -- awareness --

    async def _presence(self, document: bytes, name: bytes) -> Response:
        """Make the stream, if it is not there."""
        key = paths.awareness(document, self._found(document).generation, name)
        return await self._documents.create(key, b"", b"", AWARENESS_TTL)

    async def _awareness(self, request: Request, document: bytes, query: dict[str, str]) -> AnyResponse:
        name = paths.awareness_name(query["awareness"])
        key = paths.awareness(document, self._found(document).generation, name)
        method = request.method
        if method == "PUT":
            made = await self._presence(document, name)
            return made if made.status >= 400 else Response(made.status, answers.BASE)
        if method == "POST":
            return await self._announce(request, document, name, key)
        if method == "DELETE":
            return dressed(await self._documents.delete(key), "STREAM_NOT_FOUND")
        if method not in ("GET", "HEAD"):
            raise _wrong_method()
        if query["awareness"] == _DEFAULT and self._documents.visible(key) is None:
            await self._presence(document, name)
        if method == "HEAD":
            stream = self._documents.visible(key)
            if stream is None:
                raise Refused(404, "STREAM_NOT_FOUND", "There is no awareness stream of this name.")
            return answers.head(stream)
        return await self._stream(request, key, _read(query, "sse"), "STREAM_NOT_FOUND")

    async def _announce(self, request: Request, document: bytes, name: bytes, key: bytes) -> Response:
        body = await self._checked(request, MAX_AWARENESS_BODY, _AWARENESS)
        if not body:
            raise Refused(400, "INVALID_REQUEST", "Send awareness updates, each behind its length.")
        stream = self._documents.visible(key)
        if stream is not None and stream.visible > MAX_AWARENESS:
            await self._documents.delete(key)
        made = await self._presence(document, name)
        if made.status >= 400:
            return dressed(made)
        return dressed(await self._documents.append(key, body, None), "STREAM_NOT_FOUND")


def _read(query: dict[str, str], transport: str) -> Read:
    """`live=true` leaves the transport to the server."""
    given = [(n, transport if n == "live" and v == "true" else v) for n, v in query.items()]
    return commands.read("&".join(f"{quote(n, safe='')}={quote(v, safe='')}" for n, v in given).encode())


def _wrong_method() -> Refused:
    return Refused(
        405,
        "INVALID_REQUEST",
        "Use GET, HEAD, PUT, POST or DELETE.",
        b"allow: GET, HEAD, PUT, POST, DELETE, OPTIONS\r\n",
    )
