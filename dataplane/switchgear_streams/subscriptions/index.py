"""Who may want a stream of this name? An index over many patterns and names. Pure.

A pattern is found under its literal first segments, so that a name asks only those that begin as it does. What is found
is a candidate: whether it does want the stream, it says itself.
"""

from __future__ import annotations

from typing import Generic, TypeVar

Owner = TypeVar("Owner")


class Index(Generic[Owner]):
    """See the module. Owners are told apart by their hash and come in the order in which they were added."""

    def __init__(self) -> None:
        self._patterns: dict[bytes, dict[Owner, None]] = {}
        self._names: dict[bytes, dict[Owner, None]] = {}

    def add_pattern(self, prefix: bytes, owner: Owner) -> None:
        """`prefix`: `Glob.prefix`."""
        self._patterns.setdefault(prefix, {})[owner] = None

    def drop_pattern(self, prefix: bytes, owner: Owner) -> None:
        _drop(self._patterns, prefix, owner)

    def add_name(self, name: bytes, owner: Owner) -> None:
        self._names.setdefault(name, {})[owner] = None

    def drop_name(self, name: bytes, owner: Owner) -> None:
        _drop(self._names, name, owner)

    def candidates(self, key: bytes) -> dict[Owner, None]:
        """A new dictionary; each owner once."""
        patterns = self._patterns
        found = {**patterns.get(b"", {}), **self._names.get(key, {})}
        at = key.find(b"/", 1)
        while at > 0:
            some = patterns.get(key[:at])
            if some is not None:
                found.update(some)
            at = key.find(b"/", at + 1)
        some = patterns.get(key)
        if some is not None:
            found.update(some)
        return found


def _drop(under: dict[bytes, dict[Owner, None]], key: bytes, owner: Owner) -> None:
    owners = under.get(key)
    if owners is not None:
        owners.pop(owner, None)
        if not owners:
            del under[key]
