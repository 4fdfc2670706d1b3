"""The replication connection: starts it, feeds the ingest, acknowledges what is durable.

Invariants: Postgres is told only what the store has on disk; while the store is behind, the socket is not read, but
status messages go on, so that Postgres does not give the connection up.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from collections.abc import Awaitable, Callable

from switchgear_shapes.ingest import Ingest
from switchgear_shapes.log.store import Store
from switchgear_shapes.postgres.conninfo import Conninfo
from switchgear_shapes.postgres.session import ConnectionLost, PostgresError, Session
from switchgear_shapes.replication.conversation import Names, Started, start

log = logging.getLogger("switchgear.shapes.replication")

QUEUE_LIMIT = 32 * 1024 * 1024
"""Bytes on their way into the write-ahead log at which reading pauses; it goes on at half of it."""
SLICE_MESSAGES = 256
STATUS_SECONDS = 1.0
STATUS_DELAY = 0.1
"""How soon after something became durable it is acknowledged."""
ASK_SECONDS = 0.002
PRESSED_SECONDS = 0.5
PRESSED_TIMES = 4
"""When Postgres stops, its sender asks again and again how far we are, until all is acknowledged: after so long, and so
many times in a row, it is left to go, because what is missing may need a database that lets somebody in."""
SILENT_TIMEOUTS = 2.0
"""How many of Postgres' own timeouts (`wal_sender_timeout`) it may say nothing, though it is asked."""
_XLOG = struct.Struct("!cQQq")
_KEEPALIVE = struct.Struct("!cQqB")
_STATUS = struct.Struct("!cQQQqB")
_PG_EPOCH_SECONDS = 946_684_800
_XLOG_DATA, _PRIMARY_KEEPALIVE = b"wk"


