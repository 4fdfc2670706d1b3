"""The life of the connection to Postgres: connect, wait for the lock, stream, begin again; sleep when nobody needs it.

A loss is followed by growing pauses and never ends the process: what is wrong in Postgres may be repaired there. The
state here is what health and readiness report. What the stream is fed into is the caller's (`Shapes`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Protocol

from switchgear_shapes.errors import FatalError
from switchgear_shapes.log.store import StorageLocked
from switchgear_shapes.postgres.conninfo import Conninfo
from switchgear_shapes.postgres.pool import Pool, PoolTimeout
from switchgear_shapes.postgres.session import ConnectionLost, PostgresError, Session
from switchgear_shapes.reconcile import PublicationGone
from switchgear_shapes.replication import conversation
from switchgear_shapes.replication.client import Replication
from switchgear_shapes.replication.conversation import Names, Started, StartupRefused

log = logging.getLogger("switchgear.shapes.upstream")

BACKOFF = (0.5, 1.0, 2.0, 5.0, 10.0)
LOCK_BREAKER_SECONDS = 10.0
LOST_LOCK_SECONDS = 1.0
"""How long another instance may have the lock before this one lets go of the storage."""
_EXPECTED = (ConnectionLost, PostgresError, StartupRefused, PublicationGone, StorageLocked, PoolTimeout)
_UNDEFINED_OBJECT = "42704"
_INTERNAL_ERROR = "XX000"
_WAITING_TEXTS = {
    conversation.LOCK: "Postgres lock acquisition",
    conversation.SLOT: "replication client to be ready"
    " (the slot can only be made once older transactions have ended; look for long-running ones)",
    conversation.STARTING: "replication client to be ready",
}


class Idle(Exception):
    """Nothing happened for a while: the connections are closed until somebody asks for a shape."""


class Shapes(Protocol):
    """What is done with the connection."""

    async def begin(self, session: Session, started: Started) -> Replication:
        """Open the storage, decide whether it continues this stream, and make what streams into it."""

    async def let_go(self) -> None:
        """Another instance has the lock: give the storage up, and read along."""

    @property
    def needed(self) -> bool:
        """Whether something is under way that needs the database."""


class Upstream:
    """See the module."""

    def __init__(self, info: Conninfo, names: Names, pools: tuple[Pool, ...], shapes: Shapes, idle: float) -> None:
        self._info = info
        self._names = names
        self._pools = pools
        self._shapes = shapes
        self._idle_seconds = idle
        self._streaming = asyncio.Event()
        self._wake = asyncio.Event()
        self._served_once = False
        self._asked_at = time.monotonic()
        self.phase = conversation.STARTING
        self.problem = ""
        self.asleep = False
        self.replication: Replication | None = None

    # -- state --

    @property
    def active(self) -> bool:
        return self._streaming.is_set()

    @property
    def waiting_for_lock(self) -> bool:
        return not self.active and self.phase == conversation.LOCK

    @property
    def readable(self) -> bool:
        """Whether what is on disk may be served: also while the database is away, but not when it was left alone."""
        return self.active or (self._served_once and not self.asleep and self.phase != conversation.LOCK)

    @property
    def status(self) -> str:
        if self.active or self.asleep:
            return "active"
        return "waiting" if self.phase == conversation.LOCK else "starting"

    @property
    def waiting_for(self) -> str:
        text = _WAITING_TEXTS[self.phase]
        return f"{text}: {self.problem}" if self.problem and self.phase != conversation.LOCK else text

    def asked(self) -> None:
        """A request for a shape arrived."""
        self._asked_at = time.monotonic()
        if self.asleep:
            self._wake.set()

    async def wait_active(self, seconds: float) -> bool:
        if self._streaming.is_set():
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._streaming.wait()
        return self._streaming.is_set()

    # -- running --

    async def run(self) -> None:
        """Ends only by being cancelled, or by FatalError."""
        attempt = 0
        while True:
            began = time.monotonic()
            try:
                await self._connect_once()
            except Idle:
                await self._sleep()
                attempt = 0
                continue
            except _EXPECTED as error:
                await self._disconnected(error)
            except FatalError:
                raise
            except OSError as error:  # the storage: a full disk
                await self._disconnected(error)
            except (ValueError, AssertionError, RuntimeError) as error:
                log.exception("replication failed")
                await self._disconnected(error)
            if time.monotonic() - began > 30.0:
                attempt = 0
            await asyncio.sleep(BACKOFF[min(attempt, len(BACKOFF) - 1)])
            attempt += 1

    def abort(self, reason: Exception) -> None:
        """End the connection, if there is one, and begin anew."""
        if self.replication is not None:
            self.replication.abort(reason)

    def ask_position(self) -> None:
        """Have Postgres say how far the stream is."""
        if self.replication is not None:
            self.replication.ask_position()

    def tick(self) -> None:
        """Called now and then: go to sleep when nothing happened for long enough."""
        if self.asleep:  # a query may have been under way when the connections were closed
            self._drop_pools()
        if not self._idle_seconds or not self.active or self.replication is None:
            return
        quiet_since = max(self._asked_at, self.replication.transaction_at)
        if time.monotonic() - quiet_since > self._idle_seconds and self.replication.idle and not self._shapes.needed:
            self.replication.abort(Idle())

    async def _sleep(self) -> None:
        self._streaming.clear()
        self.replication = None
        self._drop_pools()
        self._wake.clear()
        self.asleep = True
        log.info("nothing happened for %g s: closed the connections to Postgres", self._idle_seconds)
        await self._wake.wait()
        self.asleep = False
        self._served_once = False  # what is on disk may be old by now: requests wait for the stream
        log.info("a request for a shape: connecting to Postgres")

    async def _disconnected(self, error: Exception) -> None:
        self._streaming.clear()
        self.replication = None
        self.phase = conversation.STARTING
        self.problem = str(error) or type(error).__name__
        self._drop_pools()
        log.warning("not connected to Postgres: %s", self.problem)
        if isinstance(error, PublicationGone) or _slot_is_lost(error) or self._cannot_pass(error):
            await self._discard_slot()

    def _cannot_pass(self, error: Exception) -> bool:
        """Whether the slot has come to a change from when there was no publication: Postgres before 18 never gets past
        it, also when there is one again. Which of the two errors it gives depends on what its caches still hold."""
        if not isinstance(error, PostgresError):
            return False
        if error.sqlstate == _INTERNAL_ERROR:
            return error.message.startswith("cache lookup failed for publication")
        return error.sqlstate == _UNDEFINED_OBJECT and self._names.publication in error.message

    def _drop_pools(self) -> None:
        for pool in self._pools:
            pool.drop_idle()

    async def _connect_once(self) -> None:
        helper = asyncio.ensure_future(self._help_start())
        try:
            session, started = await Replication.connect(self._info, self._names, self._on_phase)
        finally:
            helper.cancel()
            await asyncio.wait([helper])
            if not helper.cancelled() and helper.exception() is not None:
                log.error("waiting for the lock went wrong", exc_info=helper.exception())
        try:
            replication = await self._shapes.begin(session, started)
        except BaseException:
            session.close()
            raise
        self.replication = replication
        await replication.run(started, self._on_streaming)

    def _on_phase(self, phase: str) -> None:
        if phase != self.phase:
            self.phase = phase
            if phase == conversation.LOCK:
                log.info("waiting for the lock of %s", self._names.slot)

    def _on_streaming(self) -> None:
        log.info("replication is running on %s", self._names.slot)
        self.problem = ""
        self.phase = conversation.STARTING
        self._served_once = True
        self._asked_at = time.monotonic()
        self._streaming.set()

    async def _help_start(self) -> None:
        """While the lock or the slot keeps us waiting: end dead holders, and nudge Postgres."""
        waited = 0.0
        while True:
            await asyncio.sleep(LOST_LOCK_SECONDS)
            if self.phase not in (conversation.LOCK, conversation.SLOT):
                continue
            waited += LOST_LOCK_SECONDS
            if self.phase == conversation.LOCK:
                self._served_once = False
                await self._shapes.let_go()
            if waited % LOCK_BREAKER_SECONDS:
                continue
            locked = self.phase == conversation.LOCK
            statement = conversation.lock_breaker(self._names) if locked else "SELECT pg_log_standby_snapshot()"
            with contextlib.suppress(PostgresError, ConnectionLost, PoolTimeout):
                async with self._pools[0].session() as session:
                    await session.query(statement)

    async def _discard_slot(self) -> None:
        """The slot is of no use any more: remove it and the publication, so that both are made anew."""
        try:
            session = await Session.connect(self._info)
            try:
                for statement in conversation.discard(self._names):
                    with contextlib.suppress(PostgresError):
                        await session.query(statement)
            finally:
                session.close()
        except (ConnectionLost, PostgresError) as error:
            log.warning("the lost replication slot could not be dropped yet: %s", error)


def _slot_is_lost(error: Exception) -> bool:
    if not isinstance(error, PostgresError):
        return False
    text = error.message
    return "slot" in text and any(
        sign in text for sign in ("was invalidated", "can no longer", "has been invalidated", "max_slot_wal_keep_size")
    )
