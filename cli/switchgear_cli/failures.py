"""How a command fails: a stable word, a message that says what to do, an exit status.

Exit statuses: 1 anything else, 2 authentication, 3 not found, 4 validation, 5 conflict. Pure.
"""

from __future__ import annotations

GENERIC, AUTH, NOT_FOUND, VALIDATION, CONFLICT = 1, 2, 3, 4, 5
_BY_STATUS = {400: VALIDATION, 401: AUTH, 403: AUTH, 404: NOT_FOUND, 409: CONFLICT, 413: VALIDATION, 422: VALIDATION}
_WORDS = {
    GENERIC: "ERROR",
    AUTH: "UNAUTHORIZED",
    NOT_FOUND: "NOT_FOUND",
    VALIDATION: "VALIDATION",
    CONFLICT: "CONFLICT",
}


class Failure(Exception):
    """Ends the command. `word` is stable and for programs, the message for people."""

    def __init__(self, exit_code: int, message: str, word: str | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.message = message
        self.word = word or _WORDS.get(exit_code, "ERROR")


def validation(message: str) -> Failure:
    """What was typed cannot be done."""
    return Failure(VALIDATION, message)


def exit_code_of(status: int) -> int:
    """The exit status for an HTTP status of an API."""
    return _BY_STATUS.get(status, GENERIC)


def from_http(status: int, message: str) -> Failure:
    """The failure for an HTTP status of an API."""
    return Failure(exit_code_of(status), message)
