"""What the commands over the API share: how a resource is shown, how it is deleted, how one waits for it."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

from cyclopts import Parameter

from switchgear_cli.api import Api
from switchgear_cli.context import current
from switchgear_cli.failures import GENERIC, Failure, validation
from switchgear_cli.output import table

Json = dict[str, Any]

Force = Annotated[
    bool, Parameter(negative=(), help="Do not ask, and delete what is below it too. Required with --json.")
]
Wait = Annotated[bool, Parameter(help="Wait until it is gone, at most --wait-timeout seconds.")]
WaitTimeout = Annotated[float, Parameter(help="Seconds to wait at most.")]

_LONGEST_CALL = 50.0


def show_list(views: list[Json], plural: str, columns: list[tuple[str, str]]) -> None:
    """A list of views: `columns` are pairs of a title and a field."""
    output = current().output
    if not views and not output.json and not output.quiet:
        output.result(views, f"There are no {plural}.")
        return
    rows = [[_text(view.get(field)) for _, field in columns] for view in views]
    output.result({plural: views}, table([title for title, _ in columns], rows), [str(view["id"]) for view in views])


def show_one(view: Json, fields: list[str]) -> None:
    """One view as lines of `field: value`."""
    width = max(len(field) for field in fields)
    lines = [f"{field.ljust(width)}  {_text(view[field])}" for field in fields if view.get(field) is not None]
    current().output.result(view, lines, str(view["id"]))


def delete(api: Api, path: str, what: str, *, force: bool, wait: bool, timeout: float) -> int:
    """Asks unless `force`, deletes, and waits until it is gone. `path` is below the workspace."""
    confirm(f"Delete {what}?", force)
    deadline = time.monotonic() + max(timeout, 0)
    answer = api.call("DELETE", path, params={"force": str(force).lower(), "wait": _slice(deadline) if wait else 0})
    own = f"{path.rpartition('/')[0]}/{answer['resourceName']}"
    while wait and not answer["gone"] and time.monotonic() < deadline:
        answer = _again(api, own, answer, deadline)
    word = "Deleted" if answer["gone"] else "Deleting"
    tail = "" if answer["gone"] else ": it goes on in the background, see `switchgear status`"
    current().output.result(answer, f"{word} {what} ({answer['id']}){tail}", answer["id"])
    return 0


def confirm(question: str, force: bool) -> None:
    """Asks on the terminal. Raises Failure when the answer is no, or when nobody can be asked."""
    if force:
        return
    if current().output.json or not sys.stdin.isatty():
        raise validation("Deleting needs --force here, because nobody can be asked.")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failure(GENERIC, "Nothing was deleted.", "CANCELLED")


def await_active(api: Api, path: str, view: Json, timeout: float) -> Json:
    """Polls a service until it is active. Raises Failure with its last state when that takes too long or fails."""
    deadline = time.monotonic() + timeout
    said = ""
    while True:
        newest = api.call("GET", path)
        view = {**view, **newest}
        state, message = str(view["state"]), str(view.get("message") or "")
        if state == "active":
            return view
        if state != said:
            current().output.note(f"{view['name']}: {state} {message}".rstrip())
            said = state
        if state in ("error", "deleting", "suspended"):
            raise Failure(GENERIC, f"The service {view['id']} is {state}. {message}".rstrip(), "SERVICE_NOT_ACTIVE")
        if time.monotonic() >= deadline:
            text = f"The service {view['id']} is still {state} after {timeout:g} s. {message}".rstrip()
            raise Failure(GENERIC, text, "TIMEOUT")
        time.sleep(min(1.0, max(deadline - time.monotonic(), 0.05)))


def _again(api: Api, path: str, answer: Json, deadline: float) -> Json:
    """Waits on: a delete that has been accepted may be asked for again, and 404 is what one waits for."""
    try:
        found = api.call("GET", path)
    except Failure as failure:
        if failure.word == "NOT_FOUND":
            return {**answer, "gone": True}
        raise
    if found["state"] != "deleting":
        return {**answer, "gone": True}
    time.sleep(min(0.5, max(deadline - time.monotonic(), 0)))
    return answer


def _slice(deadline: float) -> float:
    return round(min(max(deadline - time.monotonic(), 0), _LONGEST_CALL), 2)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={inner}" for key, inner in value.items())
    return "" if value is None else str(value)
