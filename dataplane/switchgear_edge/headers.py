"""Headers: what goes on to the pod, what comes back to the client, and CORS. Pure.

Invariants: hop-by-hop headers stop here in both directions; the user's credentials and cookies never go on; how a body
is framed is decided by the connection that carries it, never by a header that was passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from switchgear_edge.paths import Family

Header = tuple[bytes, bytes]

_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
     b"trailer", b"transfer-encoding", b"upgrade"}
)  # fmt: skip
# Of the request also: its framing, what only the edge may say, and what is nobody's business behind it (a Referer may
# hold a URL with a secret).
_REQUEST_STOPS = _HOP_BY_HOP | {b"content-length", b"expect", b"host", b"authorization", b"cookie", b"referer",
                                b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host",
                                b"x-real-ip"}  # fmt: skip
_RESPONSE_STOPS = _HOP_BY_HOP | {b"content-length", b"date"}

_METHODS = {
    Family.SHAPE: b"GET, POST, HEAD, DELETE, OPTIONS",
    Family.STREAM: b"GET, POST, PUT, DELETE, HEAD, OPTIONS",
}
_ALLOWED = (
    b"authorization, content-type, if-none-match, accept, cache-control, last-event-id, traceparent, tracestate, "
    b"x-request-id, stream-closed, stream-ttl, stream-expires-at, stream-seq, producer-id, producer-epoch, "
    b"producer-seq, stream-forked-from, stream-fork-offset, stream-fork-sub-offset"
)
_EXPOSED = (
    b"electric-cursor, electric-handle, electric-has-data, electric-offset, electric-schema, electric-up-to-date, "
    b"electric-internal-known-error, retry-after, etag, location, content-type, content-encoding, vary, x-request-id, "
    b"stream-next-offset, stream-up-to-date, stream-closed, stream-cursor, stream-ttl, stream-expires-at, "
    b"stream-sse-data-encoding, producer-epoch, producer-seq, producer-expected-seq, producer-received-seq"
)
_COMMON = (
    b"access-control-expose-headers: " + _EXPOSED + b"\r\n"
    b"x-content-type-options: nosniff\r\ncross-origin-resource-policy: cross-origin\r\n"
)
_PREFLIGHT = b"access-control-allow-headers: " + _ALLOWED + b"\r\naccess-control-max-age: 86400\r\n"


def cors(family: Family, origin: bytes | None) -> bytes:
    """The header block of every answer of the edge's own."""
    allowed = origin if origin and origin.isascii() and origin.decode("ascii").isprintable() else b"*"
    return (
        b"access-control-allow-origin: %b\r\naccess-control-allow-methods: %b\r\n"
        % (allowed, _METHODS.get(family, b"GET, HEAD"))
        + _COMMON
    )


def preflight(family: Family, origin: bytes | None) -> bytes:
    """The header block of the answer to OPTIONS."""
    return cors(family, origin) + _PREFLIGHT


def to_pod(
    received: Sequence[Header],
    *,
    connection: bytes | None,
    host: bytes,
    authorization: bytes | None,
    peer: str,
    trusts: Callable[[str], bool] | None = None,
) -> list[Header]:
    """The headers of the request to the pod: the client's, without what stops here, and ours (`authorization`).

    `connection` is the received Connection header; `trusts` says of a peer's address whether what it says of its own
    client (X-Forwarded-*) may be believed.
    """
    stops = _listed(connection, _REQUEST_STOPS)
    sent = [_singular(header) for header in received if header[0] not in stops]
    sent.append((b"host", host))
    if authorization is not None:
        sent.append((b"authorization", authorization))
    if trusts is not None and trusts(peer):
        sent += _forwarded_by_proxy(received, host, peer)
    else:
        sent.append((b"x-forwarded-for", peer.encode()))
        sent.append((b"x-forwarded-proto", b"http"))
        sent.append((b"x-forwarded-host", host))
    return sent


def _singular(header: Header) -> Header:
    """A fork's source is named by its path, which is rewritten like the request's own."""
    name, value = header
    if name == b"stream-forked-from" and value.startswith(b"/v1/streams/"):
        return name, b"/v1/stream/" + value.removeprefix(b"/v1/streams/")
    return header


def _forwarded_by_proxy(received: Sequence[Header], host: bytes, peer: str) -> list[Header]:
    said: dict[bytes, bytes] = {}
    for name, value in received:
        if name.startswith(b"x-forwarded-"):
            said[name] = said[name] + b", " + value if name in said else value
    before = said.get(b"x-forwarded-for")
    return [
        (b"x-forwarded-for", (before + b", " if before else b"") + peer.encode()),
        (b"x-forwarded-proto", said.get(b"x-forwarded-proto", b"http")),
        (b"x-forwarded-host", said.get(b"x-forwarded-host", host)),
    ]


def to_client(received: Sequence[Header], family: Family, origin: bytes | None) -> bytes:
    """The header block of the pod's answer for the client; the pod's own CORS headers stay, missing ones are added.

    The values come out of the HTTP parser, so none has a line break in it.
    """
    connection = b",".join(value for name, value in received if name == b"connection")
    stops = _listed(connection, _RESPONSE_STOPS)
    lines: list[bytes] = []
    has_cors = False
    for name, value in received:
        if name not in stops:
            lines.append(b"%b: %b\r\n" % (name, value))
            if name == b"access-control-allow-origin":
                has_cors = True
    if not has_cors:
        lines.append(cors(family, origin))
    return b"".join(lines)


def _listed(connection: bytes | None, stops: frozenset[bytes]) -> frozenset[bytes]:
    """`stops` with the names that a Connection header lists."""
    if not connection:
        return stops
    names = {name.strip() for name in connection.lower().split(b",")}
    return stops if names <= {b"keep-alive", b"close", b""} else stops | names
