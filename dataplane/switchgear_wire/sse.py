"""Server-sent event frames. Pure."""

from __future__ import annotations


def event(name: bytes, payload: bytes) -> bytes:
    """One SSE event; every payload line (ended by CRLF, CR or LF) becomes a field, so that none can inject another.

    Receivers strip one blank after the colon, so a line that begins with one gets another; other lines get none.
    """
    if b"\n" in payload or b"\r" in payload:
        payload = payload.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata:")
        payload = payload.replace(b"\ndata: ", b"\ndata:  ")
    if payload.startswith(b" "):
        payload = b" " + payload
    return b"event: %b\ndata:%b\n\n" % (name, payload)
