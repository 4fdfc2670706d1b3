"""The errors of the shape server, each with the HTTP answer that it becomes.

Answers follow the protocol's wire texts, because clients match on them. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson


class ShapeError(Exception):
    """An expected failure: `status`, a JSON `body`, and what the caching headers need to know."""

    def __init__(
        self,
        status: int,
        body: Mapping[str, Any],
        *,
        retry_after: int | None = None,
        known: bool = False,
    ) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = orjson.dumps(body)
        self.retry_after = retry_after
        self.known = known
        """True adds `electric-internal-known-error`, by which clients tell a reported condition from a crash."""


def invalid(field: str, *texts: str) -> ShapeError:
    """400 for one request parameter."""
    return invalid_fields({field: list(texts)})


def invalid_fields(errors: Mapping[str, Any]) -> ShapeError:
    """400 for several parameters: field → list of texts."""
    return ShapeError(400, {"message": "Invalid request", "errors": errors})


def mismatch() -> ShapeError:
    """400 for a DELETE that names two different shapes."""
    return ShapeError(
        400,
        {
            "message": "The specified shape definition and handle do not match."
            " Please ensure the shape definition is correct or omit the shape handle from the request"
            " to obtain a new one."
        },
    )


def unauthorized() -> ShapeError:
    return ShapeError(401, {"message": "Unauthorized - Invalid API secret"})


def not_ready(what: str, retry_after: int = 5) -> ShapeError:
    """503: the server cannot serve this yet. `what` continues the sentence "Timeout waiting for …"."""
    return ShapeError(503, {"message": f"Timeout waiting for {what}"}, retry_after=retry_after)


def overloaded(kind: str, limit: int, retry_after: int) -> ShapeError:
    """503 of the admission control."""
    return ShapeError(
        503,
        {
            "code": "concurrent_request_limit_exceeded",
            "message": f"Concurrent {kind} request limit exceeded (limit: {limit}), please retry",
        },
        retry_after=retry_after,
        known=True,
    )


def snapshot_failed(message: str) -> ShapeError:
    """503 for a snapshot that failed for a reason which the operator of the database can remove."""
    return ShapeError(503, {"message": message}, retry_after=10, known=True)


class Unpublished(ShapeError):
    """503: stored generated columns, which Postgres could publish and the publication leaves out."""

    def __init__(self, publication: str) -> None:
        message = (
            f'Publication "{publication}" does not publish generated columns. This is a feature introduced in'
            " PostgreSQL 18 and requires setting the publication parameter 'publish_generated_columns' to 'stored'."
            " Alternatively, you can exclude them from the shape by explicitly listing which columns to fetch in the"
            " 'columns' query param."
        )
        super().__init__(503, {"message": message}, retry_after=10, known=True)


def database_unreachable() -> ShapeError:
    return ShapeError(
        503, {"code": "database_unreachable", "error": "Database is unreachable"}, retry_after=10, known=True
    )


def cannot_verify() -> ShapeError:
    return ShapeError(
        503,
        {"message": "Cannot connect to the database to verify the shape. Please try again later."},
        retry_after=1,
    )


class FatalError(Exception):
    """The process cannot go on (a failed fsync, say). The message says what to do."""


class CorruptStorage(Exception):
    """A file of the storage directory is damaged in its middle. Shapes can be made again from Postgres."""


class ShapeGone(Exception):
    """The shape was dropped while a request was using it; the client must fetch it again."""
