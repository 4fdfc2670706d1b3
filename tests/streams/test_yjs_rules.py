"""The pure parts of Yjs documents: framing, and snapshots that lose nothing."""

from __future__ import annotations

import random
from typing import Any

import pycrdt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switchgear_streams.yjs import frames
from switchgear_streams.yjs.merge import compact
from tests.streams.test_yjs import framed


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_frames_are_found_again(updates: list[bytes]) -> None:
    body = framed(*updates)
    assert [body[a:b] for a, b in frames.split(body)] == updates


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=5), st.data())
def test_a_cut_body_is_refused(updates: list[bytes], data: st.DataObject) -> None:
    """Cut anywhere but between frames."""
    body = framed(*updates)
    ends = {len(framed(*updates[:n])) for n in range(len(updates) + 1)}
    at = data.draw(st.sampled_from(sorted(set(range(len(body) + 1)) - ends)))
    with pytest.raises(frames.BadFrame):
        frames.check(body[:at], 0)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_frames_or_refused(body: bytes) -> None:
    try:
        found = list(frames.split(body))
    except frames.BadFrame:
        return
    assert framed(*(body[a:b] for a, b in found)) == body or b"\x80" in body or body[-1:] == b"\x00"


def history(chance: random.Random, peers: int, edits: int) -> list[bytes]:
    """Updates of several peers that edit text, a map and a nested list, and now and then learn of each other."""
    docs: list[pycrdt.Doc[Any]] = [pycrdt.Doc() for _ in range(peers)]
    made: list[bytes] = []
    for _ in range(edits):
        doc = chance.choice(docs)
        before = doc.get_state()
        text, table = doc.get("text", type=pycrdt.Text), doc.get("map", type=pycrdt.Map)
        action = chance.random()
        if action < 0.5 or not len(text):
            text.insert(chance.randrange(len(text) + 1), chance.choice(("a", "bcd", "x" * 40)))
        elif action < 0.7:
            start = chance.randrange(len(text))
            del text[start : min(len(text), start + chance.randrange(1, 9))]
        elif action < 0.9:
            table[f"k{chance.randrange(4)}"] = chance.choice((1, "one", 2.5, None, [1, {"a": "b"}]))
        else:
            doc.get("list", type=pycrdt.Array).append(pycrdt.Map({"n": chance.randrange(100)}))
        made.append(doc.get_update(before))
        if chance.random() < 0.3:
            other = chance.choice(docs)
            other.apply_update(doc.get_update(other.get_state()))
    return made


def content(*updates: bytes) -> tuple[str, object, object]:
    """What a document with these updates holds. (Given again and again: the library does not always notice that what an
    update waited for has come.)"""
    doc: pycrdt.Doc[Any] = pycrdt.Doc()
    before = None
    while before != (before := doc.get_state() + doc.get_update()):
        for update in updates:
            doc.apply_update(update)
    return (
        str(doc.get("text", type=pycrdt.Text)),
        doc.get("map", type=pycrdt.Map).to_py(),
        doc.get("list", type=pycrdt.Array).to_py(),
    )


@pytest.mark.parametrize("order", ["as they came", "shuffled"])
def test_snapshots_lose_nothing(order: str) -> None:
    """Snapshots at any places of any history, updates in any order: the end is as without them."""
    waited = snapshots = 0
    for seed in range(80):
        chance = random.Random(seed)
        updates = history(chance, chance.randrange(1, 4), chance.randrange(1, 40))
        whole = content(*updates)
        if order == "shuffled":
            chance.shuffle(updates)
        snapshot, at = b"", 0
        while at < len(updates):
            count = chance.randrange(1, 15)
            snapshot = compact(snapshot, framed(*updates[at : at + count]))
            at += count
            snapshots += 1
            doc: pycrdt.Doc[Any] = pycrdt.Doc()
            doc.apply_update(snapshot)
            waited += len(doc.get_update()) < len(snapshot)
            assert content(snapshot, *updates[at:]) == whole, f"seed {seed}"
    print(f"80 histories, {snapshots} snapshots, {waited} of them with updates that waited for others")
    assert bool(waited) == (order == "shuffled")
