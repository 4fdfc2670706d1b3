"""One connection to Postgres, driven by the event loop over `psycopg.pq`.

Only the simple query protocol is used, so that any pooler and the walsender understand it. A session is used by one
task at a time; after a lost connection, a cancelled wait or a protocol surprise it is closed and never used again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import psycopg
from psycopg import pq

from switchgear_shapes.postgres.connecting import connect, resolve_waiter
from switchgear_shapes.postgres.conninfo import Conninfo
from switchgear_shapes.postgres.results import ConnectionLost, PostgresError, Row, error_of, rows_of

__all__ = ["ConnectionLost", "PostgresError", "Row", "Session"]

# Both the walsender and the snapshot queries render values under these, so that the two agree byte for byte. The
# search path also keeps functions and operators that somebody made in another schema out of our statements.
DISPLAY_SETTINGS = {
    "bytea_output": "hex",
    "DateStyle": "ISO, DMY",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "IntervalStyle": "iso_8601",
    "search_path": "pg_catalog",
}

TRANSACTION_TIMEOUT_VERSION = 170000
"""The first server that can end a transaction for its age alone."""

BLOCK_SECONDS = 0.05
NAP_SECONDS = 0.001

_COPY_STATES = (pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH, pq.ExecStatus.COPY_IN)


class Session:
    """A connected session."""

    def __init__(self, connection: pq.abc.PGconn) -> None:
        self._pg = connection
        self._fd = connection.socket
        """libpq closes the socket of a broken connection, and its number may be another one's at once: whoever watches
        it must stop in the same moment."""
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None
        self._reading = False
        self._broken: psycopg.Error | None = None
        self.copied = False
        """Whether the last COPY was read to its end."""
        self.closed = False
        self.last_used = 0.0
        self.patience: float | None = None
        """How long a query may take until the connection is given up."""
        self._given_up = False

    # -- making and ending --

    @classmethod
    async def connect(cls, info: Conninfo, *, limit: float = 10.0, **extra: str) -> Session:
        """Connect within `limit` seconds. Raises ConnectionLost, PostgresError when the server refuses."""
        return cls(await connect(info, limit, **extra))

    def close(self) -> None:
        """Close at once; the server rolls back what was open."""
        if not self.closed:
            self.closed = True
            if self._reading or self._waiting is not None:
                with contextlib.suppress(OSError, ValueError):
                    self._loop.remove_reader(self._fd)
                    self._loop.remove_writer(self._fd)
                self._reading = False
            if self._waiting is not None and not self._waiting.done():
                self._waiting.set_result(None)
            self._pg.finish()

    async def cancel_and_close(self) -> None:
        """Ask the server to stop the running statement, then close."""
        if self.closed:
            return
        with contextlib.suppress(psycopg.Error, TimeoutError):
            cancel = self._pg.get_cancel()
            async with asyncio.timeout(5.0):
                await self._loop.run_in_executor(None, cancel.cancel)
        self.close()

    @property
    def server_version(self) -> int:
        """As libpq has it: 150018 for 15.18."""
        return self._pg.server_version

    @property
    def usable(self) -> bool:
        """Whether the idle connection still stands."""
        if self.closed:
            return False
        try:
            self._pg.consume_input()
            self._pg.consume_input()  # behind the server's last words, its end
        except psycopg.Error:
            return False
        return self._pg.status == pq.ConnStatus.OK and self._pg.transaction_status == pq.TransactionStatus.IDLE

    # -- statements --

    async def query(self, sql: str) -> list[Row]:
        """Run one or more statements; the rows of the last one. Raises PostgresError, ConnectionLost."""
        timer = None if self.patience is None else self._loop.call_later(self.patience, self._give_up)
        try:
            result = await self._run(sql)
        except asyncio.CancelledError:
            self.close()
            raise
        except ConnectionLost:
            if self._given_up:
                raise ConnectionLost(f"the database did not answer within {self.patience:g} s") from None
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if result is None:
            return []
        if result.status in _COPY_STATES:
            self.close()
            raise ConnectionLost("the statement began a COPY")
        return rows_of(result)

    def _give_up(self) -> None:
        self._given_up = True
        self.close()

    async def query_limited(self, sql: str, seconds: float) -> list[Row]:
        """`query`, cancelled on the server after `seconds` (TimeoutError; the session is closed then)."""
        ending: list[asyncio.Task[None]] = []
        timer = self._loop.call_later(seconds, lambda: ending.append(asyncio.ensure_future(self.cancel_and_close())))
        try:
            return await self.query(sql)
        except ConnectionLost:
            if not ending:
                raise
            await ending[0]
            raise TimeoutError from None
        finally:
            timer.cancel()

    async def start_copy(self, sql: str) -> None:
        """Run a statement that begins COPY OUT or COPY BOTH. Raises PostgresError, ConnectionLost."""
        self._begun(await self._run(sql))

    async def next_copy(self) -> None:
        """The next COPY OUT of the statements that `start_copy` sent, after the rows of the one before.

        Raises PostgresError, when it is this one that failed, and ConnectionLost.
        """
        self._begun(await self._last_result())

    async def end_copies(self) -> None:
        """What follows the last COPY in its message. Raises PostgresError, ConnectionLost."""
        result = await self._last_result()
        if result is not None and result.status in _COPY_STATES:
            self.close()
            raise ConnectionLost("the server began another copy")

    async def copy_blocks(self, block_bytes: int, *, more: bool = False) -> AsyncIterator[list[bytes]]:
        """The data of COPY OUT: lists of rows, about `block_bytes` each, as fast as the consumer takes them.

        The first block comes with the first bytes, later ones at least every BLOCK_SECONDS; `copied` is set before the
        last one. With `more`, what comes behind this COPY is left to `next_copy` and `end_copies`. Raises
        PostgresError, ConnectionLost.
        """
        get = self._pg.get_copy_data
        time = self._loop.time
        rows: list[bytes] = []
        size = 0
        last = 0.0
        empty = 0
        self.copied = False
        while True:
            try:
                count, data = get(1)
            except psycopg.Error as error:
                raise self._lost(error) from None
            if count > 0:
                empty = 0
                rows.append(bytes(data))
                size += count
                if size >= block_bytes:
                    yield rows
                    rows, size, last = [], 0, time()
            elif count == 0:
                # The library takes a few packets at a time: look again, nap (the kernel gathers more), then wait.
                if empty < 2:
                    if empty:
                        await asyncio.sleep(NAP_SECONDS)
                    self._consume()
                else:
                    if rows and time() - last > BLOCK_SECONDS:
                        yield rows
                        rows, size, last = [], 0, time()
                    await self._received()
                empty += 1
            else:
                await (self._copy_result() if more else self._last_result())
                self.copied = True
                if rows:
                    yield rows
                return

    # -- the replication stream --

    def received(self, limit: int) -> tuple[list[bytes], bool]:
        """Up to `limit` messages of COPY BOTH that are here already, and whether the stream goes on.

        Raises ConnectionLost.
        """
        messages: list[bytes] = []
        get = self._pg.get_copy_data
        try:
            while len(messages) < limit:
                count, data = get(1)
                if count > 0:
                    messages.append(bytes(data))
                elif count == 0:
                    return messages, True
                else:
                    return messages, False
        except psycopg.Error as error:
            raise self._lost(error) from None
        return messages, True

    def read_socket(self) -> None:
        """Take what the socket has. Raises ConnectionLost."""
        self._consume()

    @property
    def fileno(self) -> int:
        return self._pg.socket

    async def readable(self, limit: float) -> bool:
        """Wait for bytes from the server, at most `limit` seconds."""
        self._reading = False  # the loop has one reader of a socket, and this one takes its place
        return await self._wait(self._loop.add_reader, self._loop.remove_reader, limit)

    def send_copy(self, data: bytes) -> None:
        """Queue one message of COPY BOTH and push what the socket takes. Raises ConnectionLost."""
        try:
            self._pg.put_copy_data(data)
            self._pg.flush()
        except psycopg.Error as error:
            raise self._lost(error) from None

    async def stream_error(self) -> Exception:
        """Why the stream ended."""
        try:
            await self._last_result()
        except (PostgresError, ConnectionLost) as error:
            return error
        return ConnectionLost("the server ended the replication stream")

    # -- below --

    async def _run(self, sql: str) -> pq.abc.PGresult | None:
        if self.closed:
            raise ConnectionLost("the connection is closed")
        try:
            self._pg.send_query(sql.encode())
            while self._pg.flush():
                await self._wait(self._loop.add_writer, self._loop.remove_writer)
        except psycopg.Error as error:
            raise self._lost(error) from None
        return await self._last_result()

    def _begun(self, result: pq.abc.PGresult | None) -> None:
        if result is None or result.status not in _COPY_STATES:
            self.close()
            raise ConnectionLost("the server did not begin the copy")

    async def _copy_result(self) -> None:
        """How the COPY went whose rows are all here; nothing of what follows it."""
        while self._pg.is_busy():
            await self._received()
        result = self._pg.get_result()
        if result is None or result.status != pq.ExecStatus.COMMAND_OK:
            failed = None if result is None else error_of(result)
            await self._last_result()  # raises if the connection is lost
            raise failed or self._lost(ConnectionLost("the copy has no result"))

    async def _last_result(self) -> pq.abc.PGresult | None:
        pg = self._pg
        last: pq.abc.PGresult | None = None
        failed: PostgresError | None = None
        while True:
            while pg.is_busy():
                await self._received()
            result = pg.get_result()
            if result is None:
                break
            if result.status == pq.ExecStatus.FATAL_ERROR:
                failed = failed or error_of(result)
                if pg.status != pq.ConnStatus.OK:
                    break
                continue
            last = result
            if result.status in _COPY_STATES:
                break
        if pg.status != pq.ConnStatus.OK:
            self.close()
            raise ConnectionLost(failed.message if failed else "the connection to the database broke")
        if failed is not None:
            raise failed
        return last

    async def _received(self) -> None:
        """Wait for bytes from the server, and take them. Raises ConnectionLost.

        The reader stays with the loop from one wait to the next: adding and removing it costs two system calls.
        """
        if self.closed:
            raise ConnectionLost("the connection is closed")
        if not self._reading:
            self._loop.add_reader(self._fd, self._on_readable)
            self._reading = True
        ready = self._waiting = self._loop.create_future()
        try:
            await ready
        finally:
            self._waiting = None
        if self._broken is not None:
            raise self._lost(self._broken)
        if self.closed:
            raise ConnectionLost("the connection is closed")

    def _on_readable(self) -> None:
        waiting = self._waiting
        if waiting is None or waiting.done():
            # Whoever is busy with what came before takes the rest when it wants to.
            self._loop.remove_reader(self._fd)
            self._reading = False
            return
        # At once, or the loop would report the same bytes again before the waiting task runs.
        try:
            self._pg.consume_input()
        except psycopg.Error as error:
            self._broken = error
            self._loop.remove_reader(self._fd)
            self._reading = False
            self._waiting = None
        waiting.set_result(None)

    def _consume(self) -> None:
        if self.closed:
            raise ConnectionLost("the connection is closed")
        try:
            self._pg.consume_input()
        except psycopg.Error as error:
            raise self._lost(error) from None

    def _lost(self, error: Exception) -> ConnectionLost:
        message = str(error).strip() or "the connection to the database broke"
        self.close()
        return ConnectionLost(message)

    async def _wait(self, add: Callable[..., None], remove: Callable[[int], bool], limit: float | None = None) -> bool:
        if self.closed:
            raise ConnectionLost("the connection is closed")
        fd = self._pg.socket
        ready = self._waiting = self._loop.create_future()
        add(fd, resolve_waiter, ready)
        try:
            if limit is None:
                await ready
                return True
            done, _ = await asyncio.wait([ready], timeout=limit)
            return bool(done)
        finally:
            self._waiting = None
            if not self.closed:
                remove(fd)
