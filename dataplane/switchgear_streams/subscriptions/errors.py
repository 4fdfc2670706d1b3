"""Refusals of the subscription interface; answered as JSON `{"error": {"code", "message", ...}}`."""

from __future__ import annotations


class Refused(Exception):
    """`extra`: further members of the error object."""

    def __init__(self, status: int, code: str, message: str, **extra: str | int) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.extra = extra
        self.headers = b""


def invalid(message: str) -> Refused:
    return Refused(400, "INVALID_REQUEST", message)


def fenced() -> Refused:
    return Refused(
        409, "FENCED", "This wake is over: a newer generation exists, or its lease has ended. Stop the work."
    )


def unknown() -> Refused:
    return Refused(404, "SUBSCRIPTION_NOT_FOUND", "There is no subscription of this id; create it with PUT.")


def no_room() -> Refused:
    return Refused(507, "DISK_FULL", "The server cannot write now; nothing was changed. Try again later.")
