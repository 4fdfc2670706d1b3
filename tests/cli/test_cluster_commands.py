"""`apply`, `status` and `kubeconfig`, straight at the real API server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.support.kube import Kube

pytestmark = pytest.mark.cluster

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def admin(cli: Cli, kube: Kube) -> Cli:
    return Cli(cli.home, {"KUBECONFIG": str(kube.admin_kubeconfig)})


@pytest.fixture
def space(kube: Kube) -> str:
    return kube.new_namespace("cli")


def quickstart(space: str) -> str:
    text = (EXAMPLES / "quickstart.yaml").read_text()
    return text.replace("namespace: quickstart", f"namespace: {space}").replace(
        "name: quickstart\n", f"name: {space}\n"
    )


def results(text: str) -> list[tuple[str, str]]:
    return [(r["kind"], r["result"]) for r in json.loads(text)]


def test_the_examples_are_valid(admin: Cli, space: str) -> None:
    made = results(admin.ok("apply", "-f", "-", "--json", stdin=quickstart(space)))
    kinds = ["Namespace", "Workspace", "Project", "Environment", "SyncSource", "StreamsService"]
    assert [kind for kind, _ in made] == kinds
    assert [result for _, result in made[1:]] == ["created"] * 5
    again = results(admin.ok("apply", "-f", "-", "--json", stdin=quickstart(space)))
    assert {result for _, result in again[1:]} == {"unchanged"}
    pull_request = (EXAMPLES / "pr-42.yaml").read_text().replace("namespace: quickstart", f"namespace: {space}")
    made = results(admin.ok("apply", "-f", "-", "--json", stdin=pull_request))
    assert {result for _, result in made} == {"created"}


def test_status_shows_all_of_it(admin: Cli, kube: Kube, space: str) -> None:
    admin.ok("apply", "-f", "-", stdin=quickstart(space))
    rows = admin.json("status", "-n", space)
    assert [(r["kind"], r["name"]) for r in rows] == [
        ("Workspace", space),
        ("Project", "app"),
        ("Environment", "app-production"),
        ("SyncSource", "app-production-db"),
        ("StreamsService", "app-production-events"),
    ]
    for row in rows:
        assert {"kind", "namespace", "name", "state", "serviceId", "url"} <= set(row)
        assert (row["namespace"], row["state"], row["serviceId"]) == (space, "pending", None)
    table = admin.ok("status", "-n", space)
    assert "Service id" in table
    assert "app-production-events" in table
    everything = admin.json("status")
    assert space in {r["namespace"] for r in everything}


def test_objects_are_applied_one_by_one(admin: Cli, space: str) -> None:
    """One bad object does not keep the others from being applied, and the status says so."""
    text = f"""
apiVersion: switchgear.dev/v1alpha1
kind: Environment
metadata: {{name: bad, namespace: {space}}}
spec: {{projectRef: {{name: app}}, colour: green}}
---
apiVersion: switchgear.dev/v1alpha1
kind: Project
metadata: {{name: good}}
---
apiVersion: example.com/v1
kind: Nothing
metadata: {{name: x}}
"""
    done = admin("apply", "-f", "-", "-n", space, "--json", stdin=text)
    assert done.returncode == 4
    assert results(done.stdout) == [("Environment", "failed"), ("Project", "created"), ("Nothing", "failed")]
    error = json.loads(done.stderr)
    assert error["exitCode"] == 4
    assert "colour" in error["message"]
    people = admin("apply", "-f", "-", "-n", space, stdin=text)
    assert "the spelling" in people.stdout


def test_a_field_of_another_tool_is_not_taken_by_surprise(admin: Cli, kube: Kube, space: str) -> None:
    path = f"-n={space}"
    kube.kubectl("apply", "--server-side", path, "-f", "-", stdin=project("one"))
    refused = admin.fails(5, "apply", "-f", "-", "-n", space, stdin=project("two"))
    assert "--force-conflicts" in refused["message"]
    taken = admin.ok("apply", "-f", "-", "-n", space, "--force-conflicts", "--json", stdin=project("two"))
    assert results(taken) == [("Project", "configured")]


def test_a_dry_run_changes_nothing(admin: Cli, space: str) -> None:
    assert results(admin.ok("apply", "-f", "-", "-n", space, "--dry-run", "--json", stdin=project("x")))
    assert admin.json("status", "-n", space) == []


def test_a_new_kind_can_be_used_by_what_follows_it(admin: Cli, kube: Kube, space: str) -> None:
    group = f"{space}.example.com"
    text = f"""
