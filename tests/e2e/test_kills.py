"""SIGKILL to every part in turn while a writer commits and appends: nothing acknowledged is lost or doubled."""

from __future__ import annotations

import json
import threading
import time

import httpx
import psycopg
import pytest

from tests.e2e.conftest import Place
from tests.support import processes
from tests.support.region import Endpoint, Region, wait_until
from tests.support.shape_follower import ShapeFollower


class Writer:
    """Commits rows and appends records. An append whose answer it does not see is never tried again."""

    def __init__(self, database_url: str, streams: Endpoint) -> None:
        self.database_url = database_url
        self.streams = streams
        self.committed: list[int] = []
        self.acknowledged: list[int] = []
        self.unknown: set[int] = set()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._rows, self._records)]
        for thread in self._threads:
            thread.start()

    def _rows(self) -> None:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            number = 10_000
            while not self._stop.is_set():
                number += 1
                connection.execute("INSERT INTO items VALUES (%s, 'written while killing', 0)", [number])
                self.committed.append(number)
                if number % 3 == 0:
                    connection.execute("UPDATE items SET n = n + 1 WHERE id = %s", [number])
                if number % 5 == 0:
                    connection.execute("DELETE FROM items WHERE id = %s", [number - 2])
                time.sleep(0.005)

    def _records(self) -> None:
        url = f"{self.streams.url}/log"
        headers = self.streams.bearer | {"content-type": "application/json"}
        number = 0
        with httpx.Client(timeout=60) as client:
            while not self._stop.is_set():
                number += 1
                try:
                    status = client.post(url, headers=headers, content=json.dumps({"n": number})).status_code
                except httpx.ConnectError:
                    time.sleep(0.05)  # never sent
                    continue
                except httpx.TransportError:
                    self.unknown.add(number)
                    continue
                if status in (200, 204):
                    self.acknowledged.append(number)
                elif status >= 500 and status != 503:
                    self.unknown.add(number)
                else:
                    assert status == 503, status
                    time.sleep(0.05)
                time.sleep(0.002)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive()


@pytest.mark.crash
@pytest.mark.timeout(900)
def test_kill_each_part_while_writing(region: Region, running: Place) -> None:
    sync = region.endpoint(running.sync[0], running.namespace, running.sync[1])
    streams = region.endpoint(running.streams[0], running.namespace, running.streams[1])
    created = httpx.put(f"{streams.url}/log", headers=streams.bearer | {"content-type": "application/json"})
    assert created.status_code == 201

    here = str(region.data_dir)
    victims = [
        ("operator", ("switchgear-operator", here)),
        ("edge", ("switchgear-edge", here)),
        ("shapes pod", ("switchgear-shapes", sync.service_id.replace("-", "_"))),
        ("streams pod", ("switchgear-streams", streams.service_id)),
        ("kube-apiserver", ("kube-apiserver", here)),
    ]
    follower = ShapeFollower(sync.url, {"table": "items", **sync.params}).start()
    follower.wait_for(lambda f: f.up_to_date.is_set(), 30, "the snapshot")
    writer = Writer(running.database.url, streams)
    for name, texts in victims:
        time.sleep(1)
        before = set(processes.kill(*texts))
        wait_until(lambda t=texts, b=before: bool(set(processes.find(*t)) - b), 60, f"{name} was not started again")
        rows, records = len(writer.committed), len(writer.acknowledged)
        wait_until(
            lambda n=records: len(writer.acknowledged) > n + 50, 60, f"appends are not acknowledged again after {name}"
        )
        wait_until(lambda n=rows: len(writer.committed) > n, 60, f"no row is committed after {name}")
        last = writer.committed[rows]
        follower.wait_for(
            lambda f, n=last: any(m["value"].get("id") == str(n) for m in f.history), 60, f"rows after killing {name}"
        )
    time.sleep(1)
    writer.stop()

    with psycopg.connect(running.database.url) as connection:
        truth = {
            f'"public"."items"/"{i}"': {"id": str(i), "title": title, "n": None if n is None else str(n)}
            for i, title, n in connection.execute("SELECT id, title, n FROM items").fetchall()
        }
    follower.wait_for(lambda f: f.rows == truth, 60, "the shape equals the table")
    follower.stop()
    assert follower.refetches == 0, "a shape had to be fetched again: its log was lost"
    inserted = [m["value"]["id"] for m in follower.history if m["headers"]["operation"] == "insert"]
    assert [i for i in inserted if int(i) > 10_000] == [str(i) for i in writer.committed], "order of commits"

    read: list[int] = []
    offset = "-1"
    while True:
        page = httpx.get(f"{streams.url}/log", headers=streams.bearer, params={"offset": offset}, timeout=30)
        assert page.status_code == 200, page.text
        read += [record["n"] for record in page.json()]
        offset = page.headers["stream-next-offset"]
        if page.headers.get("stream-up-to-date") == "true":
            break
    assert len(read) == len(set(read)), "a record is there twice"
    assert [n for n in read if n not in writer.unknown] == writer.acknowledged, "records lost, invented or out of order"
    print(
        f"{len(writer.committed)} committed rows, {len(writer.acknowledged)} acknowledged appends,"
        f" {len(writer.unknown)} without an answer, {len(victims)} kills"
    )
