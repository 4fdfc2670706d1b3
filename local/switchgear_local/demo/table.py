"""The demo's table: made when missing, then changed a little now and then. All its SQL is here.

It never holds more than MAX_ROWS rows for long. One connection, made anew after any error.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from . import TABLE

MAX_ROWS = 14
MAX_TITLE = 80
_CONNECT_SECONDS = 10
_STATEMENT_SECONDS = 10.0

_TITLES = (
    "Water the plants",
    "Ship the release",
    "Review the pull request",
    "Book the train",
    "Call the plumber",
    "Write the changelog",
    "Rotate the keys",
    "Feed the cat",
    "Sharpen the pencils",
    "Upgrade Postgres",
    "Buy coffee beans",
    "Plan the offsite",
    "Fix the flaky test",
    "Answer the letters",
    "Clean the whiteboard",
    "Draw the diagram",
    "Tune the piano",
    "Archive the logs",
)
_FIRST = 6


@dataclass(frozen=True)
class Change:
    """What was done to the table: `verb` is added, finished, reopened, renamed or removed."""

    verb: str
    title: str


class Table:
    """The table in the database at `url`. Not for concurrent use from several event loops."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None
        self._lock = asyncio.Lock()
        self._random = random.Random()  # noqa: S311 - it chooses what the demo does next

    async def prepare(self) -> None:
        """Makes the table and its first rows when there are none. Raises psycopg.Error, OSError or TimeoutError."""
        await self._run(
            "CREATE TABLE IF NOT EXISTS {table} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
            " title text NOT NULL, done boolean NOT NULL DEFAULT false, updated_at timestamptz NOT NULL DEFAULT now())"
        )
        if (await self._run("SELECT count(*) FROM {table}"))[0][0] == 0:
            titles = self._random.sample(_TITLES, _FIRST)
            await self._run("INSERT INTO {table} (title) SELECT unnest(%s::text[])", [titles])

    async def change_something(self) -> Change | None:
        """Adds, finishes, reopens, renames or removes a row; None when there was nothing to do it to."""
        rows = await self._run("SELECT id, title, done FROM {table} ORDER BY id")
        if len(rows) >= MAX_ROWS:
            return await self._remove(next((row for row in rows if row[2]), rows[0]))
        choice = self._random.random()
        if len(rows) < _FIRST or choice < 0.35:
            return await self.add(self._new_title({str(row[1]) for row in rows}))
        row = self._random.choice(rows)
        if choice < 0.75:
            return await self.set_done(int(row[0]), not row[2])
        if choice < 0.9 or len(rows) <= _FIRST:
            return await self._rename(row)
        return await self._remove(row)

    async def add(self, title: str) -> Change:
        """A new row."""
        await self._run("INSERT INTO {table} (title) VALUES (%s)", [title[:MAX_TITLE]])
        return Change("added", title[:MAX_TITLE])

    async def set_done(self, row_id: int, done: bool) -> Change | None:
        """Finishes or reopens a row; None when there is no such row."""
        query: LiteralString = (
            "UPDATE {table} SET done = %s, updated_at = clock_timestamp() WHERE id = %s RETURNING title"
        )
        rows = await self._run(query, [done, row_id])
        return Change("finished" if done else "reopened", str(rows[0][0])) if rows else None

    async def close(self) -> None:
        """Closes the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _rename(self, row: tuple[Any, ...]) -> Change:
        title = str(row[1]).removesuffix("!") if str(row[1]).endswith("!") else f"{row[1]}!"
        query: LiteralString = "UPDATE {table} SET title = %s, updated_at = clock_timestamp() WHERE id = %s"
        await self._run(query, [title[:MAX_TITLE], row[0]])
        return Change("renamed", title)

    async def _remove(self, row: tuple[Any, ...]) -> Change:
        await self._run("DELETE FROM {table} WHERE id = %s", [row[0]])
        return Change("removed", str(row[1]))

    def _new_title(self, used: set[str]) -> str:
        free = [title for title in _TITLES if title not in used]
        return self._random.choice(free or list(_TITLES))

    async def _run(self, query: LiteralString, values: list[Any] | None = None) -> list[tuple[Any, ...]]:
        composed = sql.SQL(query).format(table=sql.Identifier(TABLE))
        async with self._lock:
            try:
                async with asyncio.timeout(_STATEMENT_SECONDS + _CONNECT_SECONDS):
                    connection = await self._connected()
                    cursor = await connection.execute(composed, values)
                    return await cursor.fetchall() if cursor.description else []
            except BaseException:
                await self.close()
                raise

    async def _connected(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            self._connection = await psycopg.AsyncConnection.connect(
                self._url, autocommit=True, connect_timeout=_CONNECT_SECONDS, application_name="switchgear-demo"
            )
        return self._connection
