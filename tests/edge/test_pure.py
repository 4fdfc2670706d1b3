"""The edge's pure steps: paths, credentials, routes, headers, settings."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, unquote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switchgear_edge import answers, credentials, headers
from switchgear_edge.credentials import SLOTS, SecretHash
from switchgear_edge.openings import is_open
from switchgear_edge.paths import Family, resolve
from switchgear_edge.relay import is_live
from switchgear_edge.routes import RouteTable, read_pod, read_service
from switchgear_edge.settings import SettingsError, parse
from switchgear_model import kinds, labels

HASH = hashlib.sha256(b"good").digest()


# -- paths --


@pytest.mark.parametrize(
    "path",
    ["/v1/shape", "/v1/shape/", "/v1//shape", "//v1/shape//", "/v1/%73hape", "/%76%31/shape", "/v1/shap%65/"],
)
def test_every_spelling_of_the_shape_route(path: str) -> None:
    assert resolve(path.encode()) == (Family.SHAPE, path.encode(), "")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/shapes",
        "/v1/shape/x",
        "/v1%2Fshape",
        "/v1/./shape",
        "/v1/x/../shape",
        "/V1/shape",
        "/v1/stream",
        "/v1/stream/",
        "/v1/stream//x",
        "/v2/stream/a/b",
        "/v1/yjs",
        "/v1/yjs/",
        "v1/shape/x",
        "*",
        "",
        "/v1/%2573hape",
        "/v1/streamss/a/b",
        "//v1/stream/a",
    ],
)
def test_paths_of_nobody(path: str) -> None:
    assert resolve(path.encode()).family is Family.NONE


@pytest.mark.parametrize(
    ("path", "upstream", "service_id"),
    [
        ("/v1/stream/svc-a/x", "/v1/stream/svc-a/x", "svc-a"),
        ("/v1/streams/svc-a/x", "/v1/stream/svc-a/x", "svc-a"),
        ("/v1/stream/svc-a", "/v1/stream/svc-a", "svc-a"),
        ("/v1/stream/svc-a/", "/v1/stream/svc-a/", "svc-a"),
        ("/v1/streams/svc%2Da/x%2Fy//z/../%00", "/v1/stream/svc-a/x%2Fy//z/../%00", "svc-a"),
        ("/v1/yjs/svc-a/docs/a/b", "/v1/yjs/svc-a/docs/a/b", "svc-a"),
        ("/v1/%79js/svc%2Da/docs/x", "/v1/yjs/svc-a/docs/x", "svc-a"),
        ("/v1/stre%61ms/svc-a/__ds/subscriptions/s", "/v1/stream/svc-a/__ds/subscriptions/s", "svc-a"),
    ],
)
def test_stream_paths(path: str, upstream: str, service_id: str) -> None:
    assert resolve(path.encode()) == (Family.STREAM, upstream.encode(), service_id)


OPEN = [
    ("POST", "/v1/stream/svc-a/__ds/subscriptions/s-1/callback"),
    ("POST", "/v1/streams/svc-a/__ds/subscriptions/s%3A1/ack"),
    ("POST", "/v1/%73tream/svc%2Da/__ds/subscriptions/s.~:_/release"),
    ("GET", "/v1/stream/svc-a/__ds/jwks.json"),
    ("HEAD", "/v1/stream/svc-a/__ds/jwks.json"),
]


@pytest.mark.parametrize(("method", "path"), OPEN)
def test_open_without_the_secret(method: str, path: str) -> None:
    assert is_open(method, resolve(path.encode()))


@pytest.mark.parametrize(
    "path",
    [
        "/v1/stream/svc-a/__ds/subscriptions/s",
        "/v1/stream/svc-a/__ds/subscriptions/s/claim",
        "/v1/stream/svc-a/__ds/subscriptions/s/streams",
        "/v1/stream/svc-a/__ds/subscriptions/s/ack/",
        "/v1/stream/svc-a/__ds/subscriptions/s/ack/x",
        "/v1/stream/svc-a/__ds/subscriptions/s//ack",
        "/v1/stream/svc-a/__ds/subscriptions//ack",
        "/v1/stream/svc-a/__ds/subscriptions/s/ACK",
        "/v1/stream/svc-a/__ds/subscriptions/s/%61ck",
        "/v1/stream/svc-a/__d%73/subscriptions/s/ack",
        "/v1/stream/svc-a/__ds%2Fsubscriptions/s/ack",
        "/v1/stream/svc-a//__ds/subscriptions/s/ack",
        "/v1/stream/svc-a/x/__ds/subscriptions/s/ack",
        "/v1/stream/svc-a/x/../__ds/subscriptions/s/ack",
        "/v1/stream/svc-a%2Fx/../__ds/subscriptions/s/ack",
        "/v1/stream/svc-a/__ds/subscriptions/s/ack\n",
        "/v1/stream/svc-a/__ds/subscriptions/\n/ack",
        "/v1/stream/svc-a/__ds/subscriptions/s/../../jwks.json",
        "/v1/stream/svc-a/__ds/jwks.json/",
        "/v1/stream/svc-a/__ds/jwks%2Ejson",
        "/v1/stream/svc-a/__ds/jwksXjson",
        "/v1/stream/svc-a/__ds/jwks.json/x",
        "/v1/stream/svc-a/__ds",
        "/v1/stream/svc-a/ack",
        "/v1/yjs/svc-a/__ds/jwks.json",
        "/v1/yjs/svc-a/__ds/subscriptions/s/ack",
        "/v1/shape",
        "/v1/shape/__ds/jwks.json",
    ],
)
def test_nothing_else_is_open(path: str) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "TRACE"):
        assert not is_open(method, resolve(path.encode())), method


@pytest.mark.parametrize(("method", "path"), OPEN)
def test_other_methods_are_not_open(method: str, path: str) -> None:
    fit = {"POST"} if method == "POST" else {"GET", "HEAD"}
    for other in {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "TRACE", "post"} - fit:
        assert not is_open(other, resolve(path.encode())), other


@settings(deadline=None)
@given(st.sampled_from([path for _, path in OPEN]), st.data())
def test_a_changed_path_is_open_only_if_it_is_of_the_form(path: str, data: st.DataObject) -> None:
    """Any bytes put anywhere: what is open names a service, `__ds` right behind it, and one of the four ends."""
    at = data.draw(st.integers(0, len(path)))
    extra = data.draw(st.sampled_from(["/", "//", "/x", "/..", "%2F", "%2f..", "\0", "?", "\r\n", "__ds/", "a"]))
    target = resolve((path[:at] + extra + path[at:]).encode())
    if any(is_open(method, target) for method in ("GET", "POST")):
        parts = target.path.split(b"/")
        assert parts[1:3] == [b"v1", b"stream"]
        assert parts[3].decode("ascii", "replace") == target.service_id
        assert parts[4] == b"__ds"
        assert (len(parts) == 6 and parts[5] == b"jwks.json") or (
            len(parts) == 8 and parts[5] == b"subscriptions" and parts[7] in (b"callback", b"ack", b"release")
        )


@settings(deadline=None)  # other processes share the machine
@given(st.binary(max_size=60))
def test_any_path_resolves_to_something(path: bytes) -> None:
    target = resolve(path)
    assert target.family is not Family.STREAM or target.service_id


@settings(deadline=None)  # other processes share the machine
@given(st.text(alphabet="abcz0189-", min_size=1, max_size=42), st.binary(max_size=40))
def test_what_follows_the_id_is_kept(service_id: str, rest: bytes) -> None:
    rest = rest.replace(b"?", b"")
    target = resolve(b"/v1/streams/" + service_id.encode() + b"/" + rest)
    assert target == (Family.STREAM, b"/v1/stream/" + service_id.encode() + b"/" + rest, service_id)


# -- credentials --

names = st.sampled_from(
    ["secret", "source_secret", "token", "api_secret", "source_id", "table", "where", "s", "Secret"]
)
values = st.text(max_size=12)


def spell(data: st.DataObject, text: str) -> str:
    """Some percent-encoding of `text`."""
    return "".join(
        f"%{b:02x}" if data.draw(st.booleans()) else quote_plus(bytes([b])) for b in text.encode("utf-8", "replace")
    )


@settings(deadline=None)  # other processes share the machine
@given(st.lists(st.tuples(names, values), max_size=8), st.data())
def test_secrets_leave_the_query_and_nothing_else_changes(pairs: list[tuple[str, str]], data: st.DataObject) -> None:
    spelled = [(name, f"{spell(data, name)}={spell(data, value)}") for name, value in pairs]
    query = "&".join(pair for _, pair in spelled).encode()
    kept = credentials.read(query, None).query
    assert kept == "&".join(pair for name, pair in spelled if name not in credentials.STRIPPED_NAMES).encode()


@settings(deadline=None)  # other processes share the machine
@given(st.lists(st.tuples(names, values), max_size=8))
def test_the_first_named_secret_counts(pairs: list[tuple[str, str]]) -> None:
    query = "&".join(f"{quote(n)}={quote_plus(v)}" for n, v in pairs).encode()
    given_ = {}
    for name, value in pairs:
        if value:
            given_.setdefault(name, unquote_plus(quote_plus(value)))
    expected = next((given_[n] for n in ("secret", "source_secret", "token") if n in given_), None)
    presented = credentials.read(query, None)
    assert presented.secret == (None if expected is None else expected.encode())
    assert presented.source_id == given_.get("source_id", "")


@pytest.mark.parametrize(
    ("header", "secret"),
    [
        (b"Bearer abc", b"abc"),
        (b"bearer  abc ", b"abc"),
        (b"Basic abc", None),
        (b"Bearer ", None),
        (b"Bearer", None),
        (b"", None),
        (None, None),
    ],
)
def test_bearer(header: bytes | None, secret: bytes | None) -> None:
    assert credentials.read(b"", header).secret == secret


def test_the_query_wins_over_a_bearer_of_somebody_else() -> None:
    assert credentials.read(b"secret=mine", b"Bearer of-the-proxys-user").secret == b"mine"
    assert credentials.read(b"secret=", b"Bearer real").secret == b"real"


def test_hashes_expire_and_rotate() -> None:
    old, new = SecretHash(HASH, 100.0), SecretHash(hashlib.sha256(b"new").digest())
    assert credentials.accepts([old, new], b"good", 99.9)
    assert not credentials.accepts([old, new], b"good", 100.0)
    assert credentials.accepts([old, new], b"new", 1e12)
    assert not credentials.accepts([new], b"good", 0)
    assert not credentials.accepts([], b"good", 0)


@settings(deadline=None)  # other processes share the machine
@given(st.binary(max_size=64), st.integers(0, SLOTS))
def test_nothing_but_a_listed_secret_is_accepted(secret: bytes, count: int) -> None:
    hashes = [SecretHash(hashlib.sha256(b"other %d" % i).digest()) for i in range(count)]
    assert not credentials.accepts(hashes, secret, 0)


# -- routes --


def service(
    name: str = "s", *, sid: str = "svc-a", uid: str = "u1", created: str = "2026-01-01T00:00:00Z", **status: Any
) -> dict[str, Any]:
    metadata = {"name": name, "namespace": status.pop("namespace", "ns"), "uid": uid, "creationTimestamp": created}
    if status.pop("deleting", False):
        metadata["deletionTimestamp"] = created
    hashes = [{"sha256": HASH.hex()}]
    return {"metadata": metadata, "status": {"serviceId": sid, "state": "active", "secretHashes": hashes, **status}}


def pod(
    name: str = "p",
    *,
    sid: str = "svc-a",
    namespace: str = "ns",
    ready: bool = True,
    owner: str | None = "u1",
    created: str = "2026-01-01T00:00:00Z",
    ip: str = "127.9.9.9",
    port_name: str = "http",
    deleting: bool = False,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": namespace, "creationTimestamp": created, "uid": name}
    metadata["labels"] = {labels.SERVICE_ID: sid} | ({labels.OWNER_UID: owner} if owner else {})
    if deleting:
        metadata["deletionTimestamp"] = created
    ports = [{"name": "other", "containerPort": 1}, {"name": port_name, "containerPort": 3000}]
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {
        "metadata": metadata,
        "spec": {"containers": [{"ports": ports}]},
        "status": {"podIP": ip, "conditions": conditions},
    }


def table() -> RouteTable:
    return RouteTable(lambda service_id: b"key of " + service_id.encode())


def address(made: RouteTable, sid: str = "svc-a") -> tuple[str, int] | None:
    route = made.find(sid)
    assert route is not None
    return route.address


def test_a_route_is_a_service_and_its_ready_pod() -> None:
    made = table()
    made.apply_pod(pod())
    assert made.find("svc-a") is None
    made.apply_service(kinds.SYNC_SOURCE, service())
    route = made.find("svc-a")
    assert route is not None
    assert (route.family, route.address, route.authorization) == (Family.SHAPE, ("127.9.9.9", 3000), b"key of svc-a")
    made.delete_pod(("ns", "p"))
    assert address(made) is None
    made.delete_service(kinds.SYNC_SOURCE, ("ns", "s"))
    assert (made.find("svc-a"), len(made), made.pods) == (None, 0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"ready": False},
        {"ip": ""},
        {"port_name": "x"},
        {"deleting": True},
        {"namespace": "other"},
        {"owner": "u2"},
        {"sid": "svc-b"},
    ],
)
def test_pods_that_do_not_serve(change: dict[str, Any]) -> None:
    made = table()
    made.apply_service(kinds.SYNC_SOURCE, service())
    made.apply_pod(pod(**change))
    assert address(made) is None
    made.apply_pod(pod())
    assert address(made) == ("127.9.9.9", 3000)


def test_the_newest_ready_pod_serves() -> None:
    made = table()
    made.apply_service(kinds.STREAMS_SERVICE, service())
    made.apply_pod(pod("old", ip="127.0.0.1"))
    made.apply_pod(pod("new", ip="127.0.0.2", created="2026-01-02T00:00:00Z"))
    assert address(made) == ("127.0.0.2", 3000)
    made.apply_pod(pod("new", ip="127.0.0.2", ready=False, created="2026-01-02T00:00:00Z"))
    assert address(made) == ("127.0.0.1", 3000)


def test_the_oldest_claim_holds_an_id() -> None:
    made = table()
    made.apply_service(kinds.SYNC_SOURCE, service("young", uid="a", created="2026-02-01T00:00:00Z"))
    made.apply_service(kinds.STREAMS_SERVICE, service("old", uid="b"))
    made.apply_service(kinds.SYNC_SOURCE, service("twin", uid="c"))

    def holder() -> str:
        route = made.find("svc-a")
        return route.service.name if route else ""

    assert holder() == "old"
    made.delete_service(kinds.STREAMS_SERVICE, ("ns", "old"))
    assert holder() == "twin"
    made.apply_service(kinds.SYNC_SOURCE, service("twin", uid="c", sid="svc-b"))
    assert holder() == "young"
    assert len(made) == 2


@pytest.mark.parametrize(
    ("change", "closed"),
    [
        ({}, ""),
        ({"state": "degraded"}, ""),
        ({"state": "suspended"}, "suspended"),
        ({"state": "deleting"}, "deleting"),
        ({"deleting": True}, "deleting"),
    ],
)
def test_closed_services(change: dict[str, Any], closed: str) -> None:
    assert read_service(kinds.SYNC_SOURCE, service(**change)).closed == closed


def test_hashes_that_cannot_be_read_grant_nothing() -> None:
    bad = [
        {"sha256": "zz"},
        {"sha256": "ab"},
        {},
        {"sha256": HASH.hex(), "expiresAt": "soon"},
        {"sha256": HASH.hex(), "expiresAt": "2026-01-01T00:00:00"},
        {"sha256": 5},
    ]
    assert read_service(kinds.SYNC_SOURCE, service(secretHashes=bad)).hashes == ()
    good = [{"sha256": HASH.hex(), "expiresAt": "1970-01-01T00:01:40Z"}]
    assert read_service(kinds.SYNC_SOURCE, service(secretHashes=good)).hashes == (SecretHash(HASH, 100.0),)


@pytest.mark.parametrize(
    "raw", [{}, {"metadata": None}, {"metadata": {"name": 5}}, {"metadata": {"name": "x"}, "status": 5}]
)
def test_broken_objects_are_left_out(raw: dict[str, Any]) -> None:
    made = table()
    assert made.apply_service(kinds.SYNC_SOURCE, raw) is not None
    assert len(made) == 0
    assert made.apply_pod({"metadata": {"name": "x", "labels": 5}}) is not None


def test_foreign_pods_are_ignored() -> None:
    assert read_pod({"metadata": {"name": "x", "labels": {"a": "b"}}}) is None


# -- headers --


def to_pod(received: list[tuple[bytes, bytes]], **options: Any) -> list[tuple[bytes, bytes]]:
    connection = b", ".join(v for n, v in received if n == b"connection") or None
    return headers.to_pod(
        received, connection=connection, host=b"h", authorization=b"Bearer pod", peer="10.0.0.9", **options
    )


def test_what_never_goes_to_a_pod() -> None:
    received = [
        (name, b"secret")
        for name in (
            b"authorization",
            b"cookie",
            b"referer",
            b"transfer-encoding",
            b"content-length",
            b"expect",
            b"te",
            b"upgrade",
            b"keep-alive",
            b"proxy-authorization",
            b"forwarded",
            b"x-forwarded-for",
            b"x-real-ip",
            b"trailer",
            b"host",
            b"x-listed",
        )
    ] + [(b"connection", b"X-Listed, close"), (b"x-kept", b"1"), (b"x-kept", b"2")]
    assert to_pod(received) == [
        (b"x-kept", b"1"),
        (b"x-kept", b"2"),
        (b"host", b"h"),
        (b"authorization", b"Bearer pod"),
        (b"x-forwarded-for", b"10.0.0.9"),
        (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-host", b"h"),
    ]


def test_a_forks_source_is_rewritten_like_the_path() -> None:
    def sent(value: bytes) -> bytes:
        received = [(b"stream-forked-from", value)]
        return dict(headers.to_pod(received, connection=None, host=b"h", authorization=b"a", peer="::1"))[
            b"stream-forked-from"
        ]

    assert sent(b"/v1/streams/svc-a/room") == sent(b"/v1/stream/svc-a/room") == b"/v1/stream/svc-a/room"
    assert sent(b"/elsewhere/v1/streams/x") == b"/elsewhere/v1/streams/x"


def test_a_trusted_proxy_speaks_for_its_client() -> None:
    received = [(b"x-forwarded-for", b"1.2.3.4"), (b"x-forwarded-proto", b"https"), (b"x-forwarded-host", b"public")]
    sent = dict(to_pod(received, trusts=lambda peer: peer == "10.0.0.9"))
    assert sent[b"x-forwarded-for"] == b"1.2.3.4, 10.0.0.9"
    assert (sent[b"x-forwarded-proto"], sent[b"x-forwarded-host"]) == (b"https", b"public")
    assert dict(to_pod(received, trusts=lambda peer: False))[b"x-forwarded-for"] == b"10.0.0.9"


def test_a_connection_header_cannot_remove_what_the_edge_adds() -> None:
    sent = dict(to_pod([(b"connection", b"authorization, host, x-forwarded-for")]))
    assert sent[b"authorization"] == b"Bearer pod"
    assert sent[b"host"] == b"h"


def test_what_comes_back() -> None:
    received = [
        (b"etag", b"1"),
        (b"date", b"d"),
        (b"connection", b"close"),
        (b"connection", b"x-hop"),
        (b"x-hop", b"1"),
        (b"content-length", b"9"),
        (b"transfer-encoding", b"chunked"),
        (b"access-control-allow-origin", b"https://a"),
    ]
    assert headers.to_client(received, Family.STREAM, b"https://b") == (
        b"etag: 1\r\naccess-control-allow-origin: https://a\r\n"
    )
    assert b"access-control-allow-origin: https://b\r\n" in headers.to_client([], Family.STREAM, b"https://b")


def test_an_origin_cannot_split_the_answer() -> None:
    for origin in (b"https://a\r\nset-cookie: x", "https://ä".encode(), b"a\0b"):
        assert b"access-control-allow-origin: *\r\n" in headers.cors(Family.SHAPE, origin)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_lost_request_with_an_effect_is_called_unknown(method: str) -> None:
    from switchgear_wire.upstream import UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable

    codes = [
        answers.for_failure(error, method).code
        for error in (
            UpstreamUnavailable("x", sent=False),
            UpstreamUnavailable("x", sent=True),
            UpstreamTimeout("x", sent=True),
            UpstreamProtocolError("x"),
        )
    ]
    unknown = ["OUTCOME_UNKNOWN"] * 3
    known = ["SERVICE_UNAVAILABLE", "UPSTREAM_TIMEOUT", "BAD_UPSTREAM_ANSWER"]
    assert codes == ["SERVICE_UNAVAILABLE", *(unknown if method == "POST" else known)]


@pytest.mark.parametrize(
    ("method", "query", "live"),
    [
        ("GET", b"live=true&offset=0_0", True),
        ("GET", b"offset=1&l%69ve=sse", True),
        ("GET", b"live=long-poll", True),
        ("GET", b"live_sse=true", True),
        ("GET", b"live=false", False),
        ("GET", b"live=", False),
        ("GET", b"table=lives&where=%20live%3D1", False),
        ("POST", b"live=true", False),
        ("GET", b"", False),
    ],
)
def test_live_reads(method: str, query: bytes, live: bool) -> None:
    assert is_live(method, query) is live


# -- settings --


def test_settings_from_flags_and_environment(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 64 + "\n")
    environ = {
        "SWITCHGEAR_PORT": "1",
        "SWITCHGEAR_REGION_KEY_FILE": str(key),
        "SWITCHGEAR_TRUSTED_PROXIES": "10.0.0.0/8, ::1",
    }
    made = parse(["--port", "5000"], environ)
    assert (made.host, made.port, made.internal_port, made.region_key) == ("127.0.0.1", 5000, 4401, b"k" * 64)
    assert made.trusts("10.2.3.4")
    assert made.trusts("::1")
    assert not made.trusts("11.0.0.1")
    assert not made.trusts("")
    assert "kkkk" not in repr(made)


def test_every_wrong_setting_is_named(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_text("abc")
    with pytest.raises(SettingsError) as caught:
        parse(
            ["--port", "x", "--internal-port", "70000", "--region-key-file", str(short), "--trusted-proxies", "here"],
            {"SWITCHGEAR_LOG_LEVEL": "loud"},
        )
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    for name in ("--port", "--internal-port", "--region-key-file", "--trusted-proxies", "--log-level"):
        assert name in text
    assert "abc" not in text
    with pytest.raises(SettingsError, match="region-key-file"):
        parse([], {})
    with pytest.raises(SettingsError, match="must differ"):
        parse(["--port", "1", "--internal-port", "1"], {})
