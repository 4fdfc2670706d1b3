"""The OpenAPI document and the page made of it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.api.server import ApiServer

pytestmark = pytest.mark.cluster

KINDS = ("workspaces", "projects", "environments", "syncsources", "streamsservices")


@pytest.fixture
def schema(api_server: ApiServer) -> dict[str, Any]:
    document: dict[str, Any] = httpx.get(api_server.url + "/openapi.json").json()
    return document


def test_every_kind_can_be_listed_made_read_and_deleted(schema: dict[str, Any]) -> None:
    for plural in KINDS:
        base = "/v1/workspaces" + ("" if plural == "workspaces" else f"/{{workspace}}/{plural}")
        one = base + ("/{workspace}" if plural == "workspaces" else "/{name}")
        assert {"get", "post"} <= set(schema["paths"][base]), plural
        assert {"get", "delete"} <= set(schema["paths"][one]), plural


def test_every_reference_in_it_resolves(schema: dict[str, Any]) -> None:
    known = set(schema["components"]["schemas"])
    assert {ref.rpartition("/")[2] for ref in _references(schema)} <= known


def test_every_operation_has_a_summary_an_answer_and_an_error(schema: dict[str, Any]) -> None:
    names = [operation["operationId"] for path in schema["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names))
    for path in schema["paths"].values():
        for operation in path.values():
            assert operation["summary"]
            assert "422" not in operation["responses"]
            assert "default" in operation["responses"]
    assert schema["security"] == [{"adminToken": []}]


def test_the_page_needs_nothing_from_elsewhere(api_server: ApiServer, schema: dict[str, Any]) -> None:
    page = httpx.get(api_server.url + "/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script" not in page.text
    assert "src=" not in page.text
    for path in schema["paths"]:
        assert f"<code>{path}</code>" in page.text


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [ref for value in node.values() for ref in _references(value)]
    if isinstance(node, list):
        return [ref for value in node for ref in _references(value)]
    return []
