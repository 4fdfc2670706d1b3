"""What happens without a word in the stream to the tables of subqueries ends the shapes that it makes untrue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.shapes.server import Client
from tests.shapes.test_behind_the_back import REWRITES, is_what_select_gives
from tests.shapes.world import World, running
from tests.support.postgres import Postgres


@pytest.fixture(scope="module")
def world(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running(postgres, tmp_path_factory.mktemp("subqueries")) as world:
        yield world


class RowClient(Client):
    """Follows rows, and leaves the events about conditions alone."""

    def apply(self, message: dict[str, Any]) -> None:
        if "event" not in message["headers"]:
            super().apply(message)


class Asking:
    """A table of which shapes ask, and shapes of another one that read it in all ways."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked = world.table(
            "id int PRIMARY KEY, n numeric(10, 2), u text, t text", "VALUES (1, 1.55, 'two', 'one'), (2, 0.4, 'x', 'y')"
        )
        self.between = world.table("id int PRIMARY KEY, t text", "VALUES (1, 'one'), (2, 'two'), (3, 'new')")
        self.table = world.table(
            "id int PRIMARY KEY, o int, t text", "VALUES (1, 1, 'one'), (2, 2, 'two'), (3, 3, 'new'), (4, 4, 'ONE')"
        )
        self.clauses = [
            f"t IN (SELECT t FROM {self.asked})",
            f"o NOT IN (SELECT id FROM {self.asked} WHERE t = 'one' AND n > 1.5 AND n < 1.6)",
            f"o IN (SELECT id FROM {self.between} WHERE t IN (SELECT t FROM {self.asked} WHERE n < 1.6))",
        ]
        self.clients = {clause: self.follow(clause) for clause in self.clauses}
        self.unconcerned = f"o IN (SELECT id FROM {self.asked} WHERE id < 3)"
        self.bystander = self.follow(self.unconcerned)

    def follow(self, clause: str) -> Client:
        client = RowClient(self.world.server, table=self.table, where=clause)
        client.sync()
        return client

    def wait(self, what: str) -> None:
        for clause, client in {**self.clients, self.unconcerned: self.bystander}.items():

            def right(clause: str = clause, client: Client = client) -> bool:
                return is_what_select_gives(client, self.world.database, f"{self.table} WHERE {clause}")

            self.world.server.wait(right, 60, f"{what}: {clause}")


SEEN = {
    "by a write": lambda a: a.world.database.execute(f"INSERT INTO {a.asked} (id, n, t) VALUES (3, 1.55, 'two')"),
    "by a shape": lambda a: a.world.get(a.asked, where="id = 17"),
    "by a subquery": lambda a: a.world.get(a.table, where=f"t IN (SELECT t FROM {a.asked} WHERE id <> 17)"),
}


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("how", REWRITES)
def test_values_of_a_subquery_s_table_replaced_by_ddl(world: World, how: str, seen: str) -> None:
    asking = Asking(world)
    world.database.execute(REWRITES[how].format(t=asking.asked))
    SEEN[seen](asking)
    asking.wait("after the change")
    assert asking.bystander.restarts == 0
    world.database.execute(f"UPDATE {asking.asked} SET t = 'two', n = 1.55 WHERE id = 1")
    asking.wait("after a write")


def test_rows_go_with_values_that_were_replaced(world: World) -> None:
    """The stream says that rows went which the subquery never had."""
    asking = Asking(world)
    with world.database.connect() as connection, connection.transaction():
        connection.execute(REWRITES["a column made again"].format(t=asking.asked).encode())
        connection.execute(f"DELETE FROM {asking.asked} WHERE id = 1".encode())
    asking.wait("after the change")
    world.database.execute(f"INSERT INTO {asking.asked} VALUES (5, 1.55, 'two', 'one')")
    asking.wait("after a write")


def test_values_replaced_while_nobody_ran(world: World) -> None:
    asking = Asking(world)
    world.server.stop()
    world.database.execute(REWRITES["a column made again"].format(t=asking.asked))
    world.server.start()
    asking.wait("after the start")
    assert [client.restarts for client in asking.clients.values()] == [1, 1, 1]
    assert asking.bystander.restarts == 0


def test_rows_that_take_each_other_s_keys(world: World) -> None:
    """In the shape's own table, also beside a move; a subquery counts values, and does not mind."""
    deferrable = "id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, o int, t text"
    rows = "SELECT g, g % 2, 'text ' || g FROM generate_series(1, 3) g"
    table, asked = world.table(deferrable, rows), world.table(deferrable, rows)
    plain = world.table("id int PRIMARY KEY, o int, t text", rows)
    where = f"o IN (SELECT o FROM {asked} WHERE id > 0)"
    clients = [RowClient(world.server, table=table, where=where, replica=kind) for kind in ("default", "full")]
    asking = f"id IN (SELECT id FROM {asked} WHERE t <> '')"
    bystander = RowClient(world.server, table=plain, where=asking)

    def right() -> bool:
        own = all(is_what_select_gives(client, world.database, f"{table} WHERE {where}") for client in clients)
        return own and is_what_select_gives(bystander, world.database, f"{plain} WHERE {asking}")

    world.server.wait(right, 60, "the beginning")
    for statement in (
        "UPDATE {t} SET id = id + 1",
        "UPDATE {t} SET id = 5 - id WHERE id IN (2, 3)",
        "INSERT INTO {t} VALUES (4, 1, 'double'); DELETE FROM {t} WHERE id = 4 AND t <> 'double'",
        "UPDATE {a} SET o = 7 WHERE o = 1; UPDATE {t} SET id = id + 1",
        "UPDATE {a} SET id = 3 - id WHERE id IN (1, 2)",
        "UPDATE {a} SET id = id + 1",
        "UPDATE {t} SET id = 100 WHERE id = 4; INSERT INTO {t} VALUES (17, 1, 'new')",
    ):
        world.database.execute(statement.format(t=table, a=asked))
        world.server.wait(right, 60, statement)
    assert [client.restarts for client in [*clients, bystander]] == [4, 4, 0]


def test_what_leaves_a_subquery_s_values_alone_ends_nothing(world: World) -> None:
    asking = Asking(world)
    for statement in (
        f"ALTER TABLE {asking.asked} ALTER COLUMN n SET NOT NULL",
        f"ALTER TABLE {asking.asked} ADD COLUMN more int DEFAULT 7",
        f"VACUUM FULL {asking.between}",
        f"UPDATE {asking.asked} SET t = 'ONE' WHERE id = 1",
        f"UPDATE {asking.between} SET t = 'ONE' WHERE id = 2",
    ):
        with world.database.connect() as connection:
            connection.execute(statement.encode())
    asking.wait("after the writes")
    assert [client.restarts for client in asking.clients.values()] == [0, 0, 0]
