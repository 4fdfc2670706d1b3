"""What is shown of a subscription: GET, the webhook's notification, a claim's answer. It only looks at streams."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import orjson

from switchgear_streams.rules import offsets
from switchgear_streams.subscriptions import tokens
from switchgear_streams.subscriptions.state import Subscription

if TYPE_CHECKING:
    from switchgear_streams.subscriptions.engine import Engine

MAX_IN_WAKE = 1000
"""Streams that one wake names, those with work first; the rest comes with the next wake."""
MAX_SHOWN = 10_000
"""Streams that a GET shows."""
_AT_ONCE = 200
"""Of these, so many are looked at before others get their turn."""

Snapshot = dict[bytes, tuple[int, int]]


def streams(engine: Engine, subscription: Subscription, most: int) -> tuple[list[dict[str, Any]], Snapshot]:
    """Its streams as (JSON values, key → (generation, tail))."""
    return _streams(engine, subscription, _first(subscription, most))


def _first(subscription: Subscription, most: int) -> list[bytes]:
    """Those with work first."""
    rest = (key for key in subscription.links if key not in subscription.pending)
    return list(islice(chain(subscription.pending, rest), most))


async def _shown_streams(engine: Engine, subscription: Subscription) -> list[dict[str, Any]]:
    """As many as a GET shows, each as it is at some moment from now on: others get their turn."""
    made: list[dict[str, Any]] = []
    keys = _first(subscription, MAX_SHOWN)
    for start in range(0, len(keys), _AT_ONCE):
        if start:
            await asyncio.sleep(0)
        made += _streams(engine, subscription, keys[start : start + _AT_ONCE])[0]
    return made


def _streams(
    engine: Engine, subscription: Subscription, keys: Sequence[bytes]
) -> tuple[list[dict[str, Any]], Snapshot]:
    made: list[dict[str, Any]] = []
    snapshot: Snapshot = {}
    for key in keys:
        link = subscription.links.get(key)
        if link is None:
            continue
        stream = engine.stream(key)
        acked = tail = "-1"
        pending = False
        if stream is not None:
            known = link.generation == stream.generation
            position = link.position if known else stream.base
            acked = offsets.mint(stream.space, position).decode()
            tail = offsets.mint(stream.space, stream.visible).decode()
            pending = stream.visible > position
            if known:
                snapshot[key] = (stream.generation, stream.visible)
        made.append(
            {
                "path": key.decode(),
                "link_type": "explicit" if link.explicit else "glob",
                "acked_offset": acked,
                "tail_offset": tail,
                "has_pending": pending,
            }
        )
    return made, snapshot


def url(base: str, subscription: Subscription) -> str:
    return f"{base}/__ds/subscriptions/{subscription.id}"


async def shown(engine: Engine, subscription: Subscription, base: str) -> dict[str, Any]:
    """The answer to PUT and GET. `base`: the public address of the root."""
    config = subscription.config
    listed = await _shown_streams(engine, subscription)
    made: dict[str, Any] = {
        "id": subscription.id,
        "subscription_id": subscription.id,
        "type": config.type,
        "pattern": config.pattern,
        "streams": listed,
        "lease_ttl_ms": config.lease_ttl_ms,
        "created_at": datetime.fromtimestamp(subscription.created / 1000, UTC).isoformat().replace("+00:00", "Z"),
        "status": subscription.status,
    }
    if config.url is not None and engine.ring is not None:
        signing = {"alg": "ed25519", "kid": engine.ring.keys[-1].kid, "jwks_url": f"{base}/__ds/jwks.json"}
        made["webhook"] = {"url": config.url, "signing": signing}
    if config.wake_stream is not None:
        made["wake_stream"] = config.wake_stream
    if config.description is not None:
        made["description"] = config.description
    return made


def notification(engine: Engine, subscription: Subscription) -> tuple[bytes, Snapshot]:
    """A webhook's body, and what `done` acknowledges."""
    assert subscription.wake is not None
    listed, snapshot = streams(engine, subscription, MAX_IN_WAKE)
    body = {
        "subscription_id": subscription.id,
        "wake_id": subscription.wake.id,
        "generation": subscription.generation,
        "streams": listed,
        "callback_url": url(engine.base_of(subscription), subscription) + "/callback",
        "callback_token": engine.token(subscription, tokens.CALLBACK),
    }
    return orjson.dumps(body), snapshot


def claimed(engine: Engine, subscription: Subscription) -> dict[str, Any]:
    """The answer to a claim."""
    assert subscription.wake is not None
    return {
        "wake_id": subscription.wake.id,
        "generation": subscription.generation,
        "token": engine.token(subscription, tokens.CLAIM),
        "streams": streams(engine, subscription, MAX_IN_WAKE)[0],
        "lease_ttl_ms": subscription.config.lease_ttl_ms,
    }
