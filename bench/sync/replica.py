"""A plain replication client: when does anyone at all see a commit? The measure against which the server is held."""

from __future__ import annotations

import select
import time

import psycopg
from psycopg import pq


class ReplicationClient:
    """Streams a publication through a temporary slot and notices commits; it decodes nothing else."""

    def __init__(self, url: str, publication: str) -> None:
        self._conn = pq.PGconn.connect(f"{url}?replication=database".encode())
        if self._conn.status != pq.ConnStatus.OK:
            raise psycopg.OperationalError(self._conn.error_message.decode())
        self._run(b"CREATE_REPLICATION_SLOT bench_plain TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT")
        self._run(
            b"START_REPLICATION SLOT bench_plain LOGICAL 0/0 (proto_version '1', publication_names '%b')"
            % publication.encode()
        )

    def _run(self, command: bytes) -> None:
        result = self._conn.exec_(command)
        if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COPY_BOTH, pq.ExecStatus.COMMAND_OK):
            raise psycopg.OperationalError(result.error_message.decode())

    @property
    def fileno(self) -> int:
        return self._conn.socket

    def commit_seen(self) -> bool:
        """Read what is there; whether a commit was in it."""
        self._conn.consume_input()
        found = False
        while True:
            size, data = self._conn.get_copy_data(1)
            if size <= 0 or data is None:
                return found
            raw = bytes(data)
            found = found or (raw[:1] == b"w" and raw[25:26] == b"C")

    def wait_commit(self, seconds: float = 10.0) -> float:
        deadline = time.monotonic() + seconds
        while not self.commit_seen():
            if not select.select([self.fileno], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError("no commit arrived")
        return time.perf_counter()

    def close(self) -> None:
        self._conn.finish()
