"""Sync sources and their databases: no slot is ever stranded, and mistakes are explained."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from switchgear_local.postgres import PostgresServer
from switchgear_local.processes import free_port
from switchgear_model import kinds
from tests.operator import databases as db
from tests.operator.conftest import Region
from tests.operator.support import Space, wait
from tests.support.postgres import PostgresServers, create_database, drop_database

pytestmark = [pytest.mark.cluster, pytest.mark.pg]


@pytest.fixture(scope="module")
def own_server(region: Region) -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="sg-op-") as folder, db.server(Path(folder)) as server:
        yield server


def copy_of(space: Space, sid: str) -> dict[str, Any] | None:
    return space.api.get("v1", "Secret", f"sg-{sid}-database", space.namespace)


def active_source(space: Space, url: str, **spec: Any) -> str:
    """An active source that has made its slot; returns its id."""
    space.parents()
    space.secret("db", url=url)
    space.source("orders", **spec)
    sid = str(space.wait_state("SyncSource", "orders", "active")["serviceId"])
    db.make_slot(url, sid)
    return sid


def test_a_missing_secret_is_waited_for_and_the_pod_gets_a_copy(space: Space, url: str) -> None:
    space.parents()
    space.source("orders")
    condition = space.wait_reason("SyncSource", "orders", "ReferenceNotFound")
    assert "Secret db" in condition["message"] and space.state("SyncSource", "orders") == "pending"
    assert space.children() == []
    space.secret("db", other="x")
    wait("the key is named", lambda: "'url'" in space.condition("SyncSource", "orders")["message"])
    space.secret("db", url=url)
    status = space.wait_state("SyncSource", "orders", "active")
    sid = status["serviceId"]
    assert status["url"].endswith("/v1/shape")
    checks = {c["type"]: c["status"] for c in status["conditions"]}
    for name in ("DatabaseReachable", "ReplicationPrivilege", "WalLevelLogical", "Ready"):
        assert checks[name] == "True"
    copy = copy_of(space, sid)
    assert copy is not None and copy["metadata"]["finalizers"] == ["switchgear.dev/slot"]
    assert base64.b64decode(copy["data"]["url"]).decode() == url
    pod = space.api.get("v1", "Pod", f"sg-{sid}-0", space.namespace)
    assert pod is not None
    env = {e["name"]: e for e in pod["spec"]["containers"][0]["env"]}
    assert env["DATABASE_URL"]["valueFrom"]["secretKeyRef"] == {"name": f"sg-{sid}-database", "key": "url"}
    assert env["ELECTRIC_REPLICATION_STREAM_ID"]["value"] == sid.replace("-", "_")


def test_deleting_drops_slot_and_publication_and_the_name_is_free_at_once(space: Space, url: str) -> None:
    for _ in range(2):
        sid = active_source(space, url)
        assert db.left(url, sid) == {"slot", "publication"}
        space.kube.kubectl("delete", "syncsource", "orders", "-n", space.namespace, "--timeout=60s", timeout=70)
        assert db.left(url, sid) == set()
        assert space.children() == []
    # The user's own Secret is not ours to delete.
    assert space.api.get("v1", "Secret", "db", space.namespace) is not None


def test_deleting_the_users_secret_first_strands_nothing(region: Region, space: Space, url: str) -> None:
    sid = active_source(space, url)
    space.api.delete("v1", "Secret", "db", space.namespace)
    wait(
        "the loss is told",
        lambda: space.condition("SyncSource", "orders", "DatabaseSecretFound").get("status") == "False",
    )
    assert space.state("SyncSource", "orders") == "active"
    # Deleting the copy as well changes nothing: its finalizer holds it.
    space.api.delete("v1", "Secret", f"sg-{sid}-database", space.namespace)
    region.operator.end()
    region.operator.start()
    space.delete("SyncSource", "orders")
    space.wait_gone("SyncSource", "orders")
    assert db.left(url, sid) == set()
    assert space.children() == []


def test_deleting_the_namespace_drops_the_slot(space: Space, url: str) -> None:
    sid = active_source(space, url)
    space.api.delete("v1", "Namespace", space.namespace)
    wait("namespace gone", lambda: space.api.get("v1", "Namespace", space.namespace) is None, 90)
    assert db.left(url, sid) == set()


def test_orphan_leaves_slot_and_publication(space: Space, url: str) -> None:
    sid = active_source(space, url, deletionPolicy="Orphan")
    space.delete("SyncSource", "orders")
    space.wait_gone("SyncSource", "orders")
    assert db.left(url, sid) == {"slot", "publication"}
    assert space.children() == []
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s",
            [f"electric_slot_{sid.replace('-', '_')}"],
        )


def test_a_database_that_is_away_is_waited_for(space: Space, own_server: PostgresServer) -> None:
    sid = active_source(space, own_server.url)
    own_server.stop()
    try:
        space.delete("SyncSource", "orders")
        condition = space.wait_reason("SyncSource", "orders", "WaitingForDatabase")
        for text in (f"electric_slot_{sid.replace('-', '_')}", "switchgear.dev/abandon=true", "publication"):
            assert text in condition["message"]
        assert space.state("SyncSource", "orders") == "deleting"
        assert copy_of(space, sid) is not None
        # The pod is gone already: it would hold the slot.
        assert space.api.get("v1", "Pod", f"sg-{sid}-0", space.namespace) is None
    finally:
        own_server.start()
    space.wait_gone("SyncSource", "orders")
    assert db.left(own_server.url, sid) == set()
    assert space.children() == []


def test_abandoning_ends_it_and_says_what_was_left(space: Space, own_server: PostgresServer) -> None:
    sid = active_source(space, own_server.url)
    own_server.stop()
    try:
        space.delete("SyncSource", "orders")
        space.wait_reason("SyncSource", "orders", "WaitingForDatabase")
        space.merge("SyncSource", "orders", {"metadata": {"annotations": {"switchgear.dev/abandon": "true"}}})
        space.wait_gone("SyncSource", "orders")
        assert space.children() == []
    finally:
        own_server.start()
    events = [e for e in space.api.list("events.k8s.io/v1", "Event", space.namespace) if e["reason"] == "Abandoned"]
    assert events and f"electric_slot_{sid.replace('-', '_')}" in events[0]["note"]
    assert db.left(own_server.url, sid) == {"slot", "publication"}


def test_a_new_url_is_checked_copied_and_reaches_the_pod(region: Region, space: Space, url: str) -> None:
    space.parents()
    with db.role(url, "superuser") as (_, second):
        space.secret("db", url=url)
        space.source("orders")
        sid = space.wait_state("SyncSource", "orders", "active")["serviceId"]
        pod = space.api.get("v1", "Pod", f"sg-{sid}-0", space.namespace)
        assert pod is not None
        # A wrong one first: what runs goes on with the old URL.
        space.secret("db", url=db.with_user(url, "nobody", "hunter2secret"))
        space.wait_reason("SyncSource", "orders", "DatabaseAuthenticationFailed")
        assert space.state("SyncSource", "orders") == "degraded"
        copy = copy_of(space, sid)
        assert copy is not None and base64.b64decode(copy["data"]["url"]).decode() == url
        space.secret("db", url=second)

        def rolled() -> bool:
            now = space.api.get("v1", "Pod", f"sg-{sid}-0", space.namespace)
            return now is not None and now["metadata"]["uid"] != pod["metadata"]["uid"]

        wait("the pod restarted", rolled)
        space.wait_state("SyncSource", "orders", "active")
        copy = copy_of(space, sid)
        assert copy is not None and base64.b64decode(copy["data"]["url"]).decode() == second
        space.delete("SyncSource", "orders")
        space.wait_gone("SyncSource", "orders")
    assert "hunter2secret" not in region.operator.text()


def test_a_url_of_another_database_leaves_nothing_in_the_first(
    region: Region, space: Space, url: str, postgres_servers: PostgresServers
) -> None:
    """The second database is on the same server: slots are the server's, so the first must go before the second."""
    sid = active_source(space, url)
    pod = space.api.get("v1", "Pod", f"sg-{sid}-0", space.namespace)
    assert pod is not None
    made = create_database(postgres_servers.get(15))
    try:
        space.secret("db", url=made.url)

        def moved() -> dict[str, Any] | None:
            now = space.api.get("v1", "Pod", f"sg-{sid}-0", space.namespace)
            return now if now is not None and now["metadata"]["uid"] != pod["metadata"]["uid"] else None

        wait("a pod on the second database", moved)
        # Before there was a new pod, the first database was as we had found it.
        assert db.left(url, sid) == set()
        copy = copy_of(space, sid)
        assert copy is not None and base64.b64decode(copy["data"]["url"]).decode() == made.url
        assert copy["metadata"]["finalizers"] == ["switchgear.dev/slot"]
        space.wait_state("SyncSource", "orders", "active")
        events = space.api.list("events.k8s.io/v1", "Event", space.namespace)
        (said,) = [e for e in events if e["reason"] == "DatabaseChanged"]
        assert f"electric_slot_{sid.replace('-', '_')}" in said["note"]
        assert not [e for e in events if e["reason"] == "Abandoned"]
        db.make_slot(made.url, sid)
        space.delete("SyncSource", "orders")
        space.wait_gone("SyncSource", "orders")
        assert db.left(made.url, sid) == db.left(url, sid) == set()
        assert space.children() == []
    finally:
        drop_database(made)


