"""What went wrong with a connection: libpq's text → a stable reason and a sentence with the way out. Pure.

libpq gives no SQLSTATE for a connection that was never made, so its English text is matched; anything else
falls back to a general reason. The server's text itself is never passed on: it may quote what was sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from switchgear_model.conditions import Reason


@dataclass(frozen=True, slots=True)
class Fault:
    """`transient`: trying again may help by itself."""

    reason: Reason
    message: str
    transient: bool


_R = Reason
#: (texts of which one must occur, in lower case) → fault. The first match wins.
_CONNECT: Final[tuple[tuple[tuple[str, ...], Fault], ...]] = (
    (
        ("password authentication failed", "no password supplied", "authentication failed for user"),
        Fault(
            _R.DATABASE_AUTHENTICATION_FAILED,
            "The database refused user or password. Put the right URL into the Secret.",
            False,
        ),
    ),
    (
        ('role "', "is not permitted to log in"),
        Fault(
            _R.DATABASE_AUTHENTICATION_FAILED,
            "The database has no such role, or it may not log in: CREATE ROLE … LOGIN REPLICATION.",
            False,
        ),
    ),
    (
        ("no pg_hba.conf entry",),
        Fault(
            _R.DATABASE_NOT_ADMITTED,
            "The database does not admit this user, address or encryption: allow it in pg_hba.conf (or the provider's "
            "firewall), or add ?sslmode=require to the URL.",
            False,
        ),
    ),
    (
        ("server does not support ssl", "ssl connection is required", "sslmode", "certificate", "ssl error", "tls"),
        Fault(
            _R.DATABASE_TLS_FAILED,
            "TLS with the database failed. Set sslmode in the URL to what the server offers: require for most "
            "providers, verify-full with a public certificate, disable only inside a private network.",
            False,
        ),
    ),
    (
        ("too many connections", "remaining connection slots", "too many clients"),
        Fault(_R.DATABASE_BUSY, "The database has no free connection. Raise max_connections or free some.", True),
    ),
    (
        ("starting up", "shutting down", "recovery mode", "not yet accepting connections"),
        Fault(_R.DATABASE_UNREACHABLE, "The database is starting or stopping. It is tried again.", True),
    ),
    (
        ("could not translate host name", "name or service not known", "failed to resolve", "nodename nor servname"),
        Fault(_R.DATABASE_UNREACHABLE, "The database's host name cannot be resolved. Check the host in the URL.", True),
    ),
    (
        ("timeout", "timed out"),
        Fault(
            _R.DATABASE_UNREACHABLE,
            "The database did not answer in time. Check host, port and firewall. It is tried again.",
            True,
        ),
    ),
    (
        ("connection refused", "no route to host", "network is unreachable", "closed the connection", "reset by peer"),
        Fault(
            _R.DATABASE_UNREACHABLE,
            "Nothing accepts connections at the database's address. Check host, port and firewall, and whether the "
            "database runs. It is tried again.",
            True,
        ),
    ),
)
_DATABASE_MISSING: Final = Fault(
    _R.DATABASE_NOT_FOUND, "The server has no database of the URL's name. Create it, or correct the URL.", False
)
_UNKNOWN: Final = Fault(
    _R.DATABASE_UNREACHABLE, "Connecting to the database failed. Check the URL and the database's log.", True
)
TIMED_OUT: Final = Fault(
    _R.DATABASE_UNREACHABLE, "The database did not answer in time. Check host, port and firewall.", True
)


def connection_fault(text: str, sqlstate: str | None = None) -> Fault:
    """The fault behind a failed connection."""
    lower = text.lower()
    if sqlstate == "3D000" or ('database "' in lower and "does not exist" in lower):
        return _DATABASE_MISSING
    for needles, fault in _CONNECT:
        if needles[0] == 'role "':
            if "is not permitted to log in" in lower or ('role "' in lower and "does not exist" in lower):
                return fault
        elif any(needle in lower for needle in needles):
            return fault
    return _UNKNOWN


def query_fault(sqlstate: str | None, doing: str) -> Fault:
    """The fault behind a query that failed once connected; `doing` is what we were about."""
    if sqlstate == "42501":
        return Fault(_R.REPLICATION_NOT_PERMITTED, f"The role in the URL may not {doing}. Grant it the right.", False)
    if sqlstate == "55006":
        return Fault(_R.DATABASE_BUSY, f"Could not {doing}: in use by another session. It is tried again.", True)
    shown = f" (SQLSTATE {sqlstate})" if sqlstate and sqlstate.isalnum() else ""
    return Fault(_R.DATABASE_ERROR, f"Could not {doing}{shown}. See the database's log. It is tried again.", True)
