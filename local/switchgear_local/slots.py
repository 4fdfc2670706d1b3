"""Replication slots that a region leaves on databases which are not its own.

A slot keeps the database from removing WAL while nobody reads it, so a stopped region says what its slots retain, and
wiping a region drops them. Every connection has a time limit, and all of them together one more.

Must not: touch a slot or publication whose name is not derived from a service of this region, nor print a URL (it holds
a password).
"""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, field

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from switchgear_model import ids, labels

from .kubeapi import KubeApi, Object

_CONNECT_LIMIT = 5
_ALL_LIMIT = 60.0
_SLOT_RELEASE_LIMIT = 10.0


@dataclass(frozen=True)
class Source:
    """A SyncSource as far as its slot is concerned."""

    namespace: str
    name: str
    service_id: str
    url: str = field(repr=False)
    keep: bool
    """Its deletionPolicy is Orphan."""

    @property
    def slot(self) -> str:
        return ids.slot_name(self.service_id)

    @property
    def publication(self) -> str:
        return ids.publication_name(self.service_id)

    @property
    def place(self) -> str:
        """The database without credentials, for messages."""
        try:
            parts = conninfo_to_dict(self.url)
        except psycopg.Error:
            return "its database"
        return f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"


def sources(api: KubeApi) -> list[Source]:
    """Every SyncSource that may have a slot. Raises KubeError.

    The operator copies the database's URL into a Secret of its own before it makes anything there: no copy, no slot.
    """
    found = []
    for obj in api.list(labels.API_VERSION, "SyncSource"):
        service_id = obj.get("status", {}).get("serviceId", "")
        metadata = obj["metadata"]
        name = ids.database_secret_name(service_id) if service_id else ""
        copy = api.get("v1", "Secret", name, metadata["namespace"]) if name else None
        url = _value(copy, labels.DATABASE_URL_KEY) if copy is not None else None
        if url:
            keep = obj["spec"].get("deletionPolicy") == "Orphan"
            found.append(Source(metadata["namespace"], metadata["name"], service_id, url, keep))
    return found


def foreign(found: list[Source], own_port: int | None) -> list[Source]:
    """Those on databases other than the region's own Postgres (127.0.0.1 at `own_port`)."""
    return [source for source in found if not _is_own(source.url, own_port)]


def retained(found: list[Source]) -> list[str]:
    """A warning for each inactive slot: how much WAL it retains, and what to do about it."""
    warnings = []
    deadline = time.monotonic() + _ALL_LIMIT / 3
    for source in found:
        if time.monotonic() > deadline:
            warnings.append(f"{source.slot} on {source.place} was not looked at: out of time.")
            continue
        try:
            with psycopg.connect(source.url, connect_timeout=_CONNECT_LIMIT, autocommit=True) as connection:
                row = connection.execute(
                    "SELECT pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn))"
                    " FROM pg_replication_slots WHERE slot_name = %s AND NOT active",
                    [source.slot],
                ).fetchone()
        except psycopg.Error as error:
            warnings.append(
                f"The replication slot {source.slot} on {source.place} may retain WAL; the database did not say how "
                f"much ({type(error).__name__})."
            )
            continue
        if row is not None:
            warnings.append(
                f"The replication slot {source.slot} on {source.place} is inactive now and retains {row[0]} of WAL, "
                "which grows until `switchgear up` runs again. `switchgear down --wipe` drops it."
            )
    return warnings


def drop(found: list[Source]) -> list[str]:
    """Drop slot and publication of each source; a line for what was done or left, and why."""
    lines = []
    deadline = time.monotonic() + _ALL_LIMIT
    for source in found:
        if source.keep:
            lines.append(f"kept {source.slot} on {source.place}: deletionPolicy is Orphan")
            continue
        if time.monotonic() > deadline:
            lines.append(_left(source, "out of time"))
            continue
        try:
            with psycopg.connect(source.url, connect_timeout=_CONNECT_LIMIT, autocommit=True) as connection:
                connection.execute("SET statement_timeout = '10s'")
                dropped = _drop_slot(connection, source.slot)
                connection.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(source.publication)))
        except psycopg.Error as error:
            lines.append(_left(source, str(error).splitlines()[0] if str(error) else type(error).__name__))
            continue
        lines.append(f"dropped {source.slot} on {source.place}" if dropped else _left(source, "still in use"))
    return lines


def tables_left(found: list[Source], table: str) -> list[str]:
    """A line for each database of `found` that still holds `table`, which the demo made; nothing is dropped."""
    lines = []
    for place, url in {source.place: source.url for source in found}.items():
        try:
            with psycopg.connect(url, connect_timeout=_CONNECT_LIMIT, autocommit=True) as connection:
                row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [f"public.{table}"]).fetchone()
        except psycopg.Error:
            continue  # `drop` has said already that this database cannot be reached
        if row == (True,):
            lines.append(f"LEFT on {place}: the demo's table. Drop it there with DROP TABLE public.{table};")
    return lines


def _left(source: Source, why: str) -> str:
    return (
        f"LEFT on {source.place}: slot {source.slot}, publication {source.publication} ({why}). Drop them there with "
        f"SELECT pg_drop_replication_slot('{source.slot}'); DROP PUBLICATION IF EXISTS {source.publication};"
    )


def _drop_slot(connection: psycopg.Connection, slot: str) -> bool:
    deadline = time.monotonic() + _SLOT_RELEASE_LIMIT
    while True:
        row = connection.execute(
            "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s AND database = current_database()", [slot]
        ).fetchone()
        if row is None:
            return True
        if row[0] is None:
            try:
                connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
            except psycopg.errors.ObjectInUse:
                continue
            except psycopg.errors.UndefinedObject:
                return True
            return True
        if time.monotonic() > deadline:
            return False
        connection.execute("SELECT pg_terminate_backend(%s)", [row[0]])
        time.sleep(0.1)


def _value(secret: Object, key: str) -> str | None:
    encoded = secret.get("data", {}).get(key)
    if encoded is None:
        return None
    try:
        return base64.b64decode(encoded).decode()
    except ValueError:
        return None


def _is_own(url: str, own_port: int | None) -> bool:
    try:
        parts = conninfo_to_dict(url)
    except psycopg.Error:
        return False
    return own_port is not None and parts.get("host") == "127.0.0.1" and str(parts.get("port")) == str(own_port)
