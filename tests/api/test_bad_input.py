"""Whatever is sent, the answer is no 500, is in the API's own form, and the process goes on."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tests.api.server import Workspace

pytestmark = pytest.mark.cluster

VALUES: list[Any] = [
    *(None, True, 0, -1, 1e300, "", "x", "\0", "\ud800", "é" * 40, "a" * 5000, [], {}, [1]),
    *("../..", "production", "postgresql://[::1", "postgresql://u:p@h/d", "postgresql://\0@h/d"),
    *({"name": "app"}, {"name": "production"}, {"name": "\0"}, {"size": "1Gi"}, {"size": -1}),
    *({"urlSecretRef": {"name": "a b", "key": "k/k"}}, {"urlSecretRef": {"name": "a", "key": "k"}}),
]
FIELDS = (
    *("name", "displayName", "projectRef", "environmentRef", "resourceName", "region", "serviceId", "storage"),
    *("databaseUrl", "pooledDatabaseUrl", "database", "manualTablePublishing", "deletionPolicy", "variant", "junk"),
)
COLLECTIONS = ("/projects", "/environments", "/syncsources?wait=0", "/streamsservices?wait=0")
NAMES = ("%00", "%ff", "%2e%2e", "%2F%2F", "a" * 250, "a" * 9000, "x%0d%0aX: y", "%F0%9F")


@pytest.mark.parametrize("seed", range(4))
def test_random_bodies(workspace: Workspace, seed: int) -> None:
    workspace.environment()
    chance = random.Random(seed)
    for _ in range(100):
        body = {field: chance.choice(VALUES) for field in chance.sample(FIELDS, chance.randint(0, 5))}
        if chance.random() < 0.6:
            body |= {"name": chance.choice(["\0", "A B", "\u202e", "😀", "y"]), "projectRef": {"name": "app"}}
        if chance.random() < 0.5:
            body |= {"environmentRef": {"name": "production"}}
        path = chance.choice(COLLECTIONS)
        headers = {"Content-Type": "application/json"}
        answer = workspace.call("POST", path, content=json.dumps(body).encode(), headers=headers)
        assert answer.status_code in (201, 400, 404, 409), (path, body, answer.text)
        assert answer.status_code == 201 or {"code", "message"} <= set(answer.json())


def test_paths_and_queries_that_make_no_sense(workspace: Workspace) -> None:
    for method in ("GET", "DELETE", "POST", "PUT"):
        for name in NAMES:
            for path in (f"/projects/{name}", f"/services/{name}/secret", f"/services?environment={name}&wait=nan"):
                answer = workspace.call(method, path)
                assert answer.status_code in (200, 400, 404, 405), (method, path, answer.text)
                assert answer.status_code == 200 or {"code", "message"} <= set(answer.json())
    for name in (*NAMES[:4], "A", "x" * 64):
        for path in ("", "/projects", "/services", "/services/a/secret"):
            answer = workspace.server.http.get(f"/v1/workspaces/{name}{path}")
            assert answer.status_code in (400, 404), (name, path, answer.text)


@pytest.mark.parametrize("name", ["", " x", "x\n", "a\0b", "\u202ex", "x" * 64])
def test_a_short_name_is_plain_text(workspace: Workspace, name: str) -> None:
    answer = workspace.call("POST", "/projects", json={"name": name})
    assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, "name")
