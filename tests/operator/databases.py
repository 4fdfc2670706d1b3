"""What a sync server would have made in a database, and roles with too few rights."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from switchgear_local.postgres import PostgresServer, find
from switchgear_model import ids


def make_slot(url: str, service_id: str) -> None:
    """The slot and the publication of a sync source."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [ids.slot_name(service_id)])
        name = sql.Identifier(ids.publication_name(service_id))
        connection.execute(sql.SQL("create publication {}").format(name))


def left(url: str, service_id: str) -> set[str]:
    """Which of "slot" and "publication" exist."""
    with psycopg.connect(url, autocommit=True) as connection:
        slots = connection.execute(
            "select 1 from pg_replication_slots where slot_name = %s", [ids.slot_name(service_id)]
        ).fetchall()
        publications = connection.execute(
            "select 1 from pg_publication where pubname = %s", [ids.publication_name(service_id)]
        ).fetchall()
    return {name for name, rows in (("slot", slots), ("publication", publications)) if rows}


@contextmanager
def role(url: str, attributes: str) -> Iterator[tuple[str, str]]:
    """A role with a password that needs escaping; yields its name and the URL with it."""
    name, password = f"r_{uuid.uuid4().hex[:12]}", "p@ss/w:rd#1"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create role {} login {} password {}").format(
                sql.Identifier(name), sql.SQL(attributes), sql.Literal(password)
            )
        )
        yield name, with_user(url, name, "p%40ss%2Fw%3Ard%231")
        connection.execute(sql.SQL("drop owned by {}").format(sql.Identifier(name)))
        connection.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def with_user(url: str, user: str, password: str) -> str:
    """The URL with other credentials (as they stand in a URL)."""
    parts = urlsplit(url)
    address = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{address}"))


@contextmanager
def server(folder: Path, **settings: str) -> Iterator[PostgresServer]:
    """A server of its own, to be stopped and started; `folder` is a temporary directory."""
    folder.chmod(0o755)  # as root, Postgres runs as another user
    made = PostgresServer(
        find(),
        folder / "pg",
        durable=False,
        settings={"shared_buffers": "32MB", **settings},
        binary_copies=folder / "binaries",
    )
    made.start()
    try:
        yield made
    finally:
        made.stop()
