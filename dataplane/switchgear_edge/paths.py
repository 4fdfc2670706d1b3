"""Which route and service a raw request path names. Pure.

Invariant: only a path that one of the data planes would serve is called SHAPE or STREAM, whatever its spelling; what is
authenticated is the resolved route, never the text of the path.
"""

from __future__ import annotations

import enum
from typing import NamedTuple
from urllib.parse import unquote_to_bytes


class Family(enum.Enum):
    """What kind of answer a path gets; the value is the `route` label of metrics."""

    SHAPE = "shape"
    STREAM = "stream"
    HEALTH = "health"
    ROOT = "root"
    NONE = "none"


class Target(NamedTuple):
    """`path` is what the pod is asked for; `service_id` is "" where the path does not name one."""

    family: Family
    path: bytes
    service_id: str = ""


_NONE = Target(Family.NONE, b"")
# How a streams service is addressed → how its pod is asked.
_STREAMS = {b"stream": b"/v1/stream/", b"streams": b"/v1/stream/", b"yjs": b"/v1/yjs/"}


def resolve(path: bytes) -> Target:
    """The target of a raw path (no query). Shapes: extra slashes and percent-encoding do not matter, as in the sync
    server; the path goes on as it came. Streams: `/v1/stream/<id>`, `/v1/streams/<id>` or `/v1/yjs/<id>`, the id
    percent-decoded; what follows the id goes on byte for byte."""
    if path == b"/v1/shape":
        return Target(Family.SHAPE, path)
    stream = _stream(path)
    if stream is not None:
        return stream
    segments = [unquote_to_bytes(s) if b"%" in s else s for s in path.split(b"/") if s]
    if segments == [b"v1", b"shape"]:
        return Target(Family.SHAPE, path)
    if segments == [b"v1", b"health"]:
        return Target(Family.HEALTH, path)
    if not segments and path.startswith(b"/"):
        return Target(Family.ROOT, path)
    return _NONE


def _stream(path: bytes) -> Target | None:
    parts = path.split(b"/", 4)
    if len(parts) < 4 or parts[0]:
        return None
    version, family, raw_id = (unquote_to_bytes(p) if b"%" in p else p for p in parts[1:4])
    upstream = _STREAMS.get(family)
    if version != b"v1" or upstream is None or not raw_id:
        return None
    rest = b"/" + parts[4] if len(parts) == 5 else b""
    # An id that is none of ours matches no service, so its bytes never reach a pod's path.
    service_id = raw_id.decode("ascii", "replace")
    return Target(Family.STREAM, upstream + raw_id + rest, service_id)
