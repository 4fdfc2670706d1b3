"""Shapes of one table that share a transaction: each is exact, and none suffers from another one.

A lock on the table holds the first two transactions back, so that all who come after them wait, and share the third.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from switchgear_shapes.postgres.conninfo import parse_url
from switchgear_shapes.postgres.session import PostgresError, Session
from switchgear_shapes.together import AT_ONCE, LATE_TICKS, QUICK_TICKS, TICK_SECONDS, TOGETHER, Line, Watch
from tests.shapes.server import Client, ShapesServer, one_version
from tests.support.postgres import Database

GROUPS = 40
ROWS = """
CREATE TABLE items (id int PRIMARY KEY, g int NOT NULL, v int);
INSERT INTO items SELECT i, i % 40, i % 7 FROM generate_series(1, 800) i;
CREATE INDEX ON items (g);
"""
FIRST = ["v = 100", "v = 101"]
"""Shapes that take the first two transactions."""


# -- who shares --


def test_more_share_as_long_as_they_are_quick() -> None:
    line: Line[int] = Line()
    sizes = []
    for _ in range(7):
        line.waiting.extend(range(100))
        taken = line.take()
        sizes.append(len(taken))
        line.waiting.clear()
        line.ended(len(taken), QUICK_TICKS)
    assert sizes == [1, 2, 4, 8, 16, 16, 16]
    assert sizes[-1] == TOGETHER
    line.running += 1
    line.ended(16, QUICK_TICKS + 1)
    assert line.limit == 8
    line.running += 1
    line.let_go()
    assert (line.limit, line.running, line.idle) == (1, 0, True)


def test_few_do_not_raise_the_limit() -> None:
    line: Line[int] = Line()
    line.limit, line.running = 4, 1
    line.ended(3, 0)
    assert line.limit == 4


def test_nobody_waits_for_company_but_behind_others() -> None:
    line: Line[int] = Line()
    line.limit = 4
    for number in range(AT_ONCE):
        line.waiting.append(number)
        assert line.take() == [number]
    line.waiting.extend([7, 8, 9])
    assert line.take() == []
    line.waiting.append(10)
    assert line.take() == [7, 8, 9, 10]
    line.waiting.append(11)
    line.ended(1, 0)
    assert line.take() == []
    line.ended(1, 0)
    assert line.take() == [11]
    line.let_go()
    line.waiting.extend([12, 13])
    assert [line.take(), line.take()] == [[12], [13]], "alone, nobody waits"


async def test_a_watch_counts_the_loop_s_ticks() -> None:
    told: list[str] = []
    watch = Watch(TICK_SECONDS / 2, lambda: told.append("silent"), lambda: told.append("late"))
    watch.expect()
    watch.seen()
    time.sleep(TICK_SECONDS * (LATE_TICKS + 2))  # noqa: ASYNC251 - the loop stands still: nothing could have come
    await asyncio.sleep(0)
    assert told == []
    watch.expect()
    for _ in range(1000):
        if len(told) < 2:
            await asyncio.sleep(TICK_SECONDS)
    assert told == ["silent", "late"]
    watch.stop()


# -- several COPYs in one message --

pg = pytest.mark.pg


@pg
@one_version
async def test_each_copy_has_its_own_rows_and_its_own_failure(database: Database) -> None:
    session = await Session.connect(parse_url(database.url))
    count = "COPY (SELECT generate_series({}, {})) TO STDOUT"
    failing = "COPY (SELECT 1 / (3 - i) FROM generate_series(1, 5) i) TO STDOUT"
    await session.start_copy("; ".join(["BEGIN", count.format(1, 3), count.format(1, 0), failing, count.format(7, 7)]))
    assert await _rows(session) == [b"1\n", b"2\n", b"3\n"]
    await session.next_copy()
    assert await _rows(session) == []
    await session.next_copy()
    with pytest.raises(PostgresError, match="division by zero"):
        await _rows(session)
    assert not session.usable, "it is in a failed transaction"
    await session.query("ROLLBACK")
    await session.start_copy(f"{count.format(1, 1)}; COPY (SELECT missing) TO STDOUT; {count.format(2, 2)}")
    assert await _rows(session) == [b"1\n"], "what fails next is not its failure"
    with pytest.raises(PostgresError, match="missing"):
        await session.next_copy()
    assert session.usable
    await session.start_copy(f"BEGIN; {count.format(1, 1)}; {count.format(2, 2)}; ROLLBACK")
    assert await _rows(session) == [b"1\n"]
    await session.next_copy()
    assert await _rows(session) == [b"2\n"]
    await session.end_copies()
    assert session.usable
    session.close()


async def _rows(session: Session) -> list[bytes]:
    return [row async for rows in session.copy_blocks(1024, more=True) for row in rows]


# -- a server whose shapes share --


class Storm:
    """Requests for shapes of `items` that wait for a lock on the table, in their order."""

    def __init__(self, database: Database, server: ShapesServer) -> None:
        self.database = database
        self.server = server
        self._threads = ThreadPoolExecutor(60)

    @contextmanager
    def locked(self, change: str = "SELECT 1", unique: int = 0) -> Iterator[None]:
        """Within: nobody can read the table, and two transactions wait for that. `change` comes at the end."""
        with self.database.connect(autocommit=False) as connection:
            connection.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
            self.server.wait(lambda: self.running() == 0, 60, "what came before is durable")
            for where in FIRST:
                self.ask(f"{where} AND id <> {-unique}")
            yield
            connection.execute(change.encode())
            connection.commit()

    def ask(self, where: str) -> Future[httpx.Response]:
        """A request; returns once its shape waits."""
        before = self.running()
        found = self._threads.submit(self.server.get, table="items", where=where, offset="-1")
        self.server.wait(lambda: self.running() > before, 60, "it waits")
        return found

    def running(self) -> float:
        return self.server.metric("switchgear_snapshots_running")

    def rows(self, where: str) -> set[tuple[str, ...]]:
        with self.database.connect() as connection:
            found = connection.execute(f"SELECT id::text, g::text, v::text FROM items WHERE {where}".encode())
            return set(found.fetchall())

    def check(self, where: str, asked: Future[httpx.Response]) -> None:
        """The answer has the rows that Postgres has."""
        response = asked.result(60)
        assert response.status_code == 200, response.text
        values = [message["value"] for message in json.loads(response.content) if "value" in message]
        assert {(value["id"], value["g"], value["v"]) for value in values} == self.rows(where)
        assert len(values) == len(self.rows(where))

    def transactions(self) -> float:
        return self.server.metric("switchgear_snapshots_transactions_total")

    def close(self) -> None:
        self._threads.shutdown()


@pytest.fixture
def storm(database: Database, make_server: Callable[..., ShapesServer]) -> Iterator[Storm]:
    database.execute(ROWS)
    server = make_server(module="tests.shapes.sharing", ELECTRIC_ENABLE_INTEGRATION_TESTING="true").start()
    server.get(table="items", offset="-1")
    made = Storm(database, server)
    yield made
    made.close()


@pg
@one_version
def test_those_who_wait_share_a_transaction(storm: Storm) -> None:
    before = storm.transactions()
    wheres = [f"g = {number}" for number in range(TOGETHER - 1)]
    with storm.locked():
        asked = [storm.ask(where) for where in wheres]
    for where, answer in zip(wheres, asked, strict=True):
        storm.check(where, answer)
    assert storm.transactions() - before == 3
    marks = {json.loads(answer.result().content)[-1]["headers"]["xmax"] for answer in asked}
    assert len(marks) == 1


@pg
@one_version
def test_a_failing_copy_fails_its_shape_alone(storm: Storm) -> None:
    wheres = ["g = 1", "g = 2", "g = 3", "g = 4"]
    with storm.locked():
        good = [storm.ask(where) for where in wheres[:2]]
        bad = storm.ask("6 / v > 1")  # there are rows with 0
        good += [storm.ask(where) for where in wheres[2:]]
        worse = storm.ask("6 / (v - 1) > 1")
    for where, answer in zip(wheres, good, strict=True):
        storm.check(where, answer)
    for answer in (bad, worse):
        assert answer.result(60).status_code == 400
        assert "SQLSTATE 22012" in answer.result().json()["errors"]["where"][0]
    storm.server.wait(lambda: storm.running() == 0, 60, "nothing is left over")
    assert storm.server.metric("switchgear_snapshots_failed_total") == 2
    storm.database.execute("INSERT INTO items VALUES (9001, 3, 1), (9002, 4, 1)")
    for where in wheres:
        client = Client(storm.server, table="items", where=where)
        client.sync()
        storm.server.wait(lambda c=client, w=where: bool(c.sync() or len(c.rows) == len(storm.rows(w))), 60, where)


@pg
@one_version
def test_nobody_waits_for_a_slow_one(storm: Storm) -> None:
    """Its backend is stopped within its COPY: those behind it in the same transaction come all the same."""
    storm.database.execute("INSERT INTO items SELECT i, 1000, 1 FROM generate_series(10001, 200000) i; ANALYZE items")
    for attempt in range(10):
        slow = f"g = 1000 AND v < {1000 + attempt}"
        wheres = [f"g = {number} AND v >= {-attempt}" for number in range(10)]
        stopped: list[int] = []
        caught = False
        stopping = threading.Thread(target=_stop, args=(storm, f"COPY%{1000 + attempt}%COPY%", stopped))
        with storm.locked(unique=attempt):
            storm.ask(slow)
            behind = [storm.ask(where) for where in wheres]
            stopping.start()
        stopping.join()
        try:
            for where, answer in zip(wheres, behind, strict=True):
                storm.check(where, answer)
            if stopped:  # else it was over too soon, as it may be when its backend is stopped a moment too late
                storm.server.wait(lambda: storm.running() <= 1, 60, "the slow one only")
                caught = storm.running() == 1
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        storm.server.wait(lambda: storm.running() == 0, 60, "the slow one comes to its end")
        if caught:
            break
    else:
        pytest.fail("no slow COPY could be stopped")
    assert _count(storm.server, slow) == 190000
    assert storm.server.metric("switchgear_snapshots_failed_total") == 0


def _count(server: ShapesServer, where: str) -> int:
    """How many rows the shape has, read to its end."""
    response = server.get(table="items", where=where, offset="-1")
    found = response.content.count(b'"operation":"insert"')
    while "electric-up-to-date" not in response.headers:
        known = {"handle": response.headers["electric-handle"], "offset": response.headers["electric-offset"]}
        response = server.get(table="items", where=where, **known)
        found += response.content.count(b'"operation":"insert"')
    return found


def _stop(storm: Storm, query: str, stopped: list[int]) -> None:
    """Stop the backend that runs a query like this, if it comes within seconds."""
    with storm.database.connect() as connection:
        for _ in range(500):
            found = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE %s", [query]
            ).fetchone()
            if found:
                os.kill(found[0], signal.SIGSTOP)
                stopped.append(found[0])
                return
            time.sleep(0.005)


@pg
@one_version
def test_one_that_is_deleted_meanwhile_takes_no_other_along(storm: Storm) -> None:
    delete = lambda where: storm.server.http.delete(  # noqa: E731
        storm.server.shape_url, params={"table": "items", "where": where}
    )
    wheres = ["g = 1", "g = 2", "g = 3"]
    with storm.locked():
        first = storm.ask("g = 20")
        kept = [storm.ask(where) for where in wheres[:2]]
        later = storm.ask("g = 21")
        kept.append(storm.ask(wheres[2]))
        for where in ("g = 20", "g = 21"):
            assert delete(where).status_code == 202
    for where, answer in zip(wheres, kept, strict=True):
        storm.check(where, answer)
    for where, answer in (("g = 20", first), ("g = 21", later)):  # asked again, as the table might have changed
        storm.check(where, answer)


@pg
@one_version
def test_a_table_that_was_altered_meanwhile_is_read_as_it_is(storm: Storm) -> None:
    wheres = ["g = 1", "g = 2", "g = 3"]
    with storm.locked("ALTER TABLE items ADD COLUMN w int DEFAULT 5"):
        asked = [storm.ask(where) for where in wheres]
    for where, answer in zip(wheres, asked, strict=True):
        storm.check(where, answer)
        assert json.loads(answer.result().content)[0]["value"]["w"] == "5"


@pg
@one_version
def test_a_client_that_has_gone_takes_no_other_along(storm: Storm) -> None:
    wheres = ["g = 1", "g = 2", "g = 3"]
    with storm.locked():
        asked = [storm.ask(wheres[0])]
        patience = httpx.Timeout(20, read=0.2)
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(
                storm.server.shape_url, params={"table": "items", "where": "g = 9", "offset": "-1"}, timeout=patience
            )
        asked += [storm.ask(where) for where in wheres[1:]]
    for where, answer in zip(wheres, asked, strict=True):
        storm.check(where, answer)
    storm.check("g = 9", storm._threads.submit(storm.server.get, table="items", where="g = 9", offset="-1"))


@pytest.mark.pg
def test_shared_snapshots_and_the_stream_are_exact(storm: Storm) -> None:
    """Rows move between shapes while these are made, many at a time: nothing is lost, doubled or seen twice."""
    rng = random.Random(17)
    done = threading.Event()

    def write() -> None:
        with storm.database.connect() as connection:
            while not done.is_set():
                for _ in range(rng.randrange(1, 5)):
                    moved = rng.randrange(1, 801)
                    connection.execute(f"UPDATE items SET g = {rng.randrange(GROUPS)}, v = v + 1 WHERE id = {moved}")

    with ThreadPoolExecutor(GROUPS + 1) as threads:
        writing = threads.submit(write)
        before = storm.transactions()
        clients: list[Client] = []
        for text in ("g = {}", "g = {} AND v >= 0", "g IN ({0}, -1) AND v < 1000000"):
            made = [Client(storm.server, table="items", where=text.format(group)) for group in range(GROUPS)]
            list(threads.map(lambda client: client.step(), made))
            clients += made
        taken = storm.transactions() - before
        done.set()
        writing.result(60)
    # How many share depends on how close together a busy machine lets them arrive; that some do is enough here.
    assert taken < len(clients), f"{len(clients)} shapes took {taken} transactions"
    with storm.database.connect() as connection:
        row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()
        assert row is not None
    storm.database.execute("UPDATE items SET v = v WHERE id = 1")
    for client in clients:
        client.sync_past(int(row[0]))
        have = {(value["id"], value["g"], value["v"]) for value in client.rows.values()}
        assert have == storm.rows(client.params["where"]), client.params
