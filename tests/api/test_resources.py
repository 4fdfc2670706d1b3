"""List, get, create and delete of the five kinds, on the real API server."""

from __future__ import annotations

import base64
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from switchgear_model import ids, labels
from tests.api.server import DATABASE_URL, PASSWORD, ApiServer, Workspace, give_secret, grant

pytestmark = pytest.mark.cluster


def stored(workspace: Workspace, kind: str, name: str) -> dict[str, Any]:
    """The object as the API server has it."""
    with workspace.server.kube.api() as api:
        found = api.get(labels.API_VERSION, kind, name, workspace.name)
    assert found is not None, f"{kind} {name}"
    return found


def secrets_of(workspace: Workspace) -> list[dict[str, Any]]:
    with workspace.server.kube.api() as api:
        return api.list("v1", "Secret", workspace.name)


def sync_body(environment: str, **more: Any) -> dict[str, Any]:
    return {"environmentRef": {"name": environment}, "databaseUrl": DATABASE_URL, **more}


def test_a_workspace_is_a_namespace_and_its_workspace(api_server: ApiServer) -> None:
    workspace = api_server.workspace()
    with api_server.kube.api() as api:
        namespace = api.get("v1", "Namespace", workspace.name)
    assert namespace is not None
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert stored(workspace, "Workspace", workspace.name)["spec"]["displayName"] == workspace.name
    assert workspace.name in [w["id"] for w in api_server.ok("GET", "/v1/whoami")["workspaces"]]
    assert workspace.name in [w["workspace"] for w in api_server.ok("GET", "/v1/workspaces")["workspaces"]]
    again = api_server.http.post("/v1/workspaces", json={"name": workspace.name})
    assert (again.status_code, again.json()["code"]) == (409, "NAME_TAKEN")


@pytest.mark.parametrize("name", ["kube-system", "default", "switchgear-system", "Upper", "-x", "a/b", "..", "x" * 64])
def test_a_namespace_that_is_not_for_workspaces_is_refused(api_server: ApiServer, name: str) -> None:
    answer = api_server.http.post("/v1/workspaces", json={"name": name})
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")


def test_the_way_down_and_its_names(workspace: Workspace) -> None:
    made = workspace.ok("POST", "/environments", 201, json={"name": "pr-42", "projectRef": {"name": "app"}})
    assert made["id"] == made["environmentId"] == made["resourceName"] == "app-pr-42"
    assert (made["name"], made["project"], made["state"]) == ("pr-42", "app", "pending")
    spec = stored(workspace, "Environment", "app-pr-42")["spec"]
    assert spec == {"projectRef": {"name": "app"}, "displayName": "pr-42"}
    streams = workspace.ok(
        "POST", "/streamsservices?wait=0", 201, json={"name": "events", "environmentRef": {"name": "pr-42"}}
    )
    assert streams["resourceName"] == "app-pr-42-events"
    uid = stored(workspace, "StreamsService", "app-pr-42-events")["metadata"]["uid"]
    assert streams["id"] == streams["serviceId"] == ids.service_id(uid)
    assert (streams["type"], streams["status"], streams["environment"]) == ("streams", "pending", "app-pr-42")
    for reference in ("events", "app-pr-42-events", streams["id"]):
        assert workspace.ok("GET", f"/services/{reference}")["id"] == streams["id"]
        assert workspace.ok("GET", f"/streamsservices/{reference}")["id"] == streams["id"]
    for path in ("/services", "/services?environment=pr-42", "/services?environment=app-pr-42", "/streamsservices"):
        assert [s["id"] for s in workspace.ok("GET", path)["services"]] == [streams["id"]]
    assert workspace.ok("GET", "/syncsources")["services"] == []
    assert [e["id"] for e in workspace.ok("GET", "/environments?project=app")["environments"]] == ["app-pr-42"]
    assert [p["id"] for p in workspace.ok("GET", "/projects")["projects"]] == ["app"]


def test_what_is_written_is_applied_by_the_api_and_nothing_else(workspace: Workspace) -> None:
    workspace.environment()
    (entry,) = stored(workspace, "Environment", "app-production")["metadata"]["managedFields"]
    assert (entry["manager"], entry["operation"]) == ("switchgear-api", "Apply")