def test_a_url_of_another_database_while_the_first_is_gone(
    region: Region, space: Space, url: str, own_server: PostgresServer
) -> None:
    sid = active_source(space, own_server.url)
    own_server.stop()
    try:
        space.secret("db", url=url)
        condition = space.wait_reason("SyncSource", "orders", "WaitingForDatabase")
        assert "switchgear.dev/abandon=true" in condition["message"]
        assert space.state("SyncSource", "orders") == "degraded"
        copy = copy_of(space, sid)
        assert copy is not None and base64.b64decode(copy["data"]["url"]).decode() == own_server.url

        # A restarted operator knows of the old database from the copy, and begins again.
        region.operator.end()
        region.operator.start()

        def given_up() -> list[dict[str, Any]]:
            events = space.api.list("events.k8s.io/v1", "Event", space.namespace)
            return [e for e in events if e["reason"] == "Abandoned"]

        note = wait("the Event", given_up, 90)[0]["note"]
        port = own_server.url.rpartition("@")[2].partition("?")[0]
        for text in (f"electric_slot_{sid.replace('-', '_')}", f"electric_publication_{sid.replace('-', '_')}", port):
            assert text in note
        assert given_up()[0]["type"] == "Warning" and "holds back WAL" in note and "postgresql://" not in note
        space.wait_state("SyncSource", "orders", "active")
        db.make_slot(url, sid)
        space.delete("SyncSource", "orders")
        space.wait_gone("SyncSource", "orders")
        assert db.left(url, sid) == set() and space.children() == []
    finally:
        own_server.start()
    assert db.left(own_server.url, sid) == {"slot", "publication"}


