"""Server-sent event frames. Pure."""

from __future__ import annotations


def event(data: bytes, name: bytes | None = None) -> bytes:
    """One event: `data` split on CRLF, CR and LF, a `data:` field each (so that no payload can inject a field).

    No blank after the colon: receivers strip exactly one, so payloads that begin with a blank stay exact.
    """
    head = b"" if name is None else b"event: " + name + b"\n"
    if b"\n" not in data and b"\r" not in data:
        return head + b"data:" + data + b"\n\n"
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return head + b"".join(b"data:" + line + b"\n" for line in lines) + b"\n"


def comment(text: bytes) -> bytes:
    """A line that receivers ignore; keeps idle connections open."""
    return b": " + text + b"\n\n"
