"""A strict reader of one shape: follows offset, handle and cursor as Electric's clients do, and keeps all it is told.

Stricter than the clients: an offset that goes back, a row inserted twice, or an update of a row that is not there is an
error at once, because it means that a change was repeated or lost.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import httpx


class ShapeError(AssertionError):
    """The server broke the protocol's promise."""


class ShapeFollower:
    """Runs in a thread until `stop`. `rows` is the materialised state by key; `history` every change in order."""

    def __init__(self, url: str, params: dict[str, str]) -> None:
        self.url = url
        self.params = params
        self.rows: dict[str, dict[str, Any]] = {}
        self.history: list[dict[str, Any]] = []
        self.refetches = 0
        self.up_to_date = threading.Event()
        self.error: BaseException | None = None
        self._offset = "-1"
        self._handle: str | None = None
        self._cursor: str | None = None
        self._live = False
        self._last: tuple[int, int] = (-1, -1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> ShapeFollower:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Raises what the reader found wrong. The thread ends by itself, at the latest with its long-poll."""
        self._stop.set()
        self._thread.join(0.5)
        if self.error is not None:
            raise self.error

    def wait_for(self, condition: Any, timeout: float, what: str) -> None:
        """Wait until condition(self) holds. Raises AssertionError after `timeout` s, or what the thread raised."""
        deadline = time.monotonic() + timeout
        while not condition(self):
            if self.error is not None:
                raise self.error
            assert time.monotonic() < deadline, f"not within {timeout} s: {what} ({len(self.rows)} rows so far)"
            time.sleep(0.02)

    def _run(self) -> None:
        try:
            with httpx.Client(timeout=60) as client:
                while not self._stop.is_set():
                    self._step(client)
        except BaseException as error:
            self.error = error

    def _step(self, client: httpx.Client) -> None:
        params = dict(self.params, offset=self._offset)
        if self._handle:
            params["handle"] = self._handle
        if self._live:
            params |= {"live": "true"} | ({"cursor": self._cursor} if self._cursor else {})
        try:
            response = client.get(self.url, params=params)
        except httpx.TransportError:
            time.sleep(0.1)
            return
        if response.status_code in (429, 500, 502, 503, 504):
            time.sleep(0.1)
            return
        if response.status_code == 409:
            self.refetches += 1
            self.rows.clear()
            self.history.clear()
            self._offset, self._live, self._cursor, self._last = "-1", False, None, (-1, -1)
            self._handle = response.headers.get("electric-handle")
            self.up_to_date.clear()
            return
        if response.status_code != 200:
            raise ShapeError(f"{response.status_code}: {response.text[:300]}")
        for message in response.json():
            self._take(message)
        self._handle = response.headers["electric-handle"]
        self._offset = response.headers["electric-offset"]
        self._cursor = response.headers.get("electric-cursor")

    def _take(self, message: dict[str, Any]) -> None:
        headers = message["headers"]
        if "control" in headers:
            if headers["control"] == "up-to-date":
                self._live = True
                self.up_to_date.set()
            return
        if "lsn" in headers:
            position = (int(headers["lsn"]), int(headers["op_position"]))
            if position <= self._last:
                raise ShapeError(f"position {position} after {self._last}: a change came twice")
            self._last = position
        key, operation = message["key"], headers["operation"]
        known = self.rows.get(key)
        if operation == "insert":
            if known is not None:
                raise ShapeError(f"{key} inserted twice")
            self.rows[key] = dict(message["value"])
        elif known is None:
            raise ShapeError(f"{operation} of {key}, which is not there: its insert was lost")
        elif operation == "update":
            known.update(message["value"])
        else:
            del self.rows[key]
        self.history.append(message)
