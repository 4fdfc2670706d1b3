"""What is said to Postgres before replication starts: a generator that yields statements and is sent their rows.

No I/O here: the driver runs each `Ask`, sends the rows back, or throws the server's error into the generator.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from switchgear_shapes.identifiers import literal, quote
from switchgear_shapes.postgres.session import DISPLAY_SETTINGS, TRANSACTION_TIMEOUT_VERSION, PostgresError, Row

_PAGE_HEADERS = (24, 40)
_PAGE = 8192


@dataclass(frozen=True, slots=True)
class Ask:
    """A statement to run. `phase` is what the server waits for meanwhile (health texts); `note` for status pages."""

    sql: str
    phase: str


@dataclass(frozen=True, slots=True)
class Names:
    """What belongs to this server in Postgres."""

    slot: str
    publication: str
    temporary: bool = False
    manual: bool = False


@dataclass(frozen=True, slots=True)
class Started:
    """The outcome: everything is ready for START_REPLICATION."""

    system_identifier: str
    timeline: int
    server_version: int
    slot_lsn: int
    """Where the slot stands."""
    new_slot: bool
    stored_generated: bool
    """Whether the publication carries stored generated columns."""
    sender_timeout: float
    """Seconds after which Postgres gives up on a silent client; 0: never."""
    start_statement: str


class StartupRefused(Exception):
    """Replication cannot start until someone changes something; the message says what."""


LOCK = "lock"
STARTING = "starting"
SLOT = "slot"

Conversation = Generator[Ask, list[Row], Started]

_DUPLICATE_OBJECT = "42710"
_INSUFFICIENT_PRIVILEGE = "42501"
_QUERY_CANCELED = "57014"
_OBJECT_IN_USE = "55006"
_UNDEFINED_OBJECT = "42704"


def start(names: Names, server_version: int) -> Conversation:
    """The whole exchange, in the order that keeps two servers of one stream apart. Raises StartupRefused."""
    identity = (yield Ask("IDENTIFY_SYSTEM", STARTING))[0]
    rows = yield Ask(
        "SELECT setting, current_setting('wal_level'), pg_is_in_recovery() FROM pg_settings"
        " WHERE name = 'wal_sender_timeout'",
        STARTING,
    )
    sender_timeout = int(rows[0][0] or 0) / 1000
    if rows[0][1] != "logical":
        raise StartupRefused(
            f"wal_level of the database is {rows[0][1]};"
            " run ALTER SYSTEM SET wal_level = 'logical' and restart Postgres"
        )
    if rows[0][2] == "t":
        raise StartupRefused("the database is a read-only standby; DATABASE_URL must lead to the primary")
    yield Ask(_own_settings(server_version), STARTING)
    yield from _lock(names)
    created = yield from _publication(names, server_version)
    stored = yield from _publishes_stored_generated(names, server_version)
    if created and not names.temporary:
        yield from _drop_slot(names)
    slot_lsn, new_slot = yield from _slot(names)
    return Started(
        system_identifier=identity[0] or "",
        timeline=int(identity[1] or 0),
        server_version=server_version,
        slot_lsn=slot_lsn,
        new_slot=new_slot,
        stored_generated=stored,
        sender_timeout=sender_timeout,
        start_statement=(
            f"START_REPLICATION SLOT {quote(names.slot)} LOGICAL 0/0"
            f" (proto_version '1', publication_names {literal(quote(names.publication))})"
        ),
    )


def _own_settings(server_version: int) -> str:
    """What the role or the database may have set otherwise: none of it is to end, refuse or colour what follows.

    Values are rendered, and names found, as in snapshots.
    """
    own = DISPLAY_SETTINGS | {
        "default_transaction_read_only": "off",
        "statement_timeout": "0",
        "lock_timeout": "0",
        "idle_session_timeout": "0",
    }
    if server_version >= TRANSACTION_TIMEOUT_VERSION:
        own["transaction_timeout"] = "0"
    return ";".join(f"SET {name} = {literal(value)}" for name, value in own.items())


def lock_breaker(names: Names) -> str:
    """Ends sessions that hold this stream's lock and do nothing: a dead server's connection that never closed."""
    return (
        "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid)"  # noqa: S608
        " JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()"
        f" WHERE l.locktype = 'advisory' AND l.granted AND l.objid::bigint = hashtext({literal(names.slot)})::bigint"
        " & 4294967295 AND a.state = 'idle' AND a.state_change < now() - interval '10 seconds'"
        f" AND NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {literal(names.slot)} AND active)"
    )


def stored_generated_query(names: Names, server_version: int) -> str | None:
    """Asks whether the publication carries stored generated columns (`s`); None where no publication can."""
    if server_version < 180000:
        return None
    return f"SELECT pubgencols FROM pg_publication WHERE pubname = {literal(names.publication)}"  # noqa: S608


def parse_lsn(text: str) -> int:
    """`X/Y` → integer."""
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)


def reached(passed: int, lsn: int) -> bool:
    """Whether nothing before `lsn` is missing. At a page's beginning Postgres counts the header of the next one in."""
    return passed >= lsn or (passed % _PAGE == 0 and lsn - passed in _PAGE_HEADERS)