class Replication:
    """One connection's life. `run` ends only by an exception."""

    def __init__(self, session: Session, ingest: Ingest, store: Store, look: Callable[[], Awaitable[None]]) -> None:
        self._session = session
        self._ingest = ingest
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._reading = False
        self._paused = False
        self._look = look
        self._looking: asyncio.Future[None] | None = None
        self._busy = False
        self._held: list[bytes] = []
        self._going = True
        self._received = 0
        self._acknowledged = 0
        self._status_timer: asyncio.TimerHandle | None = None
        self._progress_at = 0.0
        self._transactions = ingest.transactions
        self.transaction_at = time.monotonic()
        """When it was last seen that a transaction had arrived."""
        self._asked_at = 0.0
        self._pressing: list[float] = []
        """When Postgres asked for an answer, with nothing else to say since."""
        self._every = STATUS_SECONDS
        self._silent = 0.0
        """For how long nothing came though something was asked for: ticks, because a busy loop hears nothing."""

    @classmethod
    async def connect(cls, info: Conninfo, names: Names, on_phase: Callable[[str], None]) -> tuple[Session, Started]:
        """Connect and do everything that comes before the stream.

        Raises ConnectionLost, PostgresError, StartupRefused.
        """
        session = await Session.connect(info, replication="database")
        try:
            conversation = start(names, session.server_version)
            ask = next(conversation)
            while True:
                on_phase(ask.phase)
                try:
                    rows = await session.query(ask.sql)
                except PostgresError as error:
                    ask = conversation.throw(error)
                else:
                    ask = conversation.send(rows)
        except StopIteration as done:
            started: Started = done.value
            return session, started
        except BaseException:
            session.close()
            raise

    async def run(self, started: Started, on_streaming: Callable[[], None]) -> None:
        """Stream until the connection ends; `on_streaming` is called when it begins.

        Raises ConnectionLost, PostgresError and the ingest's errors.
        """
        self._ingest.restart(started.slot_lsn)
        self._ingest.outgoing.on_durable = self._on_durable
        self._acknowledged = started.slot_lsn
        await self._session.start_copy(started.start_statement)
        if started.sender_timeout:
            self._every = min(STATUS_SECONDS, started.sender_timeout / 3)
        # A sender that is busy for longer than its own timeout gives us up, too.
        patience = SILENT_TIMEOUTS * started.sender_timeout if started.sender_timeout else float("inf")
        ticker = asyncio.ensure_future(self._tick(self._every, patience))
        try:
            on_streaming()
            self._resume()
            self._process()
            await self._ended
        finally:
            ticker.cancel()
            if self._status_timer is not None:
                self._status_timer.cancel()
            if self._looking is not None:
                self._looking.cancel()
            self._ingest.outgoing.on_durable = lambda: None
            self._stop_reading()
            self._session.close()

    def abort(self, reason: Exception) -> None:
        """End the connection with `reason`."""
        self._end(reason)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, neither in the stream nor to the disk."""
        return self._ingest.idle and not self._store.pending_bytes and self._acknowledged >= self._store.durable_lsn

    @property
    def acknowledged(self) -> int:
        return self._acknowledged

    @property
    def received(self) -> int:
        """The end of what Postgres has sent."""
        return self._received

    # -- reading --

    def _resume(self) -> None:
        self._reading = True
        self._loop.add_reader(self._session.fileno, self._on_readable)

    def _stop_reading(self) -> None:
        if self._reading and not self._session.closed:
            self._loop.remove_reader(self._session.fileno)
        self._reading = False

    def _on_readable(self) -> None:
        self._silent = 0.0
        if self._busy:  # what is here already comes first, or the library's buffer would grow without bound
            return
        try:
            self._session.read_socket()
        except ConnectionLost as error:
            self._end(error)
            return
        if not self._paused:
            self._process()

    def _process(self) -> None:
        """Handle what is here, a slice at a time, so that requests are served in between."""
        if self._ended.done() or self._session.closed or self._paused:
            return
        try:
            if not self._ingest.advance():
                self._pause()
                return
            held = bool(self._held)
            messages, going = self._next_messages()
            for index, message in enumerate(messages):
                self._message(message)
                if self._ingest.busy or self._ingest.unsure:  # what follows waits
                    self._held = messages[index + 1 :]
                    break
            self._ingest.flush()
        except Exception as error:
            self._end(error)
            return
        if self._ingest.unsure:
            self._pause_to_look()
            return
        if not going and not self._held and not self._ingest.busy:
            self._stop_reading()
            task = asyncio.ensure_future(self._session.stream_error())
            task.add_done_callback(lambda done: self._end(done.result()))
            return
        if self._ingest.busy or self._store.pending_bytes > QUEUE_LIMIT or self._store.full:
            self._pause()
            return
        self._busy = held or len(messages) == SLICE_MESSAGES
        if self._busy:
            self._loop.call_soon(self._process)

    def _next_messages(self) -> tuple[list[bytes], bool]:
        """What was held back, or what is here; and whether the stream goes on behind it."""
        messages, self._held = self._held, []
        if not messages and self._going:
            messages, self._going = self._session.received(SLICE_MESSAGES)
        return messages, self._going

    def _pause(self) -> None:
        """Until there is room: `_go_on` is called when something became durable, and with every status message."""
        self._paused = True
        self._stop_reading()
        self._busy = False

    def _pause_to_look(self) -> None:
        """What follows depends on the catalogue: nothing is read until it was looked at."""
        self._pause()
        self._looking = asyncio.ensure_future(self._look())
        self._looking.add_done_callback(self._looked)

    def _looked(self, done: asyncio.Future[None]) -> None:
        self._looking = None
        self._ingest.unsure = False
        if done.cancelled() or self._ended.done():
            return
        error = done.exception()
        if error is not None:
            self._end(error)
            return
        self._go_on()

    def _message(self, data: bytes) -> None:
        kind = data[0]
        if kind == _XLOG_DATA:
            self._pressing.clear()
            self._ingest.message(data, _XLOG.size)
        elif kind == _PRIMARY_KEEPALIVE and len(data) >= _KEEPALIVE.size:
            _, wal_end, _, reply = _KEEPALIVE.unpack_from(data)
            self._received = max(self._received, wal_end)
            self._ingest.keepalive(wal_end)
            if reply:
                self._on_pressed()

    def _on_pressed(self) -> None:
        """Postgres wants an answer: because it heard nothing for long, or because it is about to stop.

        Not at once: a sender that waits to stop would ask again at once, both of us as fast as we can.
        """
        now = self._loop.time()
        if self._pressing and now - self._pressing[-1] > PRESSED_SECONDS:
            self._pressing.clear()
        self._pressing.append(now)
        if len(self._pressing) >= PRESSED_TIMES and now - self._pressing[0] >= PRESSED_SECONDS:
            self._end(ConnectionLost("Postgres is stopping"))
            return
        self._ingest.write_progress()
        if self._status_timer is None:
            self._status_timer = self._loop.call_later(min(STATUS_DELAY, self._every / 4), self._send_status)

    def _end(self, error: BaseException) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)

    # -- acknowledging --

    def _on_durable(self) -> None:
        self._go_on()
        if self._status_timer is None and self._ingest.acknowledgeable_lsn > self._acknowledged:
            self._status_timer = self._loop.call_later(STATUS_DELAY, self._send_status)

    def _go_on(self) -> None:
        """Read again if there is room for what comes, and no doubt about it."""
        room = self._store.pending_bytes < QUEUE_LIMIT // 2 and not self._store.full
        if self._paused and room and self._looking is None and not self._session.closed:
            self._paused = False
            self._resume()
            self._loop.call_soon(self._process)

    async def _tick(self, every: float, patience: float) -> None:
        while True:
            await asyncio.sleep(every)
            self._silent = 0.0 if self._paused or self._busy else self._silent + every
            if self._silent > patience:
                self._end(ConnectionLost(f"Postgres was silent for {self._silent:.0f} s"))
            if self._transactions != self._ingest.transactions:
                self._transactions = self._ingest.transactions
                self.transaction_at = time.monotonic()
            self._ingest.write_progress()
            self._go_on()
            self._send_status(reply=self._silent > patience / 2)

    def ask_position(self) -> None:
        """Have Postgres say how far it has sent, if it was not asked just now."""
        now = self._loop.time()
        if now - self._asked_at >= ASK_SECONDS:
            self._asked_at = now
            self._send_status(reply=True)

    def _send_status(self, *, reply: bool = False) -> None:
        if self._status_timer is not None:
            self._status_timer.cancel()
            self._status_timer = None
        if self._session.closed:
            return
        flushed = max(self._acknowledged, self._ingest.acknowledgeable_lsn)
        self._received = max(self._received, flushed)
        now = int((time.time() - _PG_EPOCH_SECONDS) * 1_000_000)
        try:
            self._session.send_copy(_STATUS.pack(b"r", self._received, flushed, flushed, now, reply))
        except ConnectionLost as error:
            self._end(error)
            return
        self._acknowledged = flushed
