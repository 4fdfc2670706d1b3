"""SSE frames as a receiver reads them: the payload comes back, whatever is in it."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from switchgear_wire.sse import event

PIECES = st.lists(st.sampled_from([b" ", b"\n", b"\r", b"\r\n", b"data:", b"event: x", b":", b"a", b"\xc3\xbc"]))


def receive(frame: bytes) -> tuple[list[bytes], bytes]:
    """Event names and data, by the rules of the HTML standard."""
    names, data = [], []
    for line in re.split(rb"\r\n|\n|\r", frame):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            names.append(value)
        elif name == b"data":
            data.append(value)
    return names, b"\n".join(data)


@given(PIECES)
def test_payload_comes_back_and_injects_nothing(pieces: list[bytes]) -> None:
    payload = b"".join(pieces)
    names, data = receive(event(b"data", payload))
    assert names == [b"data"]
    assert data == re.sub(rb"\r\n|\r", b"\n", payload)