def _lock(names: Names) -> Generator[Ask, list[Row], None]:
    while True:
        try:
            yield Ask(f"SELECT pg_advisory_lock(hashtext({literal(names.slot)}))", LOCK)
            return
        except PostgresError as error:
            if error.sqlstate != _QUERY_CANCELED:
                raise


def _publication(names: Names, server_version: int) -> Generator[Ask, list[Row], bool]:
    """Whether the publication was created now."""
    failure: PostgresError | None = None
    if not names.manual:
        options = " WITH (publish_generated_columns = stored)" if server_version >= 180000 else ""
        try:
            yield Ask(f"CREATE PUBLICATION {quote(names.publication)}{options}", STARTING)
            return True
        except PostgresError as error:
            if error.sqlstate not in (_DUPLICATE_OBJECT, _INSUFFICIENT_PRIVILEGE):
                raise
            failure = error
    rows = yield Ask(
        "SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate FROM pg_publication"  # noqa: S608
        f" WHERE pubname = {literal(names.publication)}",
        STARTING,
    )
    if not rows:
        why = "manual publishing is set" if failure is None else f"creating it failed: {failure.message}"
        raise StartupRefused(
            f'publication "{names.publication}" does not exist, and {why};'
            f" run CREATE PUBLICATION {quote(names.publication)} as a privileged user"
        )
    if rows[0][0] != "t":
        raise StartupRefused(
            f'publication "{names.publication}" does not publish all of insert, update, delete and truncate; run'
            f" ALTER PUBLICATION {quote(names.publication)} SET (publish = 'insert, update, delete, truncate')"
        )
    return False


def _publishes_stored_generated(names: Names, server_version: int) -> Generator[Ask, list[Row], bool]:
    statement = stored_generated_query(names, server_version)
    if statement is None:
        return False
    rows = yield Ask(statement, STARTING)
    return bool(rows) and rows[0][0] == "s"


def _drop_slot(names: Names) -> Generator[Ask, list[Row], None]:
    """A slot older than its publication would decode changes that were never published."""
    try:
        yield Ask(f"SELECT pg_drop_replication_slot({literal(names.slot)})", STARTING)
    except PostgresError as error:
        if error.sqlstate != _UNDEFINED_OBJECT:
            raise


def _slot(names: Names) -> Generator[Ask, list[Row], tuple[int, bool]]:
    kind = "TEMPORARY LOGICAL" if names.temporary else "LOGICAL"
    try:
        rows = yield Ask(f"CREATE_REPLICATION_SLOT {quote(names.slot)} {kind} pgoutput NOEXPORT_SNAPSHOT", SLOT)
        yield from _all_visible()
        return parse_lsn(rows[0][1] or "0/0"), True
    except PostgresError as error:
        if error.sqlstate != _DUPLICATE_OBJECT:
            raise
    rows = yield Ask(
        "SELECT confirmed_flush_lsn, plugin, database = current_database(), wal_status FROM pg_replication_slots"  # noqa: S608
        f" WHERE slot_name = {literal(names.slot)}",
        STARTING,
    )
    if not rows:
        raise PostgresError(_UNDEFINED_OBJECT, f'replication slot "{names.slot}" vanished')
    flushed, plugin, ours, status = rows[0]
    if plugin != "pgoutput" or ours != "t":
        raise StartupRefused(
            f'replication slot "{names.slot}" belongs to another database or plugin;'
            " choose another ELECTRIC_REPLICATION_STREAM_ID"
        )
    if status == "lost" or flushed is None:
        raise PostgresError("55000", f'replication slot "{names.slot}" was invalidated')
    return parse_lsn(flushed), False


def _all_visible() -> Generator[Ask, list[Row], None]:
    """Behind the slot's beginning everything comes; wait for what committed before and waits for a standby.

    Nobody sees that yet, and it does not come. Without synchronous standbys there is no such wait.
    """
    # A new number: some that run have higher ones than a snapshot's end.
    rows = yield Ask("SELECT pg_current_xact_id() WHERE current_setting('synchronous_standby_names') <> ''", SLOT)
    while rows:
        rows = yield Ask(
            f"SELECT '{rows[0][0]}' FROM pg_sleep(0.1)"  # noqa: S608 - a number
            f" WHERE pg_snapshot_xmin(pg_current_snapshot()) < '{rows[0][0]}'::xid8",
            SLOT,
        )


def discard(names: Names) -> list[str]:
    """Statements that remove the slot, and with it the publication: both are made anew together."""
    statements = [f"SELECT pg_drop_replication_slot({literal(names.slot)})"]
    if not names.manual:
        statements.append(f"DROP PUBLICATION IF EXISTS {quote(names.publication)}")
    return statements
