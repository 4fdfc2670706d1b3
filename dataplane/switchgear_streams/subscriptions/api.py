"""The routes below `__ds`: bodies and tokens checked, then the engine. Answers are given once they are durable.

`callback`, `ack`, `release` and the public keys are open to those without the service's secret: the first three need
the wake's token, which is checked before anything that tells whether a subscription exists.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import orjson

from switchgear_streams import answers
from switchgear_streams.rules import offsets
from switchgear_streams.stream import Stream
from switchgear_streams.subscriptions import config, tokens, views
from switchgear_streams.subscriptions.config import PULL_WAKE, WEBHOOK, Ack
from switchgear_streams.subscriptions.engine import MAX_SUBSCRIPTIONS, Engine
from switchgear_streams.subscriptions.errors import Refused, fenced, invalid, unknown
from switchgear_streams.subscriptions.journal import links_size
from switchgear_streams.subscriptions.neighbours import Seen
from switchgear_streams.subscriptions.state import LEASED, Subscription, already_claimed, no_pending_work
from switchgear_wire.errors import BodyTooLarge, HttpError
from switchgear_wire.request import Request
from switchgear_wire.response import Response

MAX_BODY = 262_144
_ID = re.compile(r"[A-Za-z0-9_~:-][A-Za-z0-9_.~:-]{0,199}")
_JSON = b"content-type: application/json\r\n" + answers.NO_STORE
_KEYS = b"content-type: application/jwk-set+json\r\ncache-control: public, max-age=300\r\n"
_RETRY = b"retry-after: 1\r\n"
_BY_TOKEN = (b"callback", b"ack", b"release")


class Api:
    """`prefix`: the root's path with what makes a request ours, such as `/v1/stream/__ds`."""

    def __init__(self, engine: Engine, root_path: str, base: Callable[[Request], str]) -> None:
        self._engine = engine
        self._base = base
        self.prefix = root_path.encode() + b"/__ds"

    def mine(self, path: bytes) -> bool:
        return path.startswith(self.prefix) and path[len(self.prefix) :][:1] in (b"/", b"")

    def is_open(self, request: Request) -> bool:
        """May it come without the service's secret?"""
        if not self.mine(request.path):
            return False
        parts = self._parts(request)
        if request.method == "POST":
            return len(parts) == 3 and parts[0] == b"subscriptions" and parts[2] in _BY_TOKEN
        return request.method in ("GET", "HEAD") and parts == [b"jwks.json"]

    def _parts(self, request: Request) -> list[bytes]:
        return request.path[len(self.prefix) + 1 :].split(b"/")

    async def handle(self, request: Request) -> Response:
        try:
            return await self._route(request)
        except Refused as error:
            return _problem(error)
        except BodyTooLarge as error:
            return _problem(Refused(413, "BODY_TOO_LARGE", error.message))

    def _route(self, request: Request) -> Awaitable[Response]:
        parts = self._parts(request)
        if parts == [b"jwks.json"]:
            return self._only(request, {"GET": self._jwks, "HEAD": self._jwks})
        if parts[0] != b"subscriptions" or len(parts) < 2:
            raise Refused(404, "NOT_FOUND", "Below __ds there are subscriptions/<id> and jwks.json.")
        name = _subscription_id(parts[1])
        if len(parts) == 2:
            return self._only(
                request,
                {
                    "PUT": lambda r: self._put(r, name),
                    "GET": lambda r: self._get(r, name),
                    "HEAD": lambda r: self._get(r, name),
                    "DELETE": lambda r: self._delete(name),
                },
            )
        if parts[2] == b"streams":
            if len(parts) == 3:
                return self._only(request, {"POST": lambda r: self._link(r, name)})
            return self._only(request, {"DELETE": lambda r: self._unlink(name, b"/".join(parts[3:]))})
        actions = {b"callback": self._callback, b"ack": self._ack, b"release": self._release, b"claim": self._claim}
        if len(parts) != 3 or parts[2] not in actions:
            raise Refused(404, "NOT_FOUND", "A subscription has streams, callback, claim, ack and release.")
        action = actions[parts[2]]
        return self._only(request, {"POST": lambda r: action(r, name)})

    @staticmethod
    def _only(request: Request, routes: dict[str, Callable[[Request], Awaitable[Response]]]) -> Awaitable[Response]:
        route = routes.get(request.method)
        if route is None:
            error = Refused(405, "METHOD_NOT_ALLOWED", f"Use {' or '.join(routes)}.")
            error.headers = f"allow: {', '.join((*routes, 'OPTIONS'))}\r\n".encode()
            raise error
        return route(request)

    # -- keys --

    async def _jwks(self, request: Request) -> Response:
        ring = self._engine.ring
        return Response(200, answers.BASE + _KEYS, b'{"keys":[]}' if ring is None else ring.jwks())

    # -- the subscription --

    def _find(self, name: str) -> Subscription:
        found = self._engine.subscriptions.get(name)
        if found is None or found.removed:
            raise unknown()
        return found

    async def _put(self, request: Request, name: str) -> Response:
        engine = self._engine
        wanted = config.parse(await request.read(MAX_BODY), engine.allow_loopback)
        await engine.keyring()
        existing = engine.subscriptions.get(name)
        if existing is not None and existing.removed:
            raise Refused(409, "SUBSCRIPTION_ALREADY_EXISTS", "The subscription is being deleted; try again.")
        if existing is not None:
            if existing.config != wanted:
                raise Refused(
                    409, "SUBSCRIPTION_ALREADY_EXISTS", "It exists with another configuration; delete it first."
                )
            await engine.caught_up()
            await engine.settled()
            return _answer(200, await views.shown(engine, existing, engine.base_of(existing)))
        if len(engine.subscriptions) >= MAX_SUBSCRIPTIONS:
            raise Refused(429, "TOO_MANY_SUBSCRIPTIONS", f"There are {MAX_SUBSCRIPTIONS} subscriptions; delete some.")
        made = Subscription(name, wanted, self._base(request), engine.store.clock(), secrets.token_hex(8))
        await engine.add(made)
        return _answer(201, await views.shown(engine, made, engine.base_of(made)))

    async def _get(self, request: Request, name: str) -> Response:
        await self._engine.caught_up()
        found = self._find(name)
        shown = await views.shown(self._engine, found, self._engine.base_of(found))
        await self._engine.settled()
        return _answer(200, shown)

    async def _delete(self, name: str) -> Response:
        found = self._engine.subscriptions.get(name)
        if found is not None:
            await self._engine.remove(found)
        return Response(204, answers.BASE)

    async def _link(self, request: Request, name: str) -> Response:
        paths = config.paths(config.parse_object(await request.read(MAX_BODY)))
        found = self._find(name)
        if found.config.wake_stream in paths:
            raise invalid("The wake stream cannot be one of the streams: every wake would cause the next.")
        keys = [path.encode() for path in paths]
        await self._engine.neighbours.watch(found, keys)
        if found.removed:
            raise unknown()
        await self._engine.link(found, keys)
        return Response(204, answers.BASE)

    async def _unlink(self, name: str, raw: bytes) -> Response:
        found = self._find(name)
        try:
            path = config.path(unquote(raw.decode("ascii"), errors="strict"), "The stream")
        except UnicodeDecodeError:
            raise invalid("The stream's path is not UTF-8.") from None
        done = self._engine.unlink(found, path.encode())
        if done is not None:
            await done
        return Response(204, answers.BASE)

    # -- wakes --

    async def _claim(self, request: Request, name: str) -> Response:
        worker = config.parse_worker(await request.read(MAX_BODY))
        found, engine = self._find(name), self._engine
        if found.config.type != PULL_WAKE:
            raise invalid("Only pull-wake subscriptions are claimed; a webhook's work is delivered.")
        await engine.keyring()
        await engine.caught_up()
        now = engine.store.clock()
        if found.removed:
            raise unknown()
        engine.require_room()
        engine.catch_up()
        if found.expired(now):
            found.clear()
        wake = found.wake
        if wake is not None and wake.phase == LEASED:
            raise already_claimed(wake.holder, found.generation)
        if not found.pending:
            raise no_pending_work()
        if wake is None:
            found.begin("w_" + secrets.token_urlsafe(16), now)
        found.lease(worker, now)
        done = engine.journal.save(found, [])
        shown = views.claimed(engine, found)
        engine.kick(found)
        await done
        return _answer(200, shown)

    async def _callback(self, request: Request, name: str) -> Response:
        return await self._progress(request, name, tokens.CALLBACK, WEBHOOK)

    async def _ack(self, request: Request, name: str) -> Response:
        return await self._progress(request, name, tokens.CLAIM, PULL_WAKE)

    async def _progress(self, request: Request, name: str, kind: str, holder: str) -> Response:
        """Callback and ack: acknowledge, keep the lease, or end the wake."""
        ack, found, claims = await self._authorised(request, name, kind)
        engine = self._engine
        await engine.caught_up()
        acks = await self._positions(found, ack)
        engine.require_room(links_size(acks))
        # From here to `save` nothing waits, so that no two requests move one wake.
        self._still(found, ack, claims)
        engine.catch_up()
        now = engine.store.clock()
        changed = engine.acknowledge(found, acks)
        answer: dict[str, Any] = {"ok": True, "next_wake": False}
        if ack.done:
            found.clear()
            answer["next_wake"] = bool(found.pending)
        else:
            assert found.wake is not None
            found.lease(found.wake.holder or holder, now)
            if claims.expires - now < tokens.RENEW_MS:
                answer["callback_token" if kind == tokens.CALLBACK else "token"] = engine.token(found, kind)
        done = engine.journal.save(found, changed)
        engine.kick(found)
        await done
        return _answer(200, answer)

    async def _release(self, request: Request, name: str) -> Response:
        _, found, _ = await self._authorised(request, name, tokens.CLAIM)
        self._engine.require_room()
        found.clear()
        done = self._engine.journal.save(found, [])
        self._engine.kick(found)
        await done
        return Response(204, answers.BASE)

    async def _authorised(self, request: Request, name: str, kind: str) -> tuple[Ack, Subscription, tokens.Claims]:
        """Token, then body, then whether the wake is still the one. Raises Refused."""
        engine = self._engine
        secret = None if engine.ring is None else engine.ring.token_secret
        claims = tokens.verify(secret, request.headers.get(b"authorization", b""), kind, engine.store.clock())
        if claims.subscription != name:
            raise Refused(401, "TOKEN_INVALID", "The token belongs to another subscription.")
        ack = config.parse_ack(await request.read(MAX_BODY))
        found = self._find(name)
        self._still(found, ack, claims)
        return ack, found, claims

    def _still(self, found: Subscription, ack: Ack, claims: tokens.Claims) -> None:
        """Is the wake the one that the token is for? Raises Refused."""
        if found.removed:
            raise unknown()
        if found.incarnation != claims.incarnation:
            raise fenced()
        found.check(ack.wake_id, ack.generation, claims.generation)
        if found.expired(self._engine.store.clock()):
            self._engine.kick(found)
            raise fenced()

    async def _positions(self, subscription: Subscription, ack: Ack) -> dict[bytes, tuple[int, int]]:
        """All acks as key → (generation, position), or none: Raises Refused 409 INVALID_OFFSET."""
        made: dict[bytes, tuple[int, int]] = {}
        for path, token in ack.acks:
            try:
                key = path.encode()
            except UnicodeEncodeError:
                raise _bad_offset(path, "is no stream of this subscription") from None
            link, stream = subscription.links.get(key), self._engine.stream(key)
            if link is None or stream is None or link.generation != stream.generation:
                raise _bad_offset(path, "is no stream of this subscription")
            generation = link.generation
            position = await self._position(path, token, key, stream)
            if subscription.links.get(key) is not link or link.generation != generation:  # meanwhile
                raise _bad_offset(path, "is no stream of this subscription")
            if position < link.position:
                raise _bad_offset(path, "is acknowledged beyond this offset already")
            made[key] = (generation, max(position, made.get(key, (0, 0))[1]))
        return made

    async def _position(self, path: str, token: str, key: bytes, stream: Seen) -> int:
        try:
            if not isinstance(stream, Stream):
                return await self._engine.neighbours.position(key, token)
            return self._engine.reader.position(stream, offsets.parse(token))
        except (HttpError, OSError) as error:
            raise _bad_offset(path, str(error)) from None


def _bad_offset(path: str, problem: str) -> Refused:
    return Refused(409, "INVALID_OFFSET", f"{path}: {problem}")


def _subscription_id(raw: bytes) -> str:
    name = unquote(raw.decode("latin-1"))
    if not _ID.fullmatch(name):
        raise invalid("A subscription's id is 1 to 200 letters, digits, and -_.~: and does not begin with a dot.")
    return name


def _answer(status: int, value: dict[str, Any]) -> Response:
    return Response(status, answers.BASE + _JSON, orjson.dumps(value))


def _problem(error: Refused) -> Response:
    body = {"error": {"code": error.code, "message": error.message, **error.extra}}
    headers = answers.BASE + _JSON + error.headers
    if error.status in (429, 507):
        headers += _RETRY
    elif error.status == 401:
        headers += b"www-authenticate: Bearer\r\n"
    return Response(error.status, headers, orjson.dumps(body))
