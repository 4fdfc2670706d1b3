"""Clients that work while a cluster is ill-treated: one follows a shape, one writes rows and records.

Invariant: `Load` counts as acknowledged only what was answered; whatever was not may be there or not.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

import httpx
import psycopg

from tests.support import nodejs
from tests.support.region import ROOT, Endpoint, wait_until

CLIENTS = ROOT / "tests/support/node"
_PAUSE_SECONDS = 0.05
_FIRST_ROW = 10_000


class Follower:
    """Electric's client in Node, and the rows as its messages make them."""

    def __init__(self, url: str, params: dict[str, str], ca: Path) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.error = ""
        script = nodejs.script(CLIENTS / "follow_shape.mjs")
        self.process = subprocess.Popen(
            [str(nodejs.node_bin() / "node"), str(script), url, json.dumps(params)],
            stdout=subprocess.PIPE,
            text=True,
            env=nodejs.environment() | {"NODE_EXTRA_CA_CERTS": str(ca)},
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            if "error" in message:
                self.error = message["error"]
                return
            headers = message["headers"]
            try:
                self._apply(headers.get("control") or headers["operation"], message)
            except KeyError as error:
                self.error = f"{headers} of a row that was never there: {error}"
                return

    def _apply(self, what: str, message: dict[str, Any]) -> None:
        """One message. Raises KeyError when it is of a row that there is not."""
        if what == "must-refetch":
            self.rows.clear()
        elif what == "insert":
            if message["key"] in self.rows:
                raise KeyError(f"{message['key']} is inserted twice")
            self.rows[message["key"]] = message["value"]
        elif what == "update":
            self.rows[message["key"]].update(message["value"])
        elif what == "delete":
            del self.rows[message["key"]]

    def wait_rows(self, expected: dict[str, dict[str, Any]], seconds: float = 60) -> None:
        """Wait until exactly these rows are there."""
        wait_until(
            lambda: self.rows == expected or self.error,
            seconds,
            lambda: f"{len(self.rows)} rows instead of {len(expected)} {self.error}",
        )
        assert not self.error, self.error

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(60)
        self._thread.join(60)
        if self.process.stdout is not None:
            self.process.stdout.close()


class Load:
    """Writes rows to the database, and records to a stream through the edge, until it is stopped."""

    def __init__(self, database: str, streams: Endpoint, ca: Path) -> None:
        self.acknowledged: list[int] = []
        self.refused: set[int] = set()
        self._stop = threading.Event()
        self._database = database
        self._url = f"{streams.url}/load"
        headers = {**streams.bearer, "Content-Type": "application/json"}
        context = ssl.create_default_context(cafile=ca)
        self._client = httpx.Client(verify=context, trust_env=False, timeout=10, headers=headers)
        assert self._client.put(self._url).status_code == 201
        self._threads = [threading.Thread(target=work) for work in (self._rows, self._records)]
        for thread in self._threads:
            thread.start()

    def _rows(self) -> None:
        number = _FIRST_ROW
        with psycopg.connect(self._database, autocommit=True) as connection:
            while not self._stop.wait(_PAUSE_SECONDS):
                connection.execute("INSERT INTO items VALUES (%s, 'under load')", [number])
                connection.execute("UPDATE items SET title = %s WHERE id = 1", [f"at {number}"])
                connection.execute("DELETE FROM items WHERE id = %s", [number - 100])
                number += 1

    def _records(self) -> None:
        number = 0
        while not self._stop.wait(_PAUSE_SECONDS):
            number += 1
            try:
                status = self._client.post(self._url, content=json.dumps({"n": number})).status_code
            except httpx.TransportError:
                continue  # not acknowledged: it may be there or not
            if status in (200, 204):
                self.acknowledged.append(number)
            else:
                self.refused.add(status)

    def wait_progress(self) -> None:
        """Wait until records are acknowledged again."""
        before = len(self.acknowledged)
        wait_until(
            lambda: len(self.acknowledged) > before + 5,
            120,
            lambda: f"no record is acknowledged any more: {self.refused}",
        )

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def recorded(self) -> list[int]:
        """Everything in the stream, in its order."""
        found: list[int] = []
        offset = "-1"
        for _ in range(1000):
            answer = self._client.get(self._url, params={"offset": offset})
            assert answer.status_code == 200, answer.text
            found += [record["n"] for record in answer.json()]
            offset = answer.headers["stream-next-offset"]
            if answer.headers.get("stream-up-to-date") == "true":
                return found
        raise AssertionError("the stream does not end")