def test_a_database_url_goes_into_a_secret_that_lives_with_the_service(workspace: Workspace) -> None:
    environment = workspace.environment()
    made = workspace.call("POST", "/syncsources?wait=0", json=sync_body(environment, pooledDatabaseUrl=DATABASE_URL))
    assert made.status_code == 201, made.text
    assert PASSWORD not in made.text
    view = made.json()
    source = stored(workspace, "SyncSource", "app-production-db")
    assert PASSWORD not in str(source)
    reference = source["spec"]["database"]["urlSecretRef"]
    (secret,) = secrets_of(workspace)
    assert secret["metadata"]["name"] == reference["name"]
    assert base64.b64decode(secret["data"][reference["key"]]).decode() == DATABASE_URL
    pooled = source["spec"]["database"]["pooledUrlSecretRef"]
    assert base64.b64decode(secret["data"][pooled["key"]]).decode() == DATABASE_URL
    assert [o["uid"] for o in secret["metadata"]["ownerReferences"]] == [source["metadata"]["uid"]]

    gone = workspace.ok("DELETE", f"/services/{view['id']}?wait=60")
    assert (gone["gone"], gone["id"]) == (True, view["id"])
    deadline = time.monotonic() + 120  # a collector that has just been started learns of new kinds every 30 s
    while secrets_of(workspace):
        assert time.monotonic() < deadline, "the garbage collector must take the Secret"
        time.sleep(0.2)


def test_the_same_name_can_be_used_again_at_once(workspace: Workspace) -> None:
    environment = workspace.environment()
    seen = set()
    for _ in range(3):
        view = workspace.ok("POST", "/syncsources?wait=0", 201, json=sync_body(environment))
        assert view["resourceName"] == "app-production-db"
        seen.add(view["id"])
        assert workspace.ok("DELETE", "/syncsources/db?wait=60")["gone"]
    assert len(seen) == 3


def test_a_database_by_reference(workspace: Workspace) -> None:
    environment = workspace.environment()
    body = {
        "name": "main",
        "environmentRef": {"name": environment},
        "database": {"urlSecretRef": {"name": "mine", "key": "dsn"}, "poolSize": 7},
        "manualTablePublishing": True,
        "deletionPolicy": "Orphan",
        "serviceId": f"moved-{workspace.name}",
        "storage": {"size": "2Gi"},
    }
    view = workspace.ok("POST", "/syncsources?wait=0", 201, json=body)
    assert view["id"] == f"moved-{workspace.name}"
    spec = stored(workspace, "SyncSource", "app-production-main")["spec"]
    assert spec["database"] == body["database"]
    assert (spec["manualTablePublishing"], spec["deletionPolicy"]) == (True, "Orphan")
    assert spec["storage"]["size"] == "2Gi"
    assert secrets_of(workspace) == []


def test_the_right_to_make_secrets_may_come_a_moment_later(api_server: ApiServer) -> None:
    name = f"late-{time.time_ns():x}"
    api_server.ok("POST", "/v1/workspaces", 201, json={"name": name})
    workspace = Workspace(api_server, name)
    workspace.ok("POST", "/projects", 201, json={"name": "app"})
    environment = workspace.environment()
    timer = threading.Timer(0.3, grant, (api_server.kube, name))  # it is waited for some seconds
    timer.start()
    try:
        workspace.ok("POST", "/syncsources?wait=0", 201, json=sync_body(environment))
    finally:
        timer.join()


def test_without_that_right_nothing_half_made_is_left(api_server: ApiServer) -> None:
    name = f"none-{time.time_ns():x}"
    api_server.ok("POST", "/v1/workspaces", 201, json={"name": name})
    workspace = Workspace(api_server, name)
    workspace.ok("POST", "/projects", 201, json={"name": "app"})
    answer = workspace.call("POST", "/syncsources?wait=0", json=sync_body(workspace.environment()))
    assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN_BY_KUBERNETES")
    assert workspace.ok("GET", "/services")["services"] == []


