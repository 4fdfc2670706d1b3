"""The pure rules: JSON mode, offsets, cursors, producers, lifetimes, media types, the log's and catalogue's forms."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchgear_streams import catalog, records
from switchgear_streams.request import append, create, read, stream_key
from switchgear_streams.rules import cursors, forks, lifetime, media, messages, offsets, producers
from switchgear_streams.rules.producers import Batch, Verdict
from switchgear_streams.runs import Run
from switchgear_streams.stream import Fork, Stream
from switchgear_wire.errors import HttpError

PREFIX = b"/v1/stream/"
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
layouts = st.sampled_from(
    [{}, {"indent": 1}, {"indent": "\t"}, {"separators": (" , ", " : ")}, {"ensure_ascii": False}]
)


def dump(value: Any, layout: dict[str, Any]) -> bytes:
    return json.dumps(value, **layout).encode("utf-8", "surrogatepass")


# -- JSON mode --


@given(values, layouts)
def test_json_survives_storing(value: Any, layout: dict[str, Any]) -> None:
    stored, count = messages.to_stored(dump(value, layout))
    expected = value if isinstance(value, list) else [value]
    assert json.loads(messages.to_array(stored) if stored else b"[]") == expected
    assert messages.count(stored) == count == len(expected)
    assert b"\n" not in messages.to_array(stored)


@given(st.lists(values, min_size=1, max_size=5), layouts)
def test_each_message_is_found_by_its_end(batch: list[Any], layout: dict[str, Any]) -> None:
    stored, _ = messages.to_stored(dump(batch, layout))
    begin = 0
    for number, value in enumerate(batch, 1):
        end = messages.nth_end(stored, number)
        assert end is not None
        assert json.loads(stored[begin:end][:-2]) == value
        begin = end
    assert messages.nth_end(stored, len(batch) + 1) is None


@pytest.mark.parametrize(
    ("body", "stored"),
    [
        (b"1.0", b"1.0,\n"),
        (b"1e400", b"1e400,\n"),
        (b"-0", b"-0,\n"),
        (b"[1e400, 2]", b"1e400,\n2,\n"),
        (b"123456789012345678901234567890", b"123456789012345678901234567890,\n"),
        (b'{"a":1,"a":2}', b'{"a":1,"a":2},\n'),
        (b'"\\ud800"', b'"\\ud800",\n'),
        (b' { "a b" : [ 1 , 2 ] }\r\n', b'{"a b":[1,2]},\n'),
        (b'["a,b", "c\\"], d", [1,2]]', b'"a,b",\n"c\\"], d",\n[1,2],\n'),
        (b"[[1,2],[3]]", b"[1,2],\n[3],\n"),
        (b"[[[1]]]", b"[[1]],\n"),
        (b"[ ]", b""),
        (b"null", b"null,\n"),
        (b'"\xc3\xa9\\n"', b'"\xc3\xa9\\n",\n'),
    ],
)
def test_json_bytes_are_kept(body: bytes, stored: bytes) -> None:
    assert messages.to_stored(body)[0] == stored


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"NaN",
        b"[1,]",
        b"Infinity",
        b"[-Infinity]",
        b"01",
        b"+1",
        b"'a'",
        b'"\t"',
        b'"\n"',
        b'"\xff"',
        b"\xef\xbb\xbf1",
        b"1 2",
        b"{} {}",
        b'{"a":1}{"b":2}',
        b"[" * 100_000,
        b"[" * 5000 + b"]" * 5000,
        b'"\xed\xa0\x80"',
        b"{1:2}",
        b"// x\n1",
    ],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(HttpError) as caught:
        messages.to_stored(body)
    assert (caught.value.status, caught.value.code) == (400, "INVALID_JSON")


@given(st.binary(max_size=30))
def test_json_is_refused_or_kept_whatever_comes(body: bytes) -> None:
    try:
        stored, _ = messages.to_stored(body)
    except HttpError:
        return
    json.loads(b"[" + stored[:-2] + b"]")


@given(st.lists(values, max_size=30), layouts, st.integers(1, 200), st.data())
def test_an_array_is_the_same_in_pieces(batch: list[Any], layout: dict[str, Any], piece: int, data: Any) -> None:
    """Whatever it is cut into; and what is no array is none in pieces either."""
    body = dump(batch, layout)
    if data.draw(st.booleans()):
        at, put = data.draw(st.integers(0, len(body))), data.draw(st.sampled_from(list('[]{},:" \\1e')))
        body = body[:at] + put.encode() + body[at + data.draw(st.integers(0, 1)) :]
    whole = messages.prepare(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "LONG", piece)
        cut = messages.prepare(body)
    assert isinstance(cut, HttpError) == isinstance(whole, HttpError)
    assert isinstance(cut, HttpError) or cut == whole


@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.integers(1, 40))
def test_messages_are_counted_in_pieces(lengths: list[int], piece: int) -> None:
    stored, ends = b"", [0]
    for length in lengths:
        stored += b"1" * length + b",\n"
        ends.append(len(stored))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "LONG", piece)
        found = [messages.nth_end(stored, number) for number in range(len(lengths) + 2)]
    assert found == [*ends, None]


def test_elements_of_any_depth_keep_their_bytes() -> None:
    deep = [b"[" * depth + b'{"a,":"]\\\\"}' + b"]" * depth for depth in range(0, 300, 7)]
    stored, count = messages.to_stored(b"[" + b" , ".join(deep) + b"]")
    assert (stored, count) == (b"".join(one + b",\n" for one in deep), len(deep))


# -- offsets and cursors --


@given(st.integers(1, 10**16 - 1), st.integers(0, 10**16 - 1), st.integers(0, 10**16 - 1))
def test_offsets_sort_as_their_positions(space: int, one: int, other: int) -> None:
    a, b = offsets.mint(space, one), offsets.mint(space, other)
    assert (a < b) == (one < other)
    assert offsets.parse(a.decode()) == offsets.Offset(space, one)
    assert not set(a) & set(b",&=?/")


@pytest.mark.parametrize(
    "token", ["", "0", "1_2", "-1", "now", "٣" * 16 + "_" + "0" * 16, f"{0:016d}_{1:016d}", "a" * 33]
)
def test_offsets_that_were_never_minted(token: str) -> None:
    with pytest.raises(HttpError):
        offsets.parse(token)


def test_offsets_resolve() -> None:
    assert offsets.resolve(offsets.Offset(5, 9), 5, 9) == 9
    for offset, status in ((offsets.Offset(4, 1), 410), (offsets.Offset(5, 10), 400)):
        with pytest.raises(HttpError) as caught:
            offsets.resolve(offset, 5, 9)
        assert caught.value.status == status


@given(st.none() | st.integers(0, 10**14), st.integers(0, 10**9), st.integers(1, 3600))
def test_cursors_move_on(client: int | None, current: int, jitter: int) -> None:
    answer = cursors.respond(client, current, jitter)
    assert answer >= current
    assert client is None or answer > client


def test_cursor_interval() -> None:
    moment = datetime(2024, 10, 9, 0, 1, 1, tzinfo=UTC).timestamp()
    assert cursors.interval(moment) == 3
    assert cursors.parse("12") == 12
    assert [cursors.parse(bad) for bad in (None, "", "x", "-1", "²", "9" * 40)] == [None] * 6


# -- producers --


@pytest.mark.parametrize(
    ("state", "epoch", "seq", "verdict"),
    [
        (None, 0, 0, Verdict.ACCEPT),
        (None, 7, 0, Verdict.ACCEPT),
        (None, 0, 1, Verdict.GAP),
        ((1, 4), 0, 5, Verdict.FENCED),
        ((1, 4), 2, 0, Verdict.ACCEPT),
        ((1, 4), 2, 1, Verdict.NEW_EPOCH_NOT_ZERO),
        ((1, 4), 1, 4, Verdict.DUPLICATE),
        ((1, 4), 1, 0, Verdict.DUPLICATE),
        ((1, 4), 1, 5, Verdict.ACCEPT),
        ((1, 4), 1, 6, Verdict.GAP),
    ],
)
def test_producers(state: tuple[int, int] | None, epoch: int, seq: int, verdict: Verdict) -> None:
    assert producers.judge(state, Batch("p", epoch, seq)) is verdict


# -- lifetimes, media types, forks --


def test_ttl() -> None:
    assert lifetime.parse_ttl(b"0") == 0
    assert lifetime.parse_ttl(b"3600") == 3600
    for bad in (b"", b"+1", b"01", b"1.0", b"1e3", b"-1", b"abc", b" 1", b"9" * 30, "١".encode()):
        with pytest.raises(HttpError):
            lifetime.parse_ttl(bad)


def test_expires_at() -> None:
    moment = 1_893_499_200_000
    for text in (b"2030-01-01T12:00:00Z", b"2030-01-01T14:00:00+02:00", b"2030-01-01t12:00:00.000z"):
        assert lifetime.parse_expires_at(text) == moment
    assert lifetime.parse_expires_at(b"2030-01-01T12:00:00.123456789Z") == moment + 123
    for bad in (b"", b"tomorrow", b"2030-01-01", b"2030-01-01T12:00:00", b"2030-13-01T12:00:00Z", b"1893499200"):
        with pytest.raises(HttpError):
            lifetime.parse_expires_at(bad)


def test_media_types() -> None:
    assert media.essence(b"Application/JSON; charset=utf-8") == b"application/json"
    assert media.normal(b"text/plain;charset=x") == b"text/plain;charset=x"
    assert [media.normal(bad) for bad in (None, b"", b"text", b"a/b/c", b"a/b\r\nx: y", b"a/" + b"b" * 600)] == [
        None
    ] * 6
    assert [media.is_text(m) for m in (b"text/csv", b"application/json", b"application/ndjson", b"a/b+json")] == [
        True,
        True,
        False,
        False,
    ]


def test_fork_sub_offset() -> None:
    assert forks.sub_position(b"hello", 5, False) == 5
    assert forks.sub_position(b"1,\n22,\n", 2, True) == 7
    for following, count, is_json in ((b"hello", 6, False), (b"1,\n", 2, True), (b"", 1, False)):
        with pytest.raises(HttpError):
            forks.sub_position(following, count, is_json)


# -- requests --


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (b"/v1/stream/a/b", b"a/b"),
        (b"/v1/stream/a%2Fb", b"a/b"),
        (b"/v1/stream/%C3%A9", "é".encode()),
        (b"/v1/stream/a%252F", b"a%2F"),
        (b"/v1/stream/", None),
        (b"/v1/other", None),
    ],
)
def test_stream_keys(path: bytes, key: bytes | None) -> None:
    assert stream_key(path, PREFIX) == key


@pytest.mark.parametrize("name", [b"..", b"a/../b", b"%2e%2e/x", b"a/.", b"a%00b", b"%ff", b"x" * 1025])
def test_stream_keys_that_are_refused(name: bytes) -> None:
    with pytest.raises(HttpError) as caught:
        stream_key(PREFIX + name, PREFIX)
    assert caught.value.code == "INVALID_PATH"


@given(st.dictionaries(st.sampled_from([b"content-type", b"stream-closed", b"stream-seq", b"producer-id",
       b"producer-epoch", b"producer-seq", b"stream-ttl", b"stream-expires-at", b"stream-forked-from",
       b"stream-fork-offset", b"stream-fork-sub-offset"]), st.binary(max_size=20)), st.binary(max_size=40))  # fmt: skip
def test_any_head_gives_a_command_or_400(headers: dict[bytes, bytes], query: bytes) -> None:
    for parse in (lambda: append(headers), lambda: create(headers, PREFIX), lambda: read(query)):
        try:
            parse()
        except HttpError as error:
            assert error.status == 400


# -- stored forms --

producer_states = st.dictionaries(st.text(), st.tuples(st.integers(0, 9), st.integers(0, 9)).map(list))
extras = st.fixed_dictionaries({}, optional={"q": st.text(), "c": st.just(True), "p": producer_states})
appends = st.tuples(st.binary(min_size=1, max_size=40), extras, st.lists(st.binary(max_size=8), max_size=4))
LOG_ID = bytes(range(16))


@given(st.lists(appends, max_size=5), st.randoms(use_true_random=False))
def test_blocks_come_back_and_damage_is_noticed(batch: list[Any], chance: random.Random) -> None:
    pieces: list[bytes] = []
    for key, extra, payloads in batch:
        joined = b"".join(payloads)
        pieces += records.encode(records.APPEND, key, 3, 7, 11, extra, [len(p) for p in payloads], joined)
    buffers, total = records.encode_block(LOG_ID, 5, 4, pieces)
    raw = b"".join(buffers)
    assert len(raw) == total
    block = records.read_block(raw, 0, LOG_ID)
    assert block is not None
    assert (block.number, block.durable, block.end) == (5, 4, total)
    found = list(records.read_records(memoryview(raw)[block.begin : block.end], block))
    assert [(r.key, r.extra, b"".join(p)) for r, (_, _, p) in zip(found, batch, strict=True)] == [
        (key, extra, b"".join(payloads)) for key, extra, payloads in batch
    ]
    assert [list(r.lengths) for r in found if isinstance(r, records.Record)] == [
        [len(p) for p in payloads] for _, _, payloads in batch
    ]
    at = chance.randrange(total)
    hurt = bytearray(raw)
    hurt[at] ^= 1 << chance.randrange(8)
    block = records.read_block(bytes(hurt), 0, LOG_ID)
    if block is not None:
        seen = list(records.read_records(memoryview(bytes(hurt))[block.begin : block.end], block))
        assert any(isinstance(one, records.Damaged) for one in seen)
    assert records.read_block(raw, 0, bytes(16)) is None


@given(st.binary(min_size=1, max_size=300), st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.binary(min_size=1))
def test_the_short_way_writes_the_same_record(key: bytes, generation: int, start: int, payload: bytes) -> None:
    long = records.encode(records.APPEND, key, generation, start, 11, None, [len(payload)], payload)
    assert records.encode_append(key, generation, start, 11, payload) == long


def test_large_payloads_are_not_copied() -> None:
    payload = bytes(records.COPY_BELOW)
    pieces = records.encode(records.APPEND, b"k", 1, 0, 0, None, [len(payload)], payload)
    assert pieces[-1] is payload
    buffers, total = records.encode_block(LOG_ID, 1, 0, pieces * 4)
    assert any(buffer is payload for buffer in buffers)
    assert sum(map(len, buffers)) == total


def test_a_stream_survives_the_catalogue() -> None:
    stream = Stream("ä/b".encode(), 9, 4, 100, b"text/plain; charset=x", 5)
    stream.end = 250
    stream.touched = 17
    stream.ttl = 60
    stream.fork = Fork(b"src", 4, 90, 10)
    stream.refs, stream.gone, stream.closed, stream.closed_by = 2, True, True, ("p", 1, 2)
    stream.seq, stream.producers, stream.damage = "s", {"p\u00ff": (1, 2)}, (110, 120)
    stream.runs = [Run(1, 2, 100, 50, 7, 0), Run(2, 9, 150, 100, 8, 3)]
    body = catalog.pack_body(stream.generation, stream.deadline(), stream.key, stream.runs, stream.meta())
    assert catalog.key_of(body) == stream.key
    assert catalog.deadline_of(body) == 17 + 60_000
    back = catalog.unpack_body(body)
    skipped = {"tail", "marks", "entry", "live", "leaving", "dirty", "durable_born", "frozen", "visible", "tail_start"}
    for name in set(Stream.__slots__) - skipped - {"visible_closed"}:
        assert getattr(back, name) == getattr(stream, name), name
    assert back.visible == back.tail_start == 250
