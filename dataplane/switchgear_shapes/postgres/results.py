"""What Postgres answers, as the rest of the server has it: rows of text, and two kinds of failure. No I/O."""

from __future__ import annotations

from psycopg import pq

Row = tuple[str | None, ...]


class PostgresError(Exception):
    """An error that the server reported. `sqlstate` is its five-character code."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message


class ConnectionLost(Exception):
    """The connection could not be made, or broke. What was under way may or may not have happened."""


def rows_of(result: pq.abc.PGresult) -> list[Row]:
    columns = range(result.nfields)
    rows: list[Row] = []
    for row in range(result.ntuples):
        values = (result.get_value(row, column) for column in columns)
        rows.append(tuple(None if value is None else value.decode("utf-8", "replace") for value in values))
    return rows


def error_of(result: pq.abc.PGresult) -> PostgresError:
    field = result.error_field
    sqlstate = field(pq.DiagnosticField.SQLSTATE) or b""
    message = field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"unknown error"
    return PostgresError(sqlstate.decode(), message.decode("utf-8", "replace"))
