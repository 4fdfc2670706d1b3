"""A client that follows a shape with subqueries in two ways at once, as the clients in use do.

`rows` (see `Client`) takes inserts, updates and deletes alone, as `Shape` of `@electric-sql/client` does. `tagged` is
what TanStack's `@tanstack/electric-db-collection` has: rows with the tags and active conditions of their headers, which
move events change; its index of tags, and how it forgets, are modelled as they are. Both must agree at all times.
"""

from __future__ import annotations

from typing import Any

from tests.shapes.server import Client


class TagClient(Client):
    """See the module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.events: list[dict[str, Any]] = []
        self._clear()

    def _clear(self) -> None:
        self.tagged: set[str] = set()
        self._tags: dict[str, set[str]] = {}
        self._conditions: dict[str, list[bool]] = {}
        self._index: list[dict[str, set[str]]] = []
        self._disjuncts: list[list[int]] | None = None

    def restart(self, handle: str | None) -> None:
        super().restart(handle)
        self._clear()

    def apply(self, message: dict[str, Any]) -> None:
        headers = message["headers"]
        if "event" in headers:
            self.messages.append(message)
            self.events.append(headers)
            self.up_to_date = False
            position = (int(headers["lsn"]), headers["op_position"])
            assert position > self.last_position
            self.last_position = position
            self._event(headers["event"], headers["patterns"])
            return
        if headers.get("control") == "snapshot-end" and "lsn" in headers:
            position = (int(headers["lsn"]), headers["op_position"])
            assert position > self.last_position
            self.last_position = position
        super().apply(message)
        if "control" in headers:
            if headers["control"] == "up-to-date":
                self._check()
            return
        self._change(message["key"], headers)

    def _change(self, key: str, headers: dict[str, Any]) -> None:
        if headers["operation"] == "delete":
            self._clear_row(key)
            self.tagged.discard(key)
            return
        assert headers["operation"] != "update" or key in self.tagged
        assert headers["tags"], "every row says why it is here"
        assert len(headers["active_conditions"]) == headers["tags"][0].count("/") + 1
        self.tagged.add(key)
        held = self._tags.setdefault(key, set())
        for tag in headers["tags"]:
            slots = tag.split("/")
            while len(self._index) < len(slots):
                self._index.append({})
            held.add(tag)
            for at, slot in enumerate(slots):
                if slot:
                    self._index[at].setdefault(slot, set()).add(key)
        if self._disjuncts is None:
            self._disjuncts = [[at for at, s in enumerate(tag.split("/")) if s] for tag in headers["tags"]]
        for tag in headers.get("removed_tags", []):
            held.discard(tag)
            self._unindex(key, tag)
        self._conditions[key] = list(headers["active_conditions"])
        assert self._visible(key), "a row came that is not in the shape"

    def _unindex(self, key: str, tag: str) -> None:
        for at, slot in enumerate(tag.split("/")):
            if slot:
                self._index[at].get(slot, set()).discard(key)

    def _clear_row(self, key: str) -> None:
        for tag in self._tags.pop(key, set()):
            self._unindex(key, tag)
        self._conditions.pop(key, None)

    def _visible(self, key: str) -> bool:
        assert self._disjuncts is not None
        return any(all(self._conditions[key][at] for at in disjunct) for disjunct in self._disjuncts)

    def _event(self, event: str, patterns: list[dict[str, Any]]) -> None:
        for pattern in patterns:
            at, value = pattern["pos"], pattern["value"]
            found = list(self._index[at].get(value, ())) if at < len(self._index) else []
            for key in found:
                self._conditions[key][at] = event == "move-in"
                if event == "move-out" and not self._visible(key):
                    self._clear_row(key)
                    self.tagged.discard(key)

    def _check(self) -> None:
        assert self.tagged == set(self.rows), "clients with tags and clients without disagree"
