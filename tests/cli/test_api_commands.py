"""The commands over the API, on a real API and the real API server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from switchgear_model import ids
from tests.api.server import DATABASE_URL, PASSWORD, ApiServer, Workspace, give_secret
from tests.cli.conftest import Cli

pytestmark = pytest.mark.cluster

LogIn = Callable[[ApiServer, Workspace], Cli]


@pytest.fixture
def user(logged_in: LogIn, api_server: ApiServer, workspace: Workspace) -> Cli:
    return logged_in(api_server, workspace)


def test_the_documented_flow_of_a_pull_request(user: Cli, workspace: Workspace) -> None:
    """As Electric's documentation writes it: `.id` of one call is the argument of the next."""
    for _ in range(2):
        environment = user.json("environments", "create", "--project", "app", "--name", "pr-7")
        assert environment["id"] == environment["environmentId"]
        database = ("--database-url", DATABASE_URL, "--region", "local")
        service = user.json("services", "create", "postgres", "--environment", environment["id"], *database)
        assert service["id"] == ids.service_id(uid(workspace, "SyncSource", service["resourceName"]))
        assert service["status"] in ("pending", "provisioning")
        secret = give_secret(workspace.server.kube, "SyncSource", workspace.name, service["resourceName"])
        told = user.json("services", "get-secret", service["id"])
        assert told["secret"] == secret
        # Without an operator nothing takes the service along with its environment.
        assert user.json("services", "delete", service["id"], "--force")["gone"]
        assert user.json("environments", "delete", environment["id"], "--force")["gone"]
        assert user.json("environments", "list", "--project", "app") == {"environments": []}


def test_json_shapes(user: Cli) -> None:
    assert [p["id"] for p in user.json("projects", "list")["projects"]] == ["app"]
    created = user.json("projects", "create", "--name", "Web Site")
    assert created["name"] == "Web Site"
    environment = user.json("--json", "environments", "create", "--project", "Web Site", "--name", "staging")
    streams = user.json("services", "create", "streams", "--environment", "staging", "--name", "events")
    assert (streams["type"], streams["environment"]) == ("streams", environment["id"])
    (listed,) = user.json("services", "list", "--environment", "staging")["services"]
    assert {"id", "name", "type", "status", "state", "url", "region", "createdAt"} <= set(listed)
    (shown,) = user.json("environments", "list", "--project", created["id"])["environments"]
    assert {"id", "name", "createdAt"} <= set(shown)
    for reference in (streams["id"], streams["resourceName"], "events"):
        assert user.json("services", "get", reference)["id"] == streams["id"]
    assert user.json("services", "delete", "events", "--force")["gone"]


def test_quiet_is_only_what_was_asked_for(user: Cli, workspace: Workspace) -> None:
    environment = user.ok("-q", "environments", "create", "--project", "app", "--name", "production").strip()
    assert environment == "app-production"
    service = user.ok("services", "create", "streams", "--environment", environment, "-q").strip()
    assert service == ids.service_id(uid(workspace, "StreamsService", "app-production-streams"))
    secret = give_secret(workspace.server.kube, "StreamsService", workspace.name, "app-production-streams")
    assert user.ok("services", "get-secret", service, "-q") == secret + "\n"
    assert user.ok("services", "list", "-q").split() == [service]


def test_people_get_a_table(user: Cli, workspace: Workspace) -> None:
    workspace.environment()
    streams(workspace)
    listing = user.ok("services", "list")
    assert "Status" in listing
    assert "app-production" in listing
    assert "pending" in listing
    assert "There are no services" in user.ok("services", "list", "--environment", make(user, "empty"))


def test_no_secret_is_shown_unless_asked_for(user: Cli, workspace: Workspace) -> None:
    workspace.environment()
    url = {"MY_DATABASE": DATABASE_URL}
    made = user(
        "services", "create", "postgres", "--environment", "production", "--database-url-env", "MY_DATABASE", **url
    )
    assert made.returncode == 0, made.stderr
    secret = give_secret(workspace.server.kube, "SyncSource", workspace.name, "app-production-db")
    shown = [made.stdout, made.stderr]
    for command in (
        ("services", "list"),
        ("services", "get", "db"),
        ("services", "get", "db", "--json"),
        ("auth", "whoami"),
    ):
        done = user(*command)
        shown += [done.stdout, done.stderr]
    text = "".join(shown)
    assert PASSWORD not in text
    assert secret not in text
    assert workspace.server.token not in text


def test_a_database_url_from_stdin(user: Cli, workspace: Workspace) -> None:
    workspace.environment()
    arguments = ("services", "create", "postgres", "--environment", "production", "--database-url", "-")
    assert user.json(*arguments, stdin=DATABASE_URL + "\n")["type"] == "postgres"


def test_waiting_has_an_end(user: Cli, workspace: Workspace) -> None:
    workspace.environment()
    arguments = ("services", "create", "streams", "--environment", "production", "--wait", "--wait-timeout", "0.5")
    error = user.fails(1, *arguments)
    assert error["error"] == "TIMEOUT"
    assert "pending" in error["message"]
    give_secret(workspace.server.kube, "StreamsService", workspace.name, "app-production-streams")
    assert user.json("services", "get", "streams")["status"] == "active"


