"""Making a connection to Postgres without blocking the event loop: each address of the host in turn, within a limit.

Invariant: a connection that is not handed over is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket

from psycopg import pq

from switchgear_shapes.postgres.conninfo import PREFER_IPV6, Conninfo
from switchgear_shapes.postgres.results import ConnectionLost, PostgresError


async def connect(info: Conninfo, limit: float, **extra: str) -> pq.abc.PGconn:
    """Connect within `limit` seconds. Raises ConnectionLost, PostgresError when the server refuses."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    failure: ConnectionLost | None = None
    try:
        async with asyncio.timeout(limit):
            addresses = await _resolve(info)
        for index, address in enumerate(addresses):
            # One that does not answer must leave time for the others.
            left = (deadline - loop.time()) / (len(addresses) - index)
            connection = pq.PGconn.connect_start(
                info.render(**address, client_encoding="UTF8", application_name="switchgear-shapes", **extra)
            )
            try:
                async with asyncio.timeout(left):
                    await _poll_connect(loop, connection)
            except TimeoutError:
                connection.finish()
                failure = failure or ConnectionLost(f"no connection to the database within {limit:g} s")
            except ConnectionLost as error:
                failure = error
            else:
                connection.nonblocking = 1
                return connection
    except TimeoutError:
        raise ConnectionLost(f"the database's host name was not resolved within {limit:g} s") from None
    except OSError as error:
        raise ConnectionLost(f"cannot reach the database: {error}") from None
    raise failure or ConnectionLost("the database's host name has no address")


def resolve_waiter(future: asyncio.Future[None]) -> None:
    """For the loop's readers and writers."""
    if not future.done():
        future.set_result(None)


async def _resolve(info: Conninfo) -> list[dict[str, str]]:
    """Look the host up without blocking the loop, as libpq would: parameters for each address, in order."""
    host, port = info.params["host"], info.params["port"]
    if host.startswith(("/", "@")) or "," in host:
        return [{}]
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return [{}]
    found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    first = socket.AF_INET6 if PREFER_IPV6 in info.params else socket.AF_INET
    found.sort(key=lambda entry: entry[0] != first)
    return [{"hostaddr": address} for address in dict.fromkeys(str(entry[4][0]) for entry in found)]


async def _poll_connect(loop: asyncio.AbstractEventLoop, connection: pq.abc.PGconn) -> None:
    while True:
        if connection.status == pq.ConnStatus.BAD:
            raise _connect_error(connection)
        state = connection.connect_poll()
        if state == pq.PollingStatus.OK:
            return
        if state == pq.PollingStatus.FAILED:
            raise _connect_error(connection)
        fd = connection.socket
        ready = loop.create_future()
        reading = state == pq.PollingStatus.READING
        (loop.add_reader if reading else loop.add_writer)(fd, resolve_waiter, ready)
        try:
            await ready
        finally:
            (loop.remove_reader if reading else loop.remove_writer)(fd)


# libpq reports refusals while connecting as text only; these fragments tell those that a human must repair.
_REFUSALS = (
    ("password authentication failed", "28P01"),
    ("no pg_hba.conf entry", "28000"),
    ("does not exist", "3D000"),
    ("permission denied", "42501"),
    ("must be superuser or replication role", "42501"),
    ("too many clients", "53300"),
    ("remaining connection slots", "53300"),
    ("too many connections", "53300"),
)


def _connect_error(connection: pq.abc.PGconn) -> Exception:
    text = connection.get_error_message().strip()
    connection.finish()
    for fragment, sqlstate in _REFUSALS:
        if fragment in text and "could not translate" not in text:
            return PostgresError(sqlstate, text)
    return ConnectionLost(text)
