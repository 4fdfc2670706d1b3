"""The process in which documents are decoded: `python -m switchgear_streams.yjs.worker BYTES`, spoken to over pipes.

One request at a time: two lengths, a snapshot, updates; then a status (0: done), a length, and the new snapshot or why
there is none. It ends with its parent's end of the pipe. BYTES bounds its memory: a document that needs more costs this
process, and nothing else.
"""

from __future__ import annotations

import os
import resource
import struct
import sys
from typing import BinaryIO

REQUEST = struct.Struct("<QQ")
ANSWER = struct.Struct("<BQ")
DONE, FAILED = 0, 1


def main() -> None:
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # Whatever is printed must not get between the answers.
    wire = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    from switchgear_streams.yjs.merge import compact

    while True:
        head = sys.stdin.buffer.read(REQUEST.size)
        if len(head) < REQUEST.size:
            return
        lengths = REQUEST.unpack(head)
        snapshot, updates = (sys.stdin.buffer.read(length) for length in lengths)
        try:
            _answer(wire, DONE, compact(snapshot, updates))
        except KeyboardInterrupt:
            return
        except BaseException as error:  # a panic of the library's is no Exception
            _answer(wire, FAILED, f"{type(error).__name__}: {error}".encode()[:500])


def _answer(wire: BinaryIO, status: int, content: bytes) -> None:
    wire.write(ANSWER.pack(status, len(content)))
    wire.write(content)
    wire.flush()


if __name__ == "__main__":
    main()