def test_deleting_asks_first(user: Cli, workspace: Workspace) -> None:
    environment = workspace.environment()
    streams(workspace)
    assert "--force" in user.fails(4, "environments", "delete", environment)["message"]
    assert "--force" in user.fails(4, "services", "delete", "streams")["message"]
    assert user("services", "delete", "streams").returncode == 4, "nobody can be asked without a terminal"
    assert user.json("environments", "delete", environment, "--force")["gone"]


def test_at_a_terminal_it_asks_and_takes_no_for_an_answer(user: Cli, workspace: Workspace) -> None:
    workspace.environment()
    streams(workspace)
    status, shown = user.at_terminal("services", "delete", "streams", typed="n\n")
    assert status == 1
    assert "Delete the service streams?" in shown
    assert "Nothing was deleted" in shown
    assert user.json("services", "get", "streams")["name"] == "streams"
    status, shown = user.at_terminal("services", "delete", "streams", typed="y\n")
    assert status == 0, shown
    assert "Deleted the service streams" in shown
    refused = user.at_terminal("environments", "delete", "production", typed="y\n")
    assert refused[0] == 0, refused


def test_yes_is_not_force(user: Cli, workspace: Workspace) -> None:
    workspace.environment()
    streams(workspace)
    status, shown = user.at_terminal("environments", "delete", "production", typed="y\n")
    assert status == 5
    assert "still holds StreamsService streams" in " ".join(shown.split())


def test_exit_statuses(user: Cli, cli: Cli, api_server: ApiServer, workspace: Workspace) -> None:
    workspace.environment()
    assert cli.fails(2, "services", "list")["error"] == "NOT_LOGGED_IN"
    assert user.fails(2, "services", "list", "--token", "x" * 40)["error"] == "INVALID_TOKEN"
    assert user.fails(3, "services", "get", "none")["error"] == "NOT_FOUND"
    assert user.fails(3, "environments", "create", "--project", "none", "--name", "x")["error"] == "NOT_FOUND"
    assert user.fails(4, "services", "create", "postgres", "--environment", "production")["error"] == "VALIDATION"
    assert user.fails(4, "services", "frobnicate")["error"] == "VALIDATION"
    long = user.fails(4, "environments", "create", "--project", "app", "--name", "x" * 80)
    assert long["error"] == "INVALID_REQUEST"
    taken = user.fails(5, "environments", "create", "--project", "app", "--name", "production")
    assert taken["error"] == "ENVIRONMENT_NAME_ALREADY_EXISTS"
    assert user.fails(1, "services", "list", "--api-url", "http://127.0.0.1:1")["error"] == "UNAVAILABLE"
    assert user.fails(4, "services", "list", "--api-url", "nonsense")["exitCode"] == 4


def test_logging_in(cli: Cli, api_server: ApiServer, workspace: Workspace) -> None:
    url = ("--api-url", api_server.url)
    assert cli.fails(2, "auth", "login", *url, stdin="x" * 40 + "\n")["error"] == "INVALID_TOKEN"
    assert cli.fails(4, "auth", "login", *url)["error"] == "VALIDATION"
    space = ("--workspace", workspace.name)
    done = cli("auth", "login", *url, *space, "--token-file", str(api_server.token_file))
    assert done.returncode == 0, done.stderr
    assert api_server.token not in done.stdout + done.stderr
    stored = cli.home / "config" / "switchgear" / "auth.json"
    assert stored.stat().st_mode & 0o777 == 0o600
    assert json.loads(stored.read_text()) == {
        "api_url": api_server.url,
        "token": api_server.token,
        "workspace": workspace.name,
    }
    who = cli.json("auth", "whoami")
    assert workspace.name in [w["id"] for w in who["workspaces"]]
    assert [p["id"] for p in cli.json("projects", "list")["projects"]] == ["app"]
    assert cli.fails(3, "projects", "list", SWITCHGEAR_WORKSPACE="nowhere")["error"] == "NOT_FOUND"
    cli.ok("auth", "logout")
    assert cli.fails(2, "auth", "whoami")["error"] == "NOT_LOGGED_IN"


def test_status_asks_the_api_where_there_is_no_cluster(user: Cli, workspace: Workspace) -> None:
    workspace.environment()
    rows = user.json("status", "-n", workspace.name)
    assert [(r["kind"], r["name"], r["state"]) for r in rows] == [
        ("Workspace", workspace.name, "pending"),
        ("Project", "app", "pending"),
        ("Environment", "app-production", "pending"),
    ]


def test_as_a_process(user: Cli, cli: Cli, workspace: Workspace) -> None:
    workspace.environment()
    done = user.process("services", "list", "--json")
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, {"services": []}, "")
    failed = cli.process("services", "list", "-q")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("error: Not logged in")
    piped = user.process("apply", "-f", "-", stdin="kind: [")
    assert piped.returncode == 4


def uid(workspace: Workspace, kind: str, name: str) -> str:
    with workspace.server.kube.api() as api:
        found: dict[str, Any] | None = api.get("switchgear.dev/v1alpha1", kind, name, workspace.name)
    assert found is not None
    return str(found["metadata"]["uid"])


def streams(workspace: Workspace) -> None:
    """A streams service, made without waiting for a secret that nobody makes here."""
    body = {"environmentRef": {"name": "production"}}
    workspace.ok("POST", "/streamsservices?wait=0", 201, json=body)


def make(user: Cli, name: str) -> str:
    return user.ok("environments", "create", "--project", "app", "--name", name, "-q").strip()
