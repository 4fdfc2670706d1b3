"""Request bodies → values: what a client may ask of a subscription. Pure. Raises Refused (400)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from switchgear_streams import request
from switchgear_streams.rules.producers import MAX_NUMBER
from switchgear_streams.subscriptions import targets
from switchgear_streams.subscriptions.errors import invalid
from switchgear_streams.subscriptions.globs import Glob

MAX_TEXT = 1024
MAX_STREAMS = 1000
"""Paths in one request."""
LEASE_MS = (1000, 600_000, 30_000)
"""Shortest, longest, default."""
WEBHOOK, PULL_WAKE = "webhook", "pull-wake"


@dataclass(frozen=True, slots=True)
class Config:
    """What makes two PUTs the same. `streams` sorted, without repeats."""

    type: str
    pattern: str | None
    streams: tuple[str, ...]
    url: str | None
    wake_stream: str | None
    lease_ttl_ms: int
    description: str | None


@dataclass(frozen=True, slots=True)
class Ack:
    """A callback or ack. `acks`: (path, offset token)."""

    wake_id: str
    generation: int
    acks: tuple[tuple[str, str], ...]
    done: bool


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object."""
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise invalid("The body must be JSON.") from None
    if not isinstance(raw, dict):
        raise invalid("The body must be a JSON object.")
    return raw


def parse(body: bytes, allow_loopback: bool) -> Config:
    """A PUT's body."""
    raw = parse_object(body)
    kind = raw.get("type")
    if kind not in (WEBHOOK, PULL_WAKE):
        raise invalid("type must be webhook or pull-wake.")
    pattern = _text(raw, "pattern")
    if pattern is not None:
        pattern = pattern.removeprefix("/")
        try:
            Glob(pattern)
        except ValueError as error:
            raise invalid(f"pattern {error}.") from None
    streams = () if raw.get("streams") is None else paths(raw)
    if pattern is None and not streams:
        raise invalid("Give pattern or streams.")
    url = wake_stream = None
    if kind == WEBHOOK:
        webhook = raw.get("webhook")
        url = webhook.get("url") if isinstance(webhook, dict) else None
        if not isinstance(url, str):
            raise invalid("A webhook subscription needs webhook.url.")
        targets.parse(url, allow_loopback)
    else:
        wake_stream = path(raw.get("wake_stream"), "wake_stream")
        if wake_stream in streams:
            raise invalid("wake_stream cannot be one of the streams: every wake would cause the next.")
    low, high, default = LEASE_MS
    lease = raw.get("lease_ttl_ms")
    lease = default if lease is None else lease
    if not isinstance(lease, int) or isinstance(lease, bool) or not low <= lease <= high:
        raise invalid(f"lease_ttl_ms must be a whole number from {low} to {high}.")
    return Config(kind, pattern, streams, url, wake_stream, lease, _text(raw, "description"))


def paths(raw: dict[str, Any]) -> tuple[str, ...]:
    """The member `streams`: at least one path."""
    given = raw.get("streams")
    if not isinstance(given, list) or not 0 < len(given) <= MAX_STREAMS:
        raise invalid(f"streams must be a list of 1 to {MAX_STREAMS} paths.")
    return tuple(sorted({path(one, "streams") for one in given}))


def path(given: object, name: str) -> str:
    """A stream's path below the root."""
    if not isinstance(given, str):
        raise invalid(f"{name} must be a stream's path below the root, such as events/a.")
    text = given.removeprefix("/")
    key = text.encode()
    if (
        not key
        or len(key) > request.MAX_KEY
        or b"\0" in key
        or not {b".", b".."}.isdisjoint(key.split(b"/"))
        or request.is_reserved(key)
    ):
        raise invalid(f"{name}: this is no stream's path.")
    return text


def parse_worker(body: bytes) -> str:
    """A claim's body."""
    worker = parse_object(body).get("worker")
    if not isinstance(worker, str) or not 0 < len(worker) <= MAX_TEXT:
        raise invalid(f"worker must be a text of 1 to {MAX_TEXT} characters.")
    return worker


def parse_ack(body: bytes) -> Ack:
    """A callback's, ack's or release's body."""
    raw = parse_object(body)
    wake_id, generation, done = raw.get("wake_id"), raw.get("generation"), raw.get("done", False)
    if not isinstance(wake_id, str) or not isinstance(generation, int) or isinstance(generation, bool):
        raise invalid("wake_id (text) and generation (number) are needed.")
    if not 0 <= generation <= MAX_NUMBER or not isinstance(done, bool):
        raise invalid("generation must be a whole number, done true or false.")
    given = raw.get("acks")
    given = [] if given is None else given
    if not isinstance(given, list) or len(given) > MAX_STREAMS:
        raise invalid(f"acks must be a list of at most {MAX_STREAMS}.")
    acks: list[tuple[str, str]] = []
    for one in given:
        stream, offset = (one.get("stream", one.get("path")), one.get("offset")) if isinstance(one, dict) else (0, 0)
        if not isinstance(stream, str) or not isinstance(offset, str):
            raise invalid("Each of acks must have stream and offset.")
        acks.append((stream.removeprefix("/"), offset))
    return Ack(wake_id, generation, tuple(acks), done)


def _text(raw: dict[str, Any], name: str) -> str | None:
    value = raw.get(name)
    if value is not None and (not isinstance(value, str) or len(value) > MAX_TEXT):
        raise invalid(f"{name} must be a text of at most {MAX_TEXT} characters.")
    return value