apiVersion: {group}/v1
kind: Widget
metadata: {{name: w, namespace: {space}}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: widgets.{group}}}
spec:
  group: {group}
  scope: Namespaced
  names: {{plural: widgets, kind: Widget}}
  versions:
  - {{name: v1, served: true, storage: true, schema: {{openAPIV3Schema: {{type: object}}}}}}
"""
    try:
        made = results(admin.ok("apply", "-f", "-", "--json", stdin=text))
        assert made == [("CustomResourceDefinition", "created"), ("Widget", "created")]
    finally:
        kube.kubectl("delete", "crd", f"widgets.{group}", check=False)


def test_which_cluster(cli: Cli, kube: Kube, space: str) -> None:
    given = ("--kubeconfig", str(kube.admin_kubeconfig))
    assert cli.json("status", "-n", space, *given) == []
    assert cli.fails(3, "status", "--kubeconfig", "none")["error"] == "NOT_FOUND"
    assert cli.fails(3, "apply", "-f", "-", stdin=project("x"), KUBECONFIG="/none")["error"] == "NOT_FOUND"
    empty = str(cli.home / "empty")
    assert "switchgear up" in cli.fails(3, "kubeconfig", "--data-dir", empty)["message"]
    assert "switchgear up" in cli.fails(3, "status", SWITCHGEAR_DATA_DIR=empty)["message"]
    broken = cli.home / "broken"
    broken.write_text("{}")
    assert cli.fails(1, "status", "--kubeconfig", str(broken))["exitCode"] == 1
    away = cli.home / "away"
    away.write_text(kube.admin_kubeconfig.read_text().replace(kube.server, "https://127.0.0.1:1"))
    assert cli.fails(1, "status", "--kubeconfig", str(away))["error"] == "UNAVAILABLE"


def test_files_that_are_not_there_or_no_objects(admin: Cli) -> None:
    assert admin.fails(3, "apply", "-f", "none.yaml")["error"] == "NOT_FOUND"
    assert admin.fails(4, "apply", "-f", "-", stdin="a: [")["error"] == "VALIDATION"
    assert admin.fails(4, "apply", "-f", "-", stdin="")["error"] == "VALIDATION"
    assert admin.fails(4, "apply")["error"] == "VALIDATION"


def test_the_region_commands_check_what_they_are_given(cli: Cli) -> None:
    assert "--demo" in cli.fails(4, "up", "--database-url", "postgresql://x")["message"]
    assert "not set" in cli.fails(4, "up", "--demo", "--database-url-env", "NO_SUCH_VARIABLE")["message"]
    both = ("--database-url", "postgresql://x", "--database-url-env", "HOME")
    assert cli.fails(4, "up", "--demo", *both)["error"] == "VALIDATION"


def project(display: str) -> str:
    return (
        f"apiVersion: switchgear.dev/v1alpha1\nkind: Project\nmetadata: {{name: p}}\nspec: {{displayName: {display}}}\n"
    )


def _drain(terminal: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(terminal, 65_536):
            pass


def test_watching_follows_until_interrupted(admin: Cli, space: str) -> None:
    process, terminal = admin.start_at_terminal("status", "--watch", "-n", space)
    try:
        admin.ok("apply", "-f", "-", "-n", space, stdin=project("x"))
        shown = ""
        while "Project" not in shown or "pending" not in shown:
            shown += os.read(terminal, 65_536).decode(errors="replace")
        process.send_signal(signal.SIGINT)
        # What it still draws must have somewhere to go, or it would wait for us as we for it.
        threading.Thread(target=_drain, args=(terminal,), daemon=True).start()
        assert process.wait(60) == 0
    finally:
        process.kill()
        os.close(terminal)
    assert "--watch" in admin.fails(4, "status", "--watch")["message"]