def test_an_unready_pod_of_an_old_revision_is_replaced(region: Region, space: Space, url: str) -> None:
    active_source(space, url)
    sid = (space.get("SyncSource", "orders") or {})["status"]["serviceId"]
    region.pods.unready.add(space.namespace)

    def unready() -> dict[str, Any] | None:
        pod = space.api.get("v1", "Pod", f"sg-{sid}-0", space.namespace)
        ready = [c["status"] for c in (pod or {}).get("status", {}).get("conditions", []) if c["type"] == "Ready"]
        return pod if ready == ["False"] else None

    pod = wait("the pod unready", unready)
    assert pod is not None
    # A roll-out over an unready pod waits for ever in Kubernetes: OrderedReady and Parallel alike.
    spec_ = (space.get("SyncSource", "orders") or {})["spec"]
    space.merge("SyncSource", "orders", {"spec": {"database": spec_["database"] | {"poolSize": 7}}})

    def replaced() -> bool:
        now = space.api.get("v1", "Pod", f"sg-{sid}-0", space.namespace)
        return now is not None and now["metadata"]["uid"] != pod["metadata"]["uid"]

    wait("pod replaced", replaced)
    region.pods.unready.discard(space.namespace)
    space.wait_state("SyncSource", "orders", "active")
    space.delete("SyncSource", "orders")
    space.wait_gone("SyncSource", "orders")


