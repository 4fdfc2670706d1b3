"""Callback and claim tokens: signed, valid for an hour, for one generation of one subscription. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass

import orjson

from switchgear_streams.subscriptions.errors import Refused

LIFETIME_MS = 3_600_000
RENEW_MS = 900_000
"""With less than this left, the next heartbeat's answer carries a new token."""
CALLBACK, CLAIM = "callback", "claim"


@dataclass(frozen=True, slots=True)
class Claims:
    """`incarnation` tells a subscription from a deleted one of the same id. `expires`: Unix ms."""

    kind: str
    subscription: str
    incarnation: str
    generation: int
    expires: int


def mint(secret: bytes, claims: Claims) -> str:
    body = _text(
        orjson.dumps([claims.kind, claims.subscription, claims.incarnation, claims.generation, claims.expires])
    )
    return f"{body}.{_text(_sign(secret, body.encode()))}"


def verify(secret: bytes | None, authorization: bytes, kind: str, now: int) -> Claims:
    """What the Authorization header's token says. Raises Refused 401 TOKEN_INVALID, TOKEN_EXPIRED."""
    scheme, _, token = authorization.partition(b" ")
    body, dot, mark = token.strip().partition(b".")
    if secret is None or scheme.lower() != b"bearer" or not dot or len(token) > 4096:
        raise _invalid()
    try:
        given = _raw(mark)
        if not hmac.compare_digest(given, _sign(secret, body)):
            raise _invalid()
        found = Claims(*orjson.loads(_raw(body)))
    except (binascii.Error, ValueError, TypeError):
        raise _invalid() from None
    if found.kind != kind:
        raise _invalid()
    if found.expires <= now:
        raise Refused(401, "TOKEN_EXPIRED", "The token is older than an hour; wait for the next wake.")
    return found


def _sign(secret: bytes, body: bytes) -> bytes:
    return hmac.digest(secret, b"subscription-token:" + body, hashlib.sha256)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _raw(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _invalid() -> Refused:
    return Refused(401, "TOKEN_INVALID", "Send the wake's token as Authorization: Bearer <token>.")