def test_the_secret_is_told_once_it_exists(workspace: Workspace) -> None:
    environment = workspace.environment()
    view = workspace.ok("POST", "/syncsources?wait=0", 201, json=sync_body(environment))
    assert view["sourceSecret"] is None
    early = workspace.call("GET", "/services/db/secret")
    assert (early.status_code, early.json()["code"]) == (409, "SECRET_NOT_READY")
    secret = give_secret(workspace.server.kube, "SyncSource", workspace.name, "app-production-db")
    told = workspace.ok("GET", "/services/db/secret")
    assert (told["secret"], told["serviceId"]) == (secret, view["id"])
    newest = workspace.call("GET", "/services/db")
    assert newest.json()["status"] == "active"
    assert secret not in newest.text
    assert "sha256" not in newest.text


def test_creating_waits_for_the_secret(workspace: Workspace) -> None:
    environment = workspace.environment()
    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(workspace.ok, "POST", "/syncsources?wait=30", 201, json=sync_body(environment))
        deadline = time.monotonic() + 60
        while workspace.call("GET", "/services/db").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        secret = give_secret(workspace.server.kube, "SyncSource", workspace.name, "app-production-db")
        assert making.result(timeout=60)["sourceSecret"] == secret


def test_the_secret_of_another_service_is_never_told(workspace: Workspace) -> None:
    """An object that claims a service id which belongs to another does not get at that one's Secret."""
    environment = workspace.environment()
    body = {"environmentRef": {"name": environment}, "serviceId": f"one-{workspace.name}"}
    workspace.ok("POST", "/streamsservices?wait=0", 201, json={**body, "name": "a"})
    give_secret(workspace.server.kube, "StreamsService", workspace.name, "app-production-a", "the-uid-of-another")
    assert workspace.call("GET", "/services/a/secret").json()["code"] == "SECRET_NOT_READY"


def test_an_environment_with_services_is_kept_unless_forced(workspace: Workspace) -> None:
    environment = workspace.environment()
    workspace.ok("POST", "/streamsservices?wait=0", 201, json={"environmentRef": {"name": environment}})
    refused = workspace.call("DELETE", f"/environments/{environment}")
    assert (refused.status_code, refused.json()["code"]) == (409, "ENVIRONMENT_NOT_EMPTY")
    assert refused.json()["details"] == [
        {"kind": "StreamsService", "name": "streams", "resourceName": "app-production-streams"}
    ]
    assert workspace.ok("GET", f"/environments/{environment}")["id"] == environment
    assert workspace.ok("DELETE", f"/environments/{environment}?force=true&wait=60")["gone"]
    project = workspace.call("DELETE", "/projects/app")
    assert project.status_code == 200, project.text


def test_projects_and_workspaces_are_kept_too(workspace: Workspace) -> None:
    workspace.environment()
    assert workspace.call("DELETE", "/projects/app").json()["code"] == "PROJECT_NOT_EMPTY"
    assert workspace.call("DELETE", "").json()["code"] == "WORKSPACE_NOT_EMPTY"


def test_taken_names(workspace: Workspace) -> None:
    environment = workspace.environment()
    again = workspace.call("POST", "/environments", json={"name": "production", "projectRef": {"name": "app"}})
    assert (again.status_code, again.json()["code"]) == (409, "ENVIRONMENT_NAME_ALREADY_EXISTS")
    assert again.json()["message"].startswith("The environment ")
    workspace.ok("POST", "/syncsources?wait=0", 201, json=sync_body(environment, name="x"))
    taken = workspace.call("POST", "/streamsservices", json={"name": "x", "environmentRef": {"name": environment}})
    assert taken.status_code == 409, "one short name in an environment, of whatever kind"
    workspace.ok("POST", "/projects", 201, json={"name": "app-production"})
    other = workspace.ok("POST", "/environments", 201, json={"name": "x", "projectRef": {"name": "app-production"}})
    assert other["id"] == "app-production-x"


def test_two_parents_may_lead_to_the_same_name(workspace: Workspace) -> None:
    workspace.ok("POST", "/projects", 201, json={"name": "app-b"})
    one = workspace.ok("POST", "/environments", 201, json={"name": "b-c", "projectRef": {"name": "app"}})
    other = workspace.ok("POST", "/environments", 201, json={"name": "c", "projectRef": {"name": "app-b"}})
    assert one["id"] == "app-b-c"
    assert other["id"].startswith("app-b-c-")
    assert other["name"] == "c"


