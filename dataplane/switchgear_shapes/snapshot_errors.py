"""What clients are told when a shape cannot be made."""

from __future__ import annotations

import logging

from switchgear_shapes.errors import ShapeError, database_unreachable, invalid, snapshot_failed
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.wal import is_full
from switchgear_shapes.postgres.pool import PoolTimeout
from switchgear_shapes.postgres.session import ConnectionLost, PostgresError
from switchgear_shapes.subqueries.rows import Broken

log = logging.getLogger("switchgear.shapes.creation")

_INSUFFICIENT_PRIVILEGE = "42501"
_LOCK_NOT_AVAILABLE = "55P03"
_DENIED = "permission denied for table "
_DATA_EXCEPTION = "22"
"""A class of codes, such as a division by zero."""
_GONE = frozenset({"42P01", "3F000", "42703"})
_PASSING = frozenset({"08", "28", "3D", "40", "53", "55", "57", "58"})
"""Classes of codes that say nothing about the statement: no connection left, a wrong password, an administrator."""


class SchemaChanged(Exception):
    """The table is no longer what the definition was made for, or the shape was dropped meanwhile."""


def must_refetch() -> ShapeError:
    """The shape cannot be made as it was asked for; the client asks again."""
    return ShapeError(409, {})


def disk_full() -> ShapeError:
    return snapshot_failed("Unable to create initial snapshot: the disk of the sync server is full")


def not_allowed(message: str) -> ShapeError:
    """The role may not read the table, or not all of its rows."""
    text = f"Unable to create initial snapshot: {message}"
    if "row-level security" in message:
        text += "; the stream would tell of all rows: give the role of DATABASE_URL BYPASSRLS, or the table's ownership"
    elif message.startswith(_DENIED):
        text += (
            f"; run GRANT SELECT ON {message.removeprefix(_DENIED)} TO the role of DATABASE_URL, or"
            " GRANT SELECT (columns) for the columns of the shape, of its key and of its filters"
        )
    return snapshot_failed(text)


def refused_for_now(error: PostgresError) -> ShapeError | None:
    """503 if the database may take the same statement at another time. Its own words can tell of hosts and roles."""
    if error.sqlstate[:2] not in _PASSING:
        return None
    log.warning("Postgres refused a query of a shape: %s %s", error.sqlstate, error.message)
    return snapshot_failed(
        f"Unable to create initial snapshot: the database refused it (SQLSTATE {error.sqlstate});"
        " the sync server's log has the reason"
    )


def failure_of(shape: Shape, error: Exception) -> ShapeError:
    """The answer to whoever waits for the shape whose creation ended with `error`."""
    if shape.snapshot.failure is not None:
        return shape.snapshot.failure
    if isinstance(error, ShapeError):
        return error
    if isinstance(error, SchemaChanged | Broken):
        return must_refetch()
    if isinstance(error, PoolTimeout):
        return snapshot_failed("Timed out while waiting for a database connection to create the snapshot")
    if isinstance(error, ConnectionLost):
        return database_unreachable()
    if isinstance(error, PostgresError):
        if error.sqlstate == _INSUFFICIENT_PRIVILEGE:
            return not_allowed(error.message)
        if error.sqlstate == _LOCK_NOT_AVAILABLE:
            return snapshot_failed("Unable to create initial snapshot: the table is locked by another transaction")
        if error.sqlstate in _GONE:
            return must_refetch()
        if error.sqlstate[:2] == _DATA_EXCEPTION and shape.definition.where is not None:
            return invalid("where", f"Postgres cannot evaluate it for every row (SQLSTATE {error.sqlstate})")
        passing = refused_for_now(error)
        if passing is not None:
            return passing
    if isinstance(error, OSError) and is_full(error):
        return disk_full()
    log.error("cannot create shape %s", shape.handle, exc_info=error)
    return ShapeError(500, {"message": "Unexpected error while creating snapshot"})
