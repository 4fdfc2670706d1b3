"""State streams for tests: changes, and what a client makes of them (the oracle: a dictionary)."""

from __future__ import annotations

from typing import Any

Rows = dict[str, Any]

RESET: dict[str, Any] = {"headers": {"control": "reset"}}


def change(kind: str, key: str, operation: str, value: Any = None) -> dict[str, Any]:
    made: dict[str, Any] = {"type": kind, "key": key, "headers": {"operation": operation}}
    return made if operation == "delete" else made | {"value": value}


def applied(rows: Rows, messages: list[Any]) -> Rows:
    """What a client that has `rows` makes of messages."""
    rows = dict(rows)
    for message in messages:
        if not isinstance(message, dict) or "headers" not in message:
            continue
        if message["headers"].get("control") == "reset":
            rows.clear()
        elif "key" in message:
            name = f"{message['type']}/{message['key']}"
            if message["headers"]["operation"] == "delete":
                rows.pop(name, None)
            else:
                rows[name] = message["value"]
    return rows