def test_of_many_callers_with_one_name_one_succeeds(workspace: Workspace) -> None:
    body = {"name": "race", "projectRef": {"name": "app"}}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: workspace.call("POST", "/environments", json=body).status_code, range(8)))
    assert sorted(answers) == [201] + [409] * 7


def test_what_is_not_there(workspace: Workspace) -> None:
    environment = workspace.environment()
    for path in (
        "/environments/none",
        "/services/none",
        "/projects/none",
        "/services?environment=none",
        "/services/a%2Fb",
    ):
        answer = workspace.call("GET", path)
        assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND"), path
    body = {"name": "x", "projectRef": {"name": "none"}}
    assert workspace.call("POST", "/environments", json=body).status_code == 404
    nowhere = workspace.server.http.get("/v1/workspaces/nowhere/services")
    assert (nowhere.status_code, nowhere.json()["code"]) == (404, "NOT_FOUND")
    assert workspace.call("PUT", f"/environments/{environment}").status_code == 405


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"environmentRef": {"name": "production"}}, "body"),
        ({"environmentRef": {"name": "production"}, "databaseUrl": f"mysql://u:{PASSWORD}@h/d"}, "databaseUrl"),
        ({"environmentRef": {"name": "production"}, "databaseUrl": f"postgresql://u:{PASSWORD}@h:x/d"}, "databaseUrl"),
        ({"environmentRef": {"name": "production"}, "databaseURL": DATABASE_URL}, "databaseURL"),
        ({"databaseUrl": DATABASE_URL}, "environmentRef"),
        ({"environmentRef": {"name": "production"}, "databaseUrl": [PASSWORD]}, "databaseUrl"),
    ],
)
def test_a_body_that_cannot_be_right(workspace: Workspace, body: dict[str, Any], field: str) -> None:
    workspace.environment()
    answer = workspace.call("POST", "/syncsources", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST"), answer.text
    assert field in [d["field"] for d in answer.json()["details"]], answer.text
    assert PASSWORD not in answer.text
    assert workspace.ok("GET", "/services")["services"] == []


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"serviceId": "No_Good"}, "serviceId"),
        ({"storage": {"size": "lots"}}, "storage"),
        ({"database": {"poolSize": 0}}, "poolSize"),
        ({"region": "No Region"}, "region"),
    ],
)
def test_the_api_servers_own_refusal_reaches_the_caller(workspace: Workspace, more: dict[str, Any], part: str) -> None:
    environment = workspace.environment()
    answer = workspace.call("POST", "/syncsources", json=sync_body(environment, **more))
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST"), answer.text
    assert part in answer.json()["message"]
    assert workspace.ok("GET", "/services")["services"] == []
    assert secrets_of(workspace) == []


def test_bodies_that_are_no_json_or_too_large(workspace: Workspace) -> None:
    headers = {"Content-Type": "application/json"}
    broken = workspace.call("POST", "/projects", content=b"{", headers=headers)
    assert (broken.status_code, broken.json()["code"]) == (400, "INVALID_REQUEST")
    large = workspace.call("POST", "/projects", content=b" " * 1_100_000, headers=headers)
    assert (large.status_code, large.json()["code"]) == (413, "BODY_TOO_LARGE")
    chunks = (b" " * 65_536 for _ in range(20))
    chunked = workspace.call("POST", "/projects", content=chunks, headers=headers)
    assert (chunked.status_code, chunked.json()["code"]) == (413, "BODY_TOO_LARGE")


def test_an_ambiguous_short_name_says_what_it_may_mean(workspace: Workspace) -> None:
    for name in ("one", "two"):
        environment = workspace.environment(name)
        workspace.ok("POST", "/streamsservices?wait=0", 201, json={"environmentRef": {"name": environment}})
    answer = workspace.call("GET", "/services/streams")
    assert (answer.status_code, answer.json()["code"]) == (409, "AMBIGUOUS_NAME")
    assert "app-one-streams" in answer.json()["message"]
