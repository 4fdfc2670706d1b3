"""Reads a stack's configuration: one nested mapping → values, with every problem found, each named by its path. Pure.

A reader never raises for what is wrong in the configuration; it notes the problem and gives a value to go on with, so
that one run tells all. `ConfigurationError` is raised once, at the end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_MISSING = object()
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


class ConfigurationError(Exception):
    """The stack's configuration is wrong; the message lists every problem, a line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(["The configuration of this stack is wrong:", *(f"  - {p}" for p in problems)]))
        self.problems = problems


class Reader:
    """One mapping of the configuration. Unknown fields are problems; `done` finds them."""

    def __init__(self, value: Any, path: str, problems: list[str]) -> None:
        self.path = path
        self.problems = problems
        self._known: set[str] = set()
        if not isinstance(value, Mapping):
            problems.append(f"{path}: must be a mapping of fields")
            value = {}
        self._value: Mapping[str, Any] = value

    def problem(self, field: str, text: str) -> None:
        self.problems.append(f"{self.path}.{field}: {text}")

    def has(self, field: str) -> bool:
        return self._value.get(field) is not None

    def section(self, field: str) -> Reader:
        """A nested mapping; an empty one when it is absent."""
        self._known.add(field)
        value = self._value.get(field)
        return Reader({} if value is None else value, f"{self.path}.{field}", self.problems)

    def text(self, field: str, default: str | None = None) -> str:
        """A string; without a default it must be there and not be empty."""
        value = self._get(field, default)
        if value is _MISSING:
            return ""
        if not isinstance(value, str) or (default is None and not value):
            self.problem(field, "must be a text" + ("" if default is not None else ", and not be empty"))
            return ""
        return value

    def name(self, field: str, default: str | None = None) -> str:
        """A DNS name: lower case letters, digits, `-` and `.`."""
        value = self.text(field, default)
        if value and (not _DNS_NAME.fullmatch(value) or len(value) > 253):
            self.problem(field, f"{value!r} is no DNS name; use lower case letters, digits, '-' and '.'")
        return value

    def choice(self, field: str, choices: tuple[str, ...], default: str | None = None) -> str:
        value = self.text(field, default)
        if value and value not in choices:
            self.problem(field, f"{value!r} is unknown; use one of: {', '.join(choices)}")
            return choices[0]
        return value

    def integer(self, field: str, default: int, low: int, high: int) -> int:
        value = self._get(field, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.problem(field, f"must be a whole number from {low} to {high}")
            return default
        return value

    def flag(self, field: str, default: bool) -> bool:
        value = self._get(field, default)
        if not isinstance(value, bool):
            self.problem(field, "must be true or false")
            return default
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        """A list of strings; empty when it is absent."""
        value = self._get(field, [])
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            self.problem(field, "must be a list of texts")
            return ()
        return tuple(value)

    def mapping(self, field: str) -> tuple[tuple[str, str], ...]:
        """Text → text, as pairs in the order of their names; empty when it is absent."""
        value = self._get(field, {})
        if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
            self.problem(field, "must be a mapping from text to text (quote numbers and booleans)")
            return ()
        return tuple(sorted((str(k), v) for k, v in value.items()))

    def done(self) -> None:
        """Every field has been asked for: what is left is unknown."""
        for field in self._value:
            if field not in self._known:
                self.problem(str(field), f"is unknown; fields here: {', '.join(sorted(self._known))}")

    def _get(self, field: str, default: Any) -> Any:
        self._known.add(field)
        value = self._value.get(field)
        if value is not None:
            return value
        if default is None:
            self.problem(field, "is missing")
            return _MISSING
        return default
