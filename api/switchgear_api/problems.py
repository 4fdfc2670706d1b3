"""What the API answers when it cannot do what was asked: one JSON form, stable codes.

Every error is ``{"code", "message"[, "details"]}``. Messages say how to fix the cause. They never repeat a request's
values, which may hold a database URL with its password.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]

KUBERNETES_RETRY_SECONDS = 2


class Problem(Exception):
    """An answer other than success. `status` is the HTTP status, `code` is stable, `details` is JSON."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.headers = dict(headers or {})

    def body(self) -> Json:
        """The JSON body."""
        body: Json = {"code": self.code, "message": self.message}
        if self.details is not None:
            body["details"] = self.details
        return body


def not_found(what: str, name: str, where: str) -> Problem:
    """404 for a thing that is not there. `what` as in "environment"."""
    return Problem(404, "NOT_FOUND", f"There is no {what} {name!r} in {where}.")


def invalid(message: str, details: Any = None) -> Problem:
    """400 for a request that cannot be right however often it is sent."""
    return Problem(400, "INVALID_REQUEST", message, details)


def unavailable(reason: str) -> Problem:
    """503 while the Kubernetes API does not answer. The caller may try again."""
    return Problem(
        503,
        "KUBERNETES_UNAVAILABLE",
        f"The Kubernetes API cannot be used just now ({reason}). Try again in a few seconds.",
        headers={"Retry-After": str(KUBERNETES_RETRY_SECONDS)},
    )


def from_validation(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """400 from pydantic's list of errors: where and what, without the values that were sent."""
    details = [{"field": _field(error.get("loc", ())), "message": _text(error)} for error in errors]
    first = details[0] if details else {"field": "body", "message": "cannot be read"}
    more = f" (and {len(details) - 1} more, see details)" if len(details) > 1 else ""
    return invalid(f"{first['field']}: {first['message']}{more}", details)


def from_kubernetes(status: int, answer: Mapping[str, Any]) -> Problem:
    """The API server's refusal in our form; its message is kept, because its validation is ours.

    422 is 400 here: to a caller of this API both say that the request's content is wrong.
    """
    reason = str(answer.get("reason") or "")
    message = str(answer.get("message") or f"The Kubernetes API answered {status}.")
    causes = (answer.get("details") or {}).get("causes") or []
    details = [{"field": c.get("field", ""), "message": c.get("message", "")} for c in causes] or None
    if status in (400, 422):
        return Problem(400, "INVALID_REQUEST", message, details)
    if status == 404:
        return Problem(404, "NOT_FOUND", message)
    if status == 409:
        return Problem(409, "ALREADY_EXISTS" if reason == "AlreadyExists" else "CONFLICT", message, details)
    if status == 403:
        fix = "Check the Workspace's state and the roles of the ServiceAccount of switchgear-api."
        return Problem(403, "FORBIDDEN_BY_KUBERNETES", f"{message} {fix}")
    if status == 401:
        return unavailable("it does not accept this API's credentials")
    return unavailable(f"it answered {status}")


def _field(loc: Sequence[Any]) -> str:
    parts = [str(part) for part in loc if part not in ("body", "query", "path")]
    return ".".join(parts) or "body"


def _text(error: Mapping[str, Any]) -> str:
    kind = error.get("type")
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return "is not a field of this request"
    if kind == "json_invalid":
        return "the body is not valid JSON"
    text = str(error.get("msg") or "is invalid")
    return text.removeprefix("Value error, ")