def spec(**changes: Any) -> dict[str, Any]:
    base = {"environmentRef": {"name": "prod"}, "database": {"urlSecretRef": {"name": "db", "key": "url"}}}
    return base | changes


REFUSED = {
    "a URL in the spec": (spec(database={"url": "postgresql://a:b@c/d"}), 'unknown field "spec.database.url"'),
    "a URL as the Secret's name": (
        spec(database={"urlSecretRef": {"name": "postgresql://a:hunter2secret@c/d", "key": "url"}}),
        "must be the name of a Secret",
    ),
    "no Secret": (spec(database={}), "urlSecretRef: {name, key}"),
    "a bad serviceId": (spec(serviceId="My_Service"), "lower-case letters, digits and '-'"),
    "a reserved serviceId": (spec(serviceId="switchgear-edge-internal"), "is reserved"),
    "a bad storage size": (spec(storage={"size": "10 GB"}), "for example 10Gi"),
    "a number as storage size": (spec(storage={"size": 10}), "must be of type string"),
    "an unknown field": (spec(regoin="eu"), 'unknown field "spec.regoin"'),
    "a bad policy": (spec(deletionPolicy="Keep"), 'supported values: "Delete", "Orphan"'),
    "no environment": ({"database": spec()["database"]}, "environmentRef"),
    "a pool of nothing": (spec(database=spec()["database"] | {"poolSize": 0}), "greater than or equal to 1"),
}


@pytest.mark.parametrize("mistake", list(REFUSED))
def test_mistakes_that_the_api_server_explains(region: Region, mistake: str) -> None:
    body, expected = REFUSED[mistake]
    manifest = kinds.manifest("SyncSource", "orders", "default", body)
    space = Space(region.kube, region.api, "default")
    said = space.kubectl([manifest], check=False)
    assert expected in said, said
    assert "hunter2secret" not in said
    assert space.get("SyncSource", "orders") is None


def test_a_name_that_is_too_long_or_dotted_is_explained(region: Region) -> None:
    space = Space(region.kube, region.api, "default")
    for name in ("a" * 64, "a.b"):
        said = space.kubectl([kinds.manifest("Workspace", name, "default", {})], check=False)
        assert "at most 63 characters" in said


def test_references_and_the_like_cannot_change(space: Space) -> None:
    first = spec(storage={"size": "2Gi", "className": "fast"}, region="local")
    space.apply("SyncSource", "orders", first)
    changes = {
        "environmentRef.name is immutable": {"environmentRef": {"name": "other"}},
        "region is immutable": {"region": "eu"},
        "serviceId is immutable": {"serviceId": "added"},
        "className is immutable": {"storage": {"size": "2Gi", "className": "slow"}},
        "never shrink": {"storage": {"size": "1Gi", "className": "fast"}},
    }
    for expected, change in changes.items():
        said = space.kubectl([kinds.manifest("SyncSource", "orders", space.namespace, first | change)], check=False)
        assert expected in said, said
    without = {key: value for key, value in first.items() if key != "region"}
    # Taking the field away is a change too (server-side apply by the owner of the field).
    said = space.kube.kubectl(
        "replace",
        "-f",
        "-",
        stdin=json.dumps(kinds.manifest("SyncSource", "orders", space.namespace, without)),
        check=False,
    )
    assert "region is immutable" in said
    grown = first | {"storage": {"size": "3Gi", "className": "fast"}}
    space.kubectl(
        [kinds.manifest("SyncSource", "orders", space.namespace, grown)], "--server-side", "--force-conflicts"
    )
    space.delete("SyncSource", "orders")
    space.wait_gone("SyncSource", "orders")


