"""Paths and queries of documents → what is meant. Pure. Raises Refused (400, 404).

Everything of a document lies in hidden streams: their keys begin with NUL, which no request's path for a stream can.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from switchgear_streams.yjs.errors import Refused

MAX_PATH = 256
MAX_NAME = 200
HIDDEN = b"\0yjs/"
_DOCS = b"docs/"
_PATH = re.compile(rb"[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*")
_SERVICE = re.compile(rb"[A-Za-z0-9._~-]{1,100}")
_SLASHES = re.compile(rb"/{2,}")
SNAPSHOT = "_snapshot"


def document(path: bytes, root: bytes, with_service: bool) -> bytes:
    """The key that all of a document's streams begin with.

    `root` ends in "/"; `with_service`: the segment behind it names a service (a server of its own, which has many).
    """
    rest = path[len(root) :]
    service = b""
    if with_service:
        service, _, rest = rest.partition(b"/")
        if not _SERVICE.fullmatch(service):
            raise _nowhere()
        service += b"/"
    if not rest.startswith(_DOCS):
        raise _nowhere()
    name = _SLASHES.sub(b"/", unquote_to_bytes(rest[len(_DOCS) :])).strip(b"/")
    if len(name) > MAX_PATH or not _PATH.fullmatch(name):
        raise Refused(
            400,
            "INVALID_REQUEST",
            f"A document's path has 1 to {MAX_PATH} letters, digits, _ and -, and / between them.",
        )
    return HIDDEN + service + _DOCS + name


def awareness_name(given: str) -> bytes:
    """`?awareness=`."""
    name = given.encode("utf-8", "surrogatepass")
    if not 0 < len(name) <= MAX_NAME or b"\0" in name or "�" in given:
        raise Refused(400, "INVALID_REQUEST", f"An awareness name has 1 to {MAX_NAME} bytes of UTF-8.")
    return name


def updates(key: bytes) -> bytes:
    """The stream of a document's updates. Its Stream-Seq says which snapshot counts (`documents`)."""
    return key + b"\0updates"


def slot(key: bytes, name: str) -> bytes:
    """One of the two places for a snapshot."""
    return b"%b\0snapshot-%b" % (key, name.encode())


def awareness(key: bytes, generation: int, name: bytes) -> bytes:
    """An awareness stream. `generation` is the document's, so that a new document starts without old presence."""
    return b"%b\0awareness/%d/%b" % (key, generation, name)


def _nowhere() -> Refused:
    return Refused(404, "NOT_FOUND", "Documents are at …/docs/<path>.")
