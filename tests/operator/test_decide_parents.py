"""Deciding about parents and namespaces, and which keys an event concerns."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from switchgear_model import conditions as c
from switchgear_model import kinds, labels
from switchgear_model.conditions import Reason
from switchgear_model.kinds import (
    Environment,
    EnvironmentSpec,
    Meta,
    Parent,
    Project,
    ProjectSpec,
    Status,
    StreamsService,
    StreamsServiceSpec,
    Workspace,
    WorkspaceSpec,
)
from switchgear_operator import actions as a
from switchgear_operator import routing
from switchgear_operator.decide import decide
from switchgear_operator.reconcile import event_for
from switchgear_operator.snapshot import Config, NamespaceSnapshot, ParentSnapshot, ParentView
from switchgear_operator.specs import roles
from switchgear_operator.store import Store

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
CONFIG = Config("sys", "local", "http://edge", "i", "i")
META = Meta("x", "ns", uid="u1", generation=1, created="2026-11-23T11:00:00Z", finalizers=(labels.FINALIZER,))
GOING = replace(META, deleting="2026-11-23T12:00:00Z")
READY = ParentView("Workspace", "acme", found=True, ready=True)
OLDER = Meta("older", "ns", uid="u0", created="2026-11-23T10:00:00Z")


def binding(role: str, **metadata: Any) -> dict[str, Any]:
    body = roles.binding(role, "ns", "sys")
    return body | {"metadata": body["metadata"] | {"uid": f"uid-{role}", "resourceVersion": "7"} | metadata}


BINDINGS = {role: binding(role) for role in roles.ACCOUNTS}


def workspace(meta: Meta = META, **changes: Any) -> ParentSnapshot:
    obj: Parent = Workspace(meta, WorkspaceSpec(), Status())
    return replace(ParentSnapshot(CONFIG, obj, bindings=BINDINGS), **changes)


def project(meta: Meta = META, **changes: Any) -> ParentSnapshot:
    return replace(ParentSnapshot(CONFIG, Project(meta, ProjectSpec(), Status()), parent=READY), **changes)


def environment(meta: Meta = META, **changes: Any) -> ParentSnapshot:
    obj = Environment(meta, EnvironmentSpec("shop"), Status())
    return replace(ParentSnapshot(CONFIG, obj, parent=replace(READY, kind="Project", name="shop")), **changes)


def ready(decision: a.Decision) -> c.Condition:
    assert decision.status is not None
    return decision.status.conditions[0]


@pytest.mark.parametrize("make", [workspace, project, environment])
def test_in_order_it_is_active_and_does_nothing(make: Any) -> None:
    decision = decide(make(), NOW)
    assert decision.actions == () and decision.status is not None and decision.status.state == kinds.ACTIVE
    assert c.is_true(decision.status.conditions, c.READY)
    again = decide(make(obj=replace(make().obj, status=decision.status)), datetime.now(UTC))
    assert again.status == decision.status


@pytest.mark.parametrize("make", [workspace, project, environment])
def test_the_finalizer_comes_first(make: Any) -> None:
    assert decide(make(replace(META, finalizers=())), NOW).actions == (a.AddFinalizer(),)


@pytest.mark.parametrize("make", [workspace, project, environment])
def test_deleting_waits_for_what_is_below_and_deletes_it_once(make: Any) -> None:
    child = StreamsService(replace(META, name="a", uid="c1"), StreamsServiceSpec("x"), Status())
    going = StreamsService(replace(GOING, name="b", uid="c2"), StreamsServiceSpec("x"), Status())
    decision = decide(make(GOING, below=(child, going)), NOW)
    assert decision.actions == (a.Delete(a.Ref("StreamsService", "ns", "a"), "c1"),)
    assert decision.status is not None and decision.status.state == kinds.DELETING
    assert decide(make(GOING, below=(going,)), NOW).actions == ()
    assert decide(make(GOING), NOW).actions == (a.RemoveFinalizer(),)
    assert decide(make(replace(GOING, finalizers=("x",))), NOW) == a.Decision()


@pytest.mark.parametrize(
    ("parent", "reason"),
    [
        (replace(READY, found=False, name=""), Reason.REFERENCE_NOT_FOUND),
        (replace(READY, deleting=True), Reason.REFERENCE_NOT_FOUND),
        (replace(READY, ready=False), Reason.REFERENCE_NOT_READY),
    ],
)
def test_waiting_is_reconciling_and_looked_at_again_in_two_seconds(parent: ParentView, reason: Reason) -> None:
    decision = decide(project(parent=parent), NOW)
    assert ready(decision).reason == reason and decision.again == 2.0
    assert c.is_true(decision.status.conditions, c.RECONCILING)  # type: ignore[union-attr]


def test_a_taken_name_is_stalled() -> None:
    decision = decide(project(holder=OLDER), NOW)
    assert ready(decision).reason == Reason.NAME_TAKEN and "older" in ready(decision).message
    assert c.is_true(decision.status.conditions, c.STALLED)  # type: ignore[union-attr]


def test_a_second_workspace_owns_nothing_and_deletes_nothing() -> None:
    assert ready(decide(workspace(holder=OLDER), NOW)).reason == Reason.NAMESPACE_TAKEN
    below = (Project(replace(META, uid="p"), ProjectSpec(), Status()),)
    assert decide(workspace(GOING, holder=OLDER, below=below), NOW).actions == (a.RemoveFinalizer(),)
    assert decide(workspace(replace(META, finalizers=()), holder=OLDER), NOW).actions == ()


def test_a_workspace_is_ready_once_the_rights_are_there() -> None:
    decision = decide(workspace(bindings={}), NOW)
    assert [type(action) for action in decision.actions] == [a.Apply, a.Apply]
    assert ready(decision).status == "False"
    assert decide(workspace(bindings={}, namespace_terminating=True), NOW).actions == ()
    bare = BINDINGS | {labels.API_SECRETS_ROLE: binding(labels.API_SECRETS_ROLE, finalizers=[])}
    (repair,) = decide(workspace(bindings=bare), NOW).actions
    assert isinstance(repair, a.Apply) and repair.uid == f"uid-{labels.API_SECRETS_ROLE}"
    # One that is being deleted cannot be given a finalizer, and grants until it is let go.
    held = BINDINGS | {labels.API_SECRETS_ROLE: binding(labels.API_SECRETS_ROLE, deletionTimestamp="x")}
    assert decide(workspace(bindings=held), NOW).actions == ()


def test_bindings_go_with_the_last_object() -> None:
    assert decide(NamespaceSnapshot("ns", True, BINDINGS), NOW) == a.Decision()
    done = decide(NamespaceSnapshot("ns", False, BINDINGS), NOW).actions
    assert [type(action) for action in done] == [a.Delete, a.Merge] * 2
    going = {role: binding(role, deletionTimestamp="x", finalizers=["y", labels.FINALIZER]) for role in roles.ACCOUNTS}
    merges = decide(NamespaceSnapshot("ns", False, going), NOW).actions
    assert [m.patch for m in merges if isinstance(m, a.Merge)] == [{"metadata": {"finalizers": ["y"]}}] * 2
    assert decide(NamespaceSnapshot("ns", False, {}), NOW).actions == ()


# Events on transitions


def test_events_are_for_transitions_only() -> None:
    def status(ready_: c.Condition, *more: c.Condition, state: str = "x") -> Status:
        return Status(state=state, conditions=(ready_, *more))

    working = status(c.false(c.READY, Reason.PROVISIONING, "m"))
    active = status(c.true(c.READY, Reason.ACTIVE))
    degraded = status(c.false(c.READY, Reason.POD_NOT_READY, "pod"))
    stuck = status(c.false(c.READY, Reason.NAME_TAKEN, "name"), c.true(c.STALLED, Reason.NAME_TAKEN))
    assert event_for(Status(), working) is None
    assert event_for(working, active) == a.Emit("Normal", "Active", "Ready.")
    assert event_for(active, active) is None
    assert event_for(active, degraded) == a.Emit("Warning", "PodNotReady", "pod")
    assert event_for(Status(), stuck) == a.Emit("Warning", "NameTaken", "name")
    assert event_for(stuck, stuck) is None
    assert event_for(active, replace(degraded, state=kinds.DELETING)) is None


# Routing


def raw(kind: str, name: str, spec: dict[str, Any], version: int, **metadata: Any) -> dict[str, Any]:
    made = kinds.manifest(kind, name, "ns", spec)
    made["metadata"] |= {
        "uid": f"u-{name}",
        "resourceVersion": str(version),
        "creationTimestamp": "2026-11-23T12:00:00Z",
    }
    made["metadata"] |= metadata
    return made


@pytest.fixture
def store() -> Store:
    made = Store()
    made.update(raw("Workspace", "acme", {}, 1), gone=False)
    made.update(raw("Project", "shop", {}, 2), gone=False)
    made.update(raw("Environment", "prod", {"projectRef": {"name": "shop"}}, 3), gone=False)
    made.update(raw("StreamsService", "chat", {"environmentRef": {"name": "prod"}}, 4), gone=False)
    return made


def test_a_new_parent_wakes_those_below_it(store: Store) -> None:
    change = store.update(raw("Environment", "prod2", {"projectRef": {"name": "shop"}}, 9), gone=False)
    assert routing.of_ours(store, change) == {("Environment", "ns", "prod2")}
    change = store.update(raw("Environment", "prod", {"projectRef": {"name": "shop"}}, 10), gone=True)
    assert routing.of_ours(store, change) == {
        ("Environment", "ns", "prod"),
        ("StreamsService", "ns", "chat"),
        ("Project", "ns", "shop"),
        ("Namespace", "", "ns"),
    }


def test_a_status_that_says_nothing_new_below_wakes_nobody_else(store: Store) -> None:
    change = store.update(raw("Project", "shop", {"displayName": "Shop"}, 11), gone=False)
    assert routing.of_ours(store, change) == {("Project", "ns", "shop")}


def test_the_end_of_a_service_wakes_its_parent(store: Store) -> None:
    gone = raw("StreamsService", "chat", {"environmentRef": {"name": "prod"}}, 12)
    assert ("Environment", "ns", "prod") in routing.of_ours(store, store.update(gone, gone=True))


def test_a_child_wakes_the_service_of_its_labels() -> None:
    found = {labels.KIND: "StreamsService", labels.NAME: "chat"}
    assert routing.of_child({"metadata": {"namespace": "ns", "labels": found}}) == {("StreamsService", "ns", "chat")}
    assert routing.of_child({"metadata": {"namespace": "ns"}}) == set()


def test_a_namespace_that_goes_wakes_everything_in_it(store: Store) -> None:
    assert routing.of_namespace(store, {"metadata": {"name": "ns"}}) == set()
    going = {"metadata": {"name": "ns", "deletionTimestamp": "x"}}
    assert len(routing.of_namespace(store, going)) == 5
    assert routing.of_binding(store, {"metadata": {"namespace": "ns"}}) == {
        ("Workspace", "ns", "acme"),
        ("Namespace", "", "ns"),
    }
