"""What somebody does to a database without a thought for who replicates it, at random, while others write.

The tables are those of `test_subqueries_oracle`. Each act is what a person or a tool does by hand: none of them tells
the stream all that it changes.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable

import psycopg

from tests.support.postgres import Database

TABLES = ("items", "loose", "users", "teams", "banned", "pairs", "amounts")
OWN = ("items", "loose")
"""Of these, shapes are made; of the others, subqueries return what shapes show."""
LAST_COLUMNS = {
    "items": "b text",
    "loose": "note text",
    "users": "name text",
    "teams": "parent int",
    "banned": "why text",
    "pairs": "grp int",
    "amounts": "n numeric",
}
WRITES = {
    "items": "INSERT INTO items (id, kind) VALUES ({n}, 'x'); UPDATE items SET kind = 'y', owner = 1 WHERE id % 7 = 3",
    "loose": "INSERT INTO loose VALUES (1, '{n}'), (2, '{n}')",
    "users": "INSERT INTO users VALUES ({n}, 1, true, 'x'); UPDATE users SET active = NOT active",
    "teams": "INSERT INTO teams VALUES ({n}, 'r1', 2); UPDATE teams SET region = 'r2' WHERE id % 2 = 0",
    "banned": "INSERT INTO banned VALUES ({n} % 6, 'spam')",
    "pairs": "INSERT INTO pairs VALUES ({n} % 4, 'x', 1)",
    "amounts": "INSERT INTO amounts VALUES ({n}, 2.5); UPDATE amounts SET n = n + 1 WHERE id > 5",
}


class Console:
    """See the module. `acts` are its methods by what they do."""

    def __init__(self, database: Database, rng: random.Random) -> None:
        self._database = database
        self._rng = rng
        self._numbers = iter(range(10_000_000, 2**31, 10))
        self.done: list[str] = []

    def act(self) -> str:
        """One of them, and what it was."""
        name = self._rng.choice(list(ACTS))
        table = self._rng.choice(TABLES)
        self.done.append(f"{name}: {table}")
        ACTS[name](self, table)
        return self.done[-1]

    def touch(self, table: str) -> None:
        """Rows that come and rows that change, if what the publication and the table are now lets anybody write."""
        with contextlib.suppress(psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.InvalidColumnReference):
            self._run(WRITES[table].format(n=next(self._numbers)))

    def _run(self, *statements: str) -> None:
        """Each in a transaction of its own; what others are in the way of is tried again."""
        for statement in statements:
            deadline = time.monotonic() + 60
            while True:
                try:
                    self._database.execute(statement)
                    break
                except (psycopg.errors.DeadlockDetected, psycopg.errors.InternalError_):
                    # "tuple concurrently updated": the server alters the same publication
                    assert time.monotonic() < deadline, statement
                except (
                    psycopg.errors.UndefinedObject,
                    psycopg.errors.DuplicateObject,
                    psycopg.errors.UniqueViolation,
                ):
                    break  # the server was quicker to mend it; at the same moment, it is an index that says so

    def _publication(self) -> str | None:
        with self._database.connect() as connection:
            row = connection.execute("SELECT pubname FROM pg_publication LIMIT 1").fetchone()
        return None if row is None else str(row[0])

    def unpublish_operations(self, table: str) -> None:
        name = self._publication()
        kind = self._rng.choice(["update", "insert, delete", "insert, update, delete"])
        self._run(f"ALTER PUBLICATION {name} SET (publish = '{kind}')")
        self.touch(table)
        self._run(f"ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate')")

    def filter_rows(self, table: str) -> None:
        filters = {"items": "id > 100", "loose": "owner > 2"}.get(table, f"{LAST_COLUMNS[table].split()[0]} IS NULL")
        self._run(f"ALTER PUBLICATION {self._publication()} SET TABLE {table} WHERE ({filters})")
        self.touch(table)

    def list_columns(self, table: str) -> None:
        first = {"loose": "owner", "banned": "user_id", "pairs": "a"}.get(table, "id")
        self._run(f"ALTER PUBLICATION {self._publication()} SET TABLE {table} ({first})")
        self.touch(table)

    def take_out_and_in(self, table: str) -> None:
        name = self._publication()
        self._run(f"ALTER PUBLICATION {name} DROP TABLE {table}")
        self.touch(table)
        if self._rng.random() < 0.7:
            self._run(f"ALTER PUBLICATION {name} ADD TABLE {table}")

    def drop_the_publication(self, table: str) -> None:
        name = self._publication()
        self._run(f"DROP PUBLICATION {name}")
        self.touch(table)
        if self._rng.random() < 0.5:
            self._run(f"CREATE PUBLICATION {name}" + (f" FOR TABLE {table}" if self._rng.random() < 0.5 else ""))

    def truncate(self, table: str) -> None:
        self._run(f"TRUNCATE {table}")

    def make_a_column_again(self, table: str) -> None:
        column, kind = LAST_COLUMNS[table].split()
        value = "7" if kind != "text" else "md5(random()::text)"  # rows of `loose` stay different
        again = f"ALTER TABLE {table} ADD COLUMN {column} {kind} {'NOT NULL' if table == 'amounts' else ''}"
        self._run(f"ALTER TABLE {table} DROP COLUMN {column}; {again} DEFAULT {value}")

    def weaken_the_identity(self, table: str) -> None:
        kind = self._rng.choice(["DEFAULT", "NOTHING"])
        self._run(f"ALTER TABLE {table} REPLICA IDENTITY {kind}")
        self.touch(table)
        if self._rng.random() < 0.5:
            self._run(f"ALTER TABLE {table} REPLICA IDENTITY FULL")

    def end_the_walsender(self, table: str) -> None:
        with self._database.connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
                " WHERE active AND database = current_database()"
            )

    def end_all_sessions(self, table: str) -> None:
        with self._database.connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    def drop_the_slot(self, table: str) -> None:
        with self._database.connect() as connection:
            row = connection.execute(
                "SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = current_database()"
            ).fetchone()
            if row is None:
                return
            connection.execute("SELECT pg_terminate_backend(%s)", [row[1]])
            try:
                connection.execute("SELECT pg_drop_replication_slot(%s)", [row[0]])
            except (psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
                return  # an instance was quicker: to read it again, or to make it anew
        self.touch(table)

    def crash_postgres(self, table: str) -> None:
        server = self._database.postgres.server
        assert server.pid is not None
        os.kill(server.pid, signal.SIGQUIT)
        deadline = time.monotonic() + 60
        while server.pid is not None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        server.start()


ACTS: dict[str, Callable[[Console, str], None]] = {
    "operations that were not published for a while": Console.unpublish_operations,
    "a row filter": Console.filter_rows,
    "a column list": Console.list_columns,
    "out of the publication, and in": Console.take_out_and_in,
    "the publication dropped": Console.drop_the_publication,
    "truncated": Console.truncate,
    "a column made again": Console.make_a_column_again,
    "another replica identity": Console.weaken_the_identity,
    "the walsender ended": Console.end_the_walsender,
    "all sessions ended": Console.end_all_sessions,
    "the slot dropped": Console.drop_the_slot,
    "Postgres crashed": Console.crash_postgres,
}
