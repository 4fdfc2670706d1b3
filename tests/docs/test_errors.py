"""docs/errors.md has every stable code that the code can answer, with its status."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from switchgear_api.resources import kinds as api_kinds
from switchgear_streams.yjs import errors as yjs_errors
from tests.docs import pages

PAGE = "errors.md"
SECTIONS = {
    "## HTTP layer": "switchgear_wire",
    "## Edge": "switchgear_edge",
    "## Streams server": "switchgear_streams",
    "## API": "switchgear_api",
}
CODE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
NO_CODES = re.compile(r"(SWITCHGEAR|STREAMS_SECRET|KUBE|KUBERNETES_SERVICE|TCP|SAFE|LD_LIBRARY)")


def answered(room: str) -> set[tuple[str, str]]:
    """(status, code) of every call that has both as constants next to each other, and of (413, "code": …) bodies."""
    found = set()
    for tree in pages.trees(room):
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            for status, code in zip(call.args, call.args[1:], strict=False):
                if isinstance(status, ast.Constant) and type(status.value) is int and 300 < status.value < 600:
                    found |= {(str(status.value), text) for text in _texts(code)}
    return found


def _texts(node: ast.expr) -> Iterator[str]:
    """The constants that an expression may be: of a conditional both."""
    if isinstance(node, ast.IfExp):
        yield from (*_texts(node.body), *_texts(node.orelse))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value):
        yield node.value


def documented(heading: str) -> set[tuple[str, str]]:
    table = pages.rows(pages.section(PAGE, heading))[1:]
    assert all(row[2] or row[3] for row in table)
    return {(row[0], code) for row in table for code in pages.codes(row[1])}


@pytest.mark.parametrize(("heading", "room"), SECTIONS.items())
def test_every_code_is_on_the_page(heading: str, room: str) -> None:
    found = answered(room)
    assert len(found) > 3
    on_page = documented(heading)
    assert not found - on_page
    made = {text for text in pages.strings(room) if CODE.fullmatch(text) and "_" in text and not NO_CODES.match(text)}
    assert not made - {code for _, code in on_page}, "codes that are put together elsewhere"
    if room == "switchgear_api":
        words = [kind.word.upper().replace(" ", "_") for kind in (*api_kinds.SERVICES, *parents())]
        assert {"_NOT_EMPTY", "_NAME_ALREADY_EXISTS"} <= pages.strings(room)
        found |= {("409", f"{word}_NAME_ALREADY_EXISTS") for word in words}
        found |= {("409", f"{kind.word.upper()}_NOT_EMPTY") for kind in parents()}
        found.add(("413", "BODY_TOO_LARGE"))
    if room == "switchgear_streams":
        found |= {(str(status), code) for status, code in yjs_errors.CODES.items()}
        found.add(("413", "BODY_TOO_LARGE"))
    assert on_page == found


def parents() -> list[api_kinds.Kind]:
    return [api_kinds.WORKSPACE, api_kinds.PROJECT, api_kinds.ENVIRONMENT]


def shape_texts() -> set[tuple[str, ...]]:
    """What the shape server's errors say: of each text its constant parts."""
    found = set()
    for tree in pages.trees("switchgear_shapes"):
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = getattr(call.func, "id", getattr(call.func, "attr", ""))
            if name in ("ShapeError", "snapshot_failed", "not_ready", "invalid"):
                for argument in call.args:
                    nodes = argument.values if isinstance(argument, ast.Dict) else [argument]
                    found |= {_parts(node) for node in nodes}
    return found - {()}


def _parts(node: ast.expr) -> tuple[str, ...]:
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    texts = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return tuple(" ".join(text.split()) for text in texts if text.strip().count(" ") > 1)


def test_what_the_shape_server_says_is_on_the_page() -> None:
    page = " ".join(pages.section(PAGE, "## Shape server").split())
    said = shape_texts()
    assert len(said) > 20
    for code in ("concurrent_request_limit_exceeded", "database_unreachable"):
        assert code in pages.strings("switchgear_shapes")
        assert f"`{code}`" in page
    missing = [parts for parts in said if not any(part[:18].strip(' ,;:.("') in page for part in parts)]
    assert not missing, missing
    statuses = {row[0] for row in pages.rows(pages.section(PAGE, "## Shape server"))} - {"field", "status"}
    assert {"400", "401", "404", "405", "409", "413", "500", "503"} <= statuses
