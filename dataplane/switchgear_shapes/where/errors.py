"""The one error of a where clause that cannot be taken: its text is what clients see."""

from __future__ import annotations


class WhereError(ValueError):
    """The clause (or the ORDER BY list, or its parameters) is refused. `field` is where HTTP says so."""

    def __init__(self, message: str, field: str = "where") -> None:
        super().__init__(message)
        self.message = message
        self.field = field


def at(location: int, message: str) -> WhereError:
    """An error at an offset of the clause's text."""
    return WhereError(f"At location {max(location, 0)}: {message}")


class TooLarge(Exception):
    """A row's value is so large that evaluating a clause on it would keep everybody waiting."""

    def __init__(self) -> None:
        super().__init__("a value of its table is too large for its filter to be evaluated on the stream")
