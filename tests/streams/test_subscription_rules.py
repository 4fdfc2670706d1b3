"""Subscriptions' pure rules: patterns, where webhooks may go, tokens, the life of a wake."""

from __future__ import annotations

import ipaddress
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchgear_streams.subscriptions import config, keys, state, targets, tokens
from switchgear_streams.subscriptions.errors import Refused
from switchgear_streams.subscriptions.globs import Glob
from switchgear_streams.subscriptions.index import Index


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("events/*", ["events/a", "events/é"], ["events", "events/", "events/a/b", "xevents/a", "Events/a"]),
        ("events/**", ["events", "events/a", "events/a/b/c"], ["eventsx", "event"]),
        ("**", ["a", "a/b"], []),
        ("**/log", ["log", "a/log", "a/b/log"], ["logs", "a/log/b"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z"], ["a", "a/zz", "z"]),
        ("a/*/c", ["a/b/c"], ["a/c", "a/b/b/c"]),
        ("user-*/x*y*z", ["user-1/xyz", "user-/x1y2z"], ["user-1/xzy", "use/xyz"]),
        ("ab*ba", ["abba", "abxba"], ["aba"]),
        ("plain", ["plain"], ["plain/a", "plainer"]),
        ("/lead/*", ["lead/a"], ["a"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    glob = Glob(pattern)
    assert [path for path in yes if not glob.matches(path.encode())] == []
    assert [path for path in no if glob.matches(path.encode())] == []


@given(st.lists(st.sampled_from(["a", "b", "*", "**", "a*"]), min_size=1, max_size=5), st.lists(st.sampled_from("abc")))
def test_patterns_against_a_regular_expression(pattern: list[str], path: list[str]) -> None:
    # Every segment with its slash, so that "**" is plainly any number of them.
    spelled = {"**": "(?:[^/]*/)*", "*": "[^/]+/"}
    expression = "".join(spelled.get(one, re.escape(one).replace(r"\*", "[^/]*") + "/") for one in pattern)
    joined = "/".join(path)
    expected = bool(path) and re.fullmatch(expression, joined + "/") is not None
    if path:
        assert Glob("/".join(pattern)).matches(joined.encode()) is expected


SEGMENT = st.sampled_from(["", "a", "b", "ab"])


@given(
    st.lists(st.lists(st.sampled_from(["", "a", "b", "*", "**", "a*"]), min_size=1, max_size=4), max_size=8),
    st.lists(SEGMENT, min_size=1, max_size=4),
    st.lists(st.lists(SEGMENT, min_size=1, max_size=4), max_size=4),
)
def test_the_index_finds_what_a_look_at_all_finds(
    patterns: list[list[str]], path: list[str], named: list[list[str]]
) -> None:
    key = "/".join(path).encode()
    index: Index[int] = Index()
    globs = {number: Glob("/".join(one)) for number, one in enumerate(patterns) if "/".join(one) not in ("", "/")}
    for number, glob in globs.items():
        index.add_pattern(glob.prefix, number)
    for number, one in enumerate(named):
        index.add_name("/".join(one).encode(), 100 + number)
    wanted = {number for number, glob in globs.items() if glob.matches(key)}
    called = {100 + number for number, one in enumerate(named) if "/".join(one).encode() == key}
    found = index.candidates(key)
    assert wanted <= found.keys()
    assert {one for one in found if one >= 100} == called
    for number, glob in globs.items():
        index.drop_pattern(glob.prefix, number)
    assert index.candidates(key).keys() == called


def test_patterns_take_no_exponential_time() -> None:
    began = time.monotonic()
    assert not Glob("/".join(["**", "a"] * 30)).matches(("a/" * 400 + "b").encode())
    assert not Glob("*a" * 200 + "b").matches(b"a" * 1000)
    assert time.monotonic() - began < 60
    for bad in ("", "/", "a" * 2000, "a/" * 80):
        with pytest.raises(ValueError, match="is"):
            Glob(bad)


REJECTED = [
    "http://example.com/", "ftp://example.com/", "https://", "https:///x", "example.com/hook", "",
    "https://user@example.com/", "https://user:pw@example.com/", "https://example.com/#f", "https://example.com:0/",
    "https://example.com:99999/", "https://exa mple.com/", "https://example.com/\r\nx: y", "https://exämple.com/",
    "https://10.0.0.1/", "https://172.16.3.4/", "https://192.168.1.1/", "https://169.254.169.254/latest/meta-data",
    "https://100.64.0.1/", "https://0.0.0.0/", "https://255.255.255.255/", "https://224.0.0.1/", "https://198.18.0.1/",
    "https://[::]/", "https://[fe80::1]/", "https://[fe80::1%25eth0]/", "https://[fc00::1]/", "https://[ff02::1]/",
    "https://[::ffff:10.0.0.1]/", "https://[::ffff:169.254.169.254]/", "https://[2002:a00:1::]/",
    "https://[64:ff9b::a00:1]/", "https://[::10.0.0.1]/", "https://[64:ff9b::7f00:1]/", "https://[::ffff:127.0.0.1]/",
    "https://2130706433/", "https://0x7f000001/", "https://127.1/", "https://0177.0.0.1/", "https://1.2.3.4.5/",
    "https://metadata.google.internal/", "https://api.default.svc/", "https://x.svc.cluster.local/",
    "https://printer.local/", "https://intranet/", "https://a..b/", "https://-a.com/", "https://example.com\\@10.0.0.1/",
]  # fmt: skip
LOOPBACK = [
    "http://127.0.0.1:8080/hook", "http://127.8.9.1/", "http://localhost:1/", "http://[::1]/", "https://localhost/",
    "https://127.0.0.1/",
]  # fmt: skip


@pytest.mark.parametrize("url", [*REJECTED, "https://" + "a" * 3000 + ".com/"])
def test_urls_that_are_refused(url: str) -> None:
    for allow in (False, True):
        with pytest.raises(Refused) as error:
            targets.parse(url, allow)
        assert (error.value.status, error.value.code) == (400, "WEBHOOK_URL_REJECTED")


@pytest.mark.parametrize("url", LOOPBACK)
def test_loopback_needs_the_switch(url: str) -> None:
    with pytest.raises(Refused):
        targets.parse(url, False)
    targets.parse(url, True)


def test_urls_that_are_taken() -> None:
    target = targets.parse("https://Hooks.Example.com:8443/a/b?c=d", False)
    assert target == targets.Target(True, "hooks.example.com", 8443, b"Hooks.Example.com:8443", b"/a/b?c=d")
    assert targets.parse("https://1.1.1.1", False) == targets.Target(True, "1.1.1.1", 443, b"1.1.1.1", b"/")
    assert targets.parse("https://[2606:4700::1111]/", False).host == "2606:4700::1111"


@pytest.mark.parametrize(
    ("address", "expected"),
    [("8.8.8.8", True), ("2606:4700::1111", True), ("::ffff:8.8.8.8", True), ("10.1.2.3", False), ("::1", False),
     ("127.0.0.1", False), ("169.254.169.254", False), ("fd00:ec2::254", False), ("2001:0:0:1::1", False)],
)  # fmt: skip
def test_resolved_addresses(address: str, expected: bool) -> None:
    assert targets.allowed(ipaddress.ip_address(address), False) is expected


def test_tokens() -> None:
    secret, now = b"s" * 32, 1_000_000
    claims = tokens.Claims(tokens.CLAIM, "sub", "inc", 7, now + 1000)
    token = tokens.mint(secret, claims).encode()
    assert tokens.verify(secret, b"Bearer " + token, tokens.CLAIM, now) == claims
    assert tokens.verify(secret, b"bearer " + token, tokens.CLAIM, now) == claims
    with pytest.raises(Refused, match="hour") as expired:
        tokens.verify(secret, b"Bearer " + token, tokens.CLAIM, now + 1000)
    assert (expired.value.status, expired.value.code) == (401, "TOKEN_EXPIRED")
    other = tokens.mint(b"t" * 32, claims).encode()
    flipped = [token[:at] + bytes((token[at] ^ 1,)) + token[at + 1 :] for at in range(len(token) - 1)]
    cut = [token[:at] for at in range(len(token) - 1)]
    for bad in [other, b"", b".", b"\xff.\xff", b"a.b", token + b"x", *flipped, *cut]:
        with pytest.raises(Refused) as error:
            tokens.verify(secret, b"Bearer " + bad, tokens.CLAIM, now)
        assert (error.value.status, error.value.code) == (401, "TOKEN_INVALID")
    for header, kind, key in ((b"Basic " + token, "claim", secret), (b"Bearer " + token, "callback", secret)):
        with pytest.raises(Refused):
            tokens.verify(key, header, kind, now)
    with pytest.raises(Refused):
        tokens.verify(None, b"Bearer " + token, tokens.CLAIM, now)


def test_keys_come_back_as_they_were() -> None:
    ring = keys.generate()
    again = keys.restore(ring.dump())
    assert again.jwks() == ring.jwks()
    assert again.keys[0].sign(5, b"body") == ring.keys[0].sign(5, b"body")
    assert ring.keys[0].seed.hex() not in repr(ring)
    assert ring.token_secret.hex() not in repr(ring)


def made() -> state.Subscription:
    asked = config.Config("webhook", "a/*", ("x/y",), "https://example.com/", None, 1000, None)
    return state.Subscription("id", asked, "http://base", 5, "inc")


def test_a_wake_and_its_fences() -> None:
    one = made()
    one.begin("w1", 0)
    assert one.check("w1", 1, 1).phase == state.WAKING
    one.lease("me", 10)
    assert not one.expired(1009)
    assert one.expired(1010)
    one.clear()
    one.begin("w2", 2000)
    for wake_id, generation, token in (("w1", 1, 1), ("w2", 1, 1), ("w2", 2, 1), ("w2", 1, 2), ("w1", 2, 2)):
        with pytest.raises(Refused) as error:
            one.check(wake_id, generation, token)
        assert (error.value.status, error.value.code) == (409, "FENCED")
    one.check("w2", 2, 2)


def test_pauses_between_attempts() -> None:
    one = made()
    one.begin("w", 0)
    middle, low, high = [], [], []
    for _ in range(9):
        for chance, into in ((0.5, middle), (0.0, low), (0.999999, high)):
            before = one.attempts
            one.fail(0, chance)
            into.append(one.next_at)
            one.attempts = before
        one.attempts += 1
    assert middle == [1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000]
    assert all(0.79 * want <= got <= 0.81 * want for want, got in zip(middle, low, strict=True))
    assert all(1.19 * want <= got <= 1.21 * want for want, got in zip(middle, high, strict=True))
    assert one.status == "failed"
    one.lease("me", 0)
    assert one.status == "active"


def test_what_is_written_comes_back() -> None:
    one = made()
    one.links = {b"x/y": state.Link(0, 0, True), "a/é".encode(): state.Link(3, 44, False)}
    lines = [one.snapshot()]
    one.begin("w1", 77)
    lines.append(one.delta([]))
    one.lease("worker", 100)
    one.links[b"a/new"] = state.Link(9, 1, False)
    del one.links[b"x/y"]
    lines.append(one.delta([b"a/new", b"x/y"]))
    again = state.restore(lines, 1)
    assert again is not None
    assert again.snapshot() == one.snapshot()
    assert (again.config, again.wake, again.links) == (one.config, one.wake, one.links)
    assert state.restore([one.snapshot()], 1).snapshot() == one.snapshot()  # type: ignore[union-attr]