def test_mistakes_that_the_status_explains(space: Space, url: str) -> None:
    """None of them makes anything, and each ends by itself once it is corrected."""
    space.parents()
    with db.role(url, "") as (_, without_rights):
        cases: dict[str, tuple[dict[str, str] | None, dict[str, Any], str, str, str]] = {
            # name: (Secret, spec, reason, state, part of the message)
            "region": ({"url": url}, {"region": "mars"}, "UnknownRegion", "error", "Known: local"),
            "key": ({"uri": url}, {}, "ReferenceNotFound", "pending", "no key 'url'"),
            "secret": (None, {}, "ReferenceNotFound", "pending", "does not exist"),
            "environment": ({"url": url}, {"environmentRef": {"name": "nope"}}, "ReferenceNotFound", "pending", "nope"),
            "scheme": ({"url": "mysql://a:b@c/d"}, {}, "DatabaseUrlInvalid", "error", "postgresql://"),
            "password": (
                {"url": db.with_user(url, "postgres", "hunter2secret")},
                {},
                "DatabaseAuthenticationFailed",
                "error",
                "user or password",
            ),
            "rights": ({"url": without_rights}, {}, "ReplicationNotPermitted", "error", "ALTER ROLE"),
            "missing": ({"url": url + "_not"}, {}, "DatabaseNotFound", "error", "no database"),
            "line": ({"url": url + "\n"}, {}, "DatabaseUrlInvalid", "error", "line break"),
            "away": (
                {"url": f"postgresql://a:b@127.0.0.1:{free_port()}/x"},
                {},
                "DatabaseUnreachable",
                "error",
                "host, port and firewall",
            ),
        }
        for name, (secret, changes, _, _, _) in cases.items():
            if secret is not None:
                space.secret(f"db-{name}", **secret)
            space.source(name, secret=f"db-{name}", **changes)
        for name, (_, _, reason, state, text) in cases.items():
            space.wait_reason("SyncSource", name, reason)
            space.wait_state("SyncSource", name, state)
            condition = space.condition("SyncSource", name)
            assert text in condition["message"], name
            assert "hunter2secret" not in condition["message"]
            if state == "error":
                assert space.condition("SyncSource", name, "Stalled")["status"] == "True"
        assert space.children() == []
        space.secret("db-password", url=url)
        space.secret("db-key", url=url)
        space.wait_state("SyncSource", "password", "active")
        space.wait_state("SyncSource", "key", "active")
        for name in cases:
            space.delete("SyncSource", name)
        for name in cases:
            space.wait_gone("SyncSource", name)


def test_wal_level_replica_is_explained(space: Space) -> None:
    settings = {"wal_level": "replica"}
    with tempfile.TemporaryDirectory(prefix="sg-op-") as folder, db.server(Path(folder), **settings) as server:
        space.parents()
        space.secret("db", url=server.url)
        space.source("orders")
        condition = space.wait_reason("SyncSource", "orders", "WalLevelNotLogical")
        assert "wal_level" in condition["message"]
        status = (space.get("SyncSource", "orders") or {})["status"]
        checks = {k["type"]: k["status"] for k in status["conditions"]}
        assert (checks["DatabaseReachable"], checks["WalLevelLogical"]) == ("True", "False")
        space.delete("SyncSource", "orders")
        space.wait_gone("SyncSource", "orders")
