"""Deciding about services: from any start it comes to rest, and on the way it never does what it must not."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switchgear_model import conditions as c
from switchgear_model import ids, kinds, labels
from switchgear_model.conditions import Reason
from switchgear_model.kinds import (
    Database,
    Meta,
    SecretKeyRef,
    Status,
    StreamsService,
    StreamsServiceSpec,
    SyncSource,
    SyncSourceSpec,
)
from switchgear_operator import actions as a
from switchgear_operator.preflight.errors import Fault
from switchgear_operator.preflight.results import Check, CleanupResult, ProbeResult
from switchgear_operator.snapshot import Children, Config, JobView, ParentView, ServiceSnapshot, UserSecret
from switchgear_operator.specs import network, secrets
from switchgear_operator.specs.common import owned_by
from tests.operator.model_world import SLOTS, START, World, empty
from tests.support.effort import effort

CONFIG = Config("sys", "local", "http://edge", "img/shapes", "img/streams")
UID = "11111111-0000-4000-8000-000000000000"
SID = ids.service_id(UID)
URL = "postgresql://a:b@db:5433/shop"
META = Meta("orders", "ns", uid=UID, generation=2, created="2026-11-23T11:00:00Z", finalizers=(labels.FINALIZER,))
SOURCE = SyncSourceSpec("prod", Database(SecretKeyRef("db", "url")))
READY_PARENT = ParentView("Environment", "prod", found=True, ready=True)
PASSED = ProbeResult(
    tuple(Check(name, True, Reason.PASSED, "") for name in (c.DATABASE_REACHABLE, c.WAL_LEVEL_LOGICAL))
)
AWAY = ProbeResult((Check(c.DATABASE_REACHABLE, False, Reason.DATABASE_UNREACHABLE, "away", transient=True),))
WRONG = ProbeResult(
    (
        Check(c.DATABASE_REACHABLE, True, Reason.PASSED, ""),
        Check(c.WAL_LEVEL_LOGICAL, False, Reason.WAL_LEVEL_NOT_LOGICAL, "wal_level"),
    )
)
CLEAN = CleanupResult()
UNREACHABLE = CleanupResult(Fault(Reason.DATABASE_UNREACHABLE, "away", True))


def source(**changes: Any) -> ServiceSnapshot:
    base = ServiceSnapshot(
        config=CONFIG,
        obj=SyncSource(META, SOURCE, Status()),
        service_id=SID,
        parent=READY_PARENT,
        pod_key="k" * 64,
        url=UserSecret("db", "url", True, URL),
    )
    return replace(base, **changes)


def streams(**changes: Any) -> ServiceSnapshot:
    obj = StreamsService(META, StreamsServiceSpec("prod"), Status())
    return source(**({"obj": obj, "url": None} | changes))


def world(snapshot: ServiceSnapshot, **changes: Any) -> World:
    return World(snapshot, **({"probe": PASSED, "cleanup": CLEAN} | changes))


def settled_children(snapshot: ServiceSnapshot) -> Children:
    """The children of a service that has become active."""
    made = world(snapshot)
    assert made.run()
    assert made.snapshot.obj.status.state == kinds.ACTIVE
    return made.snapshot.children


def deleting(snapshot: ServiceSnapshot, **meta: Any) -> ServiceSnapshot:
    changed = replace(snapshot.obj.meta, deleting="2026-11-23T12:00:00Z", **meta)
    return replace(snapshot, obj=replace(snapshot.obj, meta=changed))


def flat(made: World) -> list[a.Action]:
    return [action for decision in made.decisions for action in decision.actions]


# Any start


CHILD_STATES = st.sampled_from(["none", "right", "drifted", "foreign", "strange", "going"])
STATES = st.sampled_from(["", *kinds.SERVICE_STATES])


def bent(name: str, child: Any, how: str) -> Any:
    if how == "none" or child is None:
        return None
    metadata = dict(child["metadata"])
    if how == "foreign":
        metadata["labels"] = metadata["labels"] | {labels.OWNER_UID: "somebody-else"}
    elif how == "strange":
        metadata["labels"] = {}
    elif how == "going":
        metadata["deletionTimestamp"] = "2026-11-23T12:00:00Z"
    elif how == "drifted":
        if "spec" in child and name != "pod":
            return child | {"spec": {}}
        metadata["labels"] = metadata["labels"] | {"more": "x"}
    return child | {"metadata": metadata}


@st.composite
def starts(draw: st.DrawFn) -> World:
    is_source = draw(st.booleans())
    snapshot = source() if is_source else streams()
    right = settled_children(snapshot)
    children = Children(
        **{name: bent(name, getattr(right, name), draw(CHILD_STATES)) for names in SLOTS.values() for name in names}
    )
    status = Status(
        state=draw(STATES),
        conditions=draw(
            st.sampled_from(
                [(), (c.true(c.READY, Reason.ACTIVE),), (c.false(c.WAL_LEVEL_LOGICAL, Reason.WAL_LEVEL_NOT_LOGICAL),)]
            )
        ),
        service_id=draw(st.sampled_from([None, SID, "other"])),
    )
    finalizers = draw(st.sampled_from([(), (labels.FINALIZER,), ("x", labels.FINALIZER)]))
    deletion = draw(st.sampled_from([None, None, "2026-11-23T12:00:00Z"]))
    meta = replace(
        META,
        finalizers=finalizers,
        deleting=deletion,
        annotations=draw(st.sampled_from([{}, {labels.ABANDON: "true"}])),
    )
    snapshot = replace(
        snapshot,
        obj=replace(snapshot.obj, meta=meta, status=status),
        children=children,
        parent=draw(
            st.sampled_from(
                [
                    READY_PARENT,
                    ParentView("Environment", "prod", found=False),
                    ParentView("Environment", "prod", found=True),
                    ParentView("Environment", "prod", found=True, deleting=True, ready=True),
                ]
            )
        ),
        id_holder=draw(st.sampled_from([None, None, None, Meta("older", "ns")])),
        name_holder=draw(st.sampled_from([None, None, None, Meta("older", "ns")])),
        namespace_terminating=draw(st.booleans()),
        readable=draw(st.sampled_from([True, True, True, False])),
    )
    if is_source:
        value = draw(st.sampled_from([URL, URL, "postgresql://a:new@db/shop", None]))
        snapshot = replace(snapshot, url=UserSecret("db", "url", draw(st.booleans()) or value is not None, value))
        view = draw(
            st.sampled_from([None, JobView(True), JobView(False, PASSED, START, 1), JobView(False, AWAY, START, 2)])
        )
        # A job that runs ends some time; here it ends at once.
        snapshot = replace(snapshot, probe=None if view and view.running else view)
    return World(
        snapshot,
        probe=draw(st.sampled_from([PASSED, PASSED, AWAY, WRONG])),
        cleanup=draw(st.sampled_from([CLEAN, CLEAN, UNREACHABLE])),
        edge=draw(st.booleans()),
        pods=draw(st.booleans()),
    )


@pytest.mark.timeout(600)
@settings(max_examples=effort(150, 1000), deadline=None)
@given(starts())
def test_from_any_start_it_comes_to_rest_and_keeps_the_rules(made: World) -> None:
    first = made.snapshot
    secret, copy = first.children.secret, first.children.database
    # 1. It comes to rest: asking a database again changes nothing.
    assert made.run(), made.decisions[-1]
    done = flat(made)
    # 2. What is not ours is never touched.
    strangers = [child for child in first.children.present() if not owned_by(child, UID)]
    uids = {child["metadata"]["uid"] for child in strangers}
    for action in done:
        if isinstance(action, a.Apply | a.Merge | a.Delete):
            assert action.uid not in uids, action
    # 3. A service secret that exists is never written.
    going = secret is not None and secret["metadata"].get("deletionTimestamp") is not None
    if secret is not None and not going and owned_by(secret, UID) and first.obj.meta.deleting is None:
        after = made.snapshot.children.secret
        assert after is not None and after.get("data") == secret.get("data")
    # 4. Nothing is made while deleting, nor in a namespace that goes away, nor before the finalizer.
    if first.obj.meta.deleting is not None or first.namespace_terminating:
        for action in done:
            assert not isinstance(action, a.Create | a.CreateServiceSecret), action
            assert not (isinstance(action, a.Apply) and action.uid is None), action
    if first.obj.meta.deleting is None and labels.FINALIZER not in first.obj.meta.finalizers:
        assert made.decisions[0].actions == (a.AddFinalizer(),)
    # 5. The copy of the URL goes only after the slot has gone, or on a human's word.
    if copy is not None and owned_by(copy, UID) and made.snapshot.children.database is None:
        cleaned = made.snapshot.cleanup is not None and made.snapshot.cleanup.result == CLEAN
        held = labels.SLOT_FINALIZER in copy["metadata"]["finalizers"]
        assert cleaned or not held or first.obj.meta.annotations.get(labels.ABANDON) == "true"
    # 6. Texts for people hold no secrets.
    for decision in made.decisions:
        for condition in decision.status.conditions if decision.status else ():
            assert "postgresql://a" not in condition.message and "new@" not in condition.message


@pytest.mark.timeout(600)
@settings(max_examples=effort(100, 1000), deadline=None)
@given(starts())
def test_once_everything_is_in_order_it_becomes_active(made: World) -> None:
    made.run(10)
    if made.gone or made.snapshot.obj.meta.deleting is not None:
        return
    mine = {n: v for names in SLOTS.values() for n in names if (v := made.child(n)) is not None and owned_by(v, UID)}
    # Whatever holds a child that is going lets it go; a copy of the URL stays while it is held.
    mine = {n: v for n, v in mine.items() if n == "database" or not v["metadata"].get("deletionTimestamp")}
    obj = made.snapshot.obj
    url = UserSecret("db", "url", True, URL) if isinstance(obj, SyncSource) else None
    made.snapshot = replace(
        made.snapshot,
        children=Children(**mine),
        parent=READY_PARENT,
        id_holder=None,
        name_holder=None,
        namespace_terminating=False,
        readable=True,
        url=url,
        probe=None,
    )
    made.probe, made.edge, made.pods = PASSED, True, True
    assert made.run(80), made.decisions[-1]
    assert made.snapshot.obj.status.state == kinds.ACTIVE, made.snapshot.obj.status
    assert c.is_true(made.snapshot.obj.status.conditions, c.READY)


@pytest.mark.timeout(600)
@settings(max_examples=effort(100, 1000), deadline=None)
@given(starts())
def test_deleting_ends_with_nothing_left(made: World) -> None:
    made.run(10)
    if made.gone:
        return
    obj = made.snapshot.obj
    going = replace(obj, meta=replace(obj.meta, deleting="2026-11-23T12:00:00Z"))
    made.snapshot = replace(made.snapshot, obj=going, readable=True)
    made.cleanup = CLEAN
    if made.snapshot.cleanup is not None and made.snapshot.cleanup.result != CLEAN:
        made.now += timedelta(hours=1)
    had = labels.FINALIZER in made.snapshot.obj.meta.finalizers
    assert made.run(80)
    assert made.gone == had
    if had:
        left = [child for child in made.snapshot.children.present() if owned_by(child, UID)]
        assert left == []


# Single rules


def test_the_order_of_a_first_start() -> None:
    made = world(replace(source(), obj=replace(source().obj, meta=replace(META, finalizers=()))))
    assert made.run()
    kinds_of = [type(action).__name__ for action in flat(made)]
    assert kinds_of[:2] == ["AddFinalizer", "StartProbe"]
    refs = [
        str(action.ref).split()[0]
        for action in flat(made)
        if isinstance(action, a.Apply | a.Create | a.CreateServiceSecret)
    ]
    assert refs == [*["Secret"] * 3, "PersistentVolumeClaim", "Service", "NetworkPolicy", "StatefulSet"]
    states = [d.status.state for d in made.decisions if d.status]
    order = [state for n, state in enumerate(states) if n == 0 or state != states[n - 1]]
    assert order == ["pending", "validating", "provisioning", "active"]


def test_a_service_admits_the_edge_and_whoever_reads_metrics() -> None:
    for namespaces in ((), ("monitoring", "alloy")):
        config = replace(CONFIG, metrics_namespaces=namespaces)
        spec = network.policy(source().obj, SID, config, [5433])["spec"]
        (rule,) = spec["ingress"]
        edge, *others = rule["from"]
        assert edge["podSelector"]["matchLabels"] == {labels.APP_NAME: labels.APP_EDGE}
        admitted = [peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in (edge, *others)]
        assert admitted == ["sys", *namespaces]
        assert spec["egress"][1:] == [{"ports": [{"port": 5433, "protocol": "TCP"}]}]


def test_nothing_is_made_before_the_database_has_passed() -> None:
    for result in (AWAY, WRONG):
        made = world(source(), probe=result)
        made.run(20)
        assert empty(made.snapshot.children)
        status = made.snapshot.obj.status
        assert status.state == kinds.ERROR and c.is_true(status.conditions, c.STALLED)
    assert status.conditions[0].reason == Reason.WAL_LEVEL_NOT_LOGICAL


def test_a_transient_fault_is_waited_for_before_it_is_an_error() -> None:
    made = world(source(), probe=AWAY)
    made.step()
    made.step()
    status = made.snapshot.obj.status
    assert status.state == kinds.VALIDATING and c.is_true(status.conditions, c.RECONCILING)


def test_a_failing_database_is_asked_ever_more_rarely() -> None:
    made = world(source(), probe=WRONG)
    times = []
    for _ in range(60):
        now = made.now
        if any(isinstance(action, a.StartProbe) for action in made.step().actions):
            times.append(now)
    pauses = [(second - first).total_seconds() for first, second in itertools.pairwise(times)]
    assert pauses == sorted(pauses) and pauses[-1] >= 30 and pauses[0] < 6


def test_the_edge_is_asked_before_active_and_never_after() -> None:
    made = world(streams(), edge=False)
    made.run(10)
    status = made.snapshot.obj.status
    assert (status.state, status.conditions[0].reason) == (kinds.PROVISIONING, Reason.EDGE_UNAVAILABLE)
    made.edge = True
    assert made.run() and made.snapshot.obj.status.state == kinds.ACTIVE
    made.edge = False
    assert made.run() and made.snapshot.obj.status.state == kinds.ACTIVE


def test_active_survives_a_short_absence_of_the_pod_and_not_a_long_one() -> None:
    made = world(streams())
    assert made.run()
    made.pods = False
    pod = made.child("pod")
    assert pod is not None
    made._put("pod", pod | {"status": {}})
    made.step()
    assert made.snapshot.obj.status.state == kinds.ACTIVE
    assert c.find(made.snapshot.obj.status.conditions, c.POD_READY).status == "False"  # type: ignore[union-attr]
    made.now += timedelta(seconds=30)
    made.step()
    assert made.snapshot.obj.status.state == kinds.DEGRADED
    made.pods = True
    assert made.run() and made.snapshot.obj.status.state == kinds.ACTIVE


def test_a_volume_claim_that_stays_pending_is_named() -> None:
    made = world(streams(), pods=False)
    made.run(10)
    pod, claim = made.child("pod"), made.child("pvc")
    assert pod is not None and claim is not None
    made._put("pod", pod | {"spec": {}})
    made.step()
    assert "waits for a node" in made.snapshot.obj.status.conditions[0].message
    made._put("pvc", claim | {"status": {"phase": "Pending"}})
    made.step()
    message = made.snapshot.obj.status.conditions[0].message
    assert f"volume claim sg-{SID} is Pending" in message and f"kubectl describe pvc sg-{SID}" in message


def test_a_running_service_outlives_its_users_secret() -> None:
    made = world(source())
    assert made.run()
    made.snapshot = replace(made.snapshot, url=UserSecret("db", "url", False))
    assert made.run()
    status = made.snapshot.obj.status
    assert status.state == kinds.ACTIVE
    assert c.find(status.conditions, c.DATABASE_SECRET_FOUND).status == "False"  # type: ignore[union-attr]


def test_a_new_url_is_probed_before_it_is_used() -> None:
    made = world(source())
    assert made.run()
    new = "postgresql://a:new@db:5433/shop"
    made.snapshot = replace(made.snapshot, url=UserSecret("db", "url", True, new), probe=None)
    made.probe = WRONG
    made.run(10)
    assert secrets.read(made.snapshot.children.database, "url") == URL
    assert made.snapshot.obj.status.state == kinds.DEGRADED
    made.probe = PASSED
    assert made.run(80)
    assert secrets.read(made.snapshot.children.database, "url") == new
    assert made.snapshot.obj.status.state == kinds.ACTIVE


def test_the_slot_is_dropped_after_the_pod_has_gone_and_before_anything_else() -> None:
    made = world(deleting(replace(source(), children=settled_children(source()))))
    assert made.run() and made.gone
    names = [type(action).__name__ for action in flat(made)]
    assert names[0] == "Merge" and names.index("StartCleanup") < names.index("Delete")
    first = next(d for d in made.decisions if any(isinstance(x, a.StartCleanup) for x in d.actions))
    stopped = made.decisions[: made.decisions.index(first)]
    assert any(d.status and d.status.conditions[0].reason == Reason.WAITING_FOR_POD for d in stopped)


def test_orphan_and_abandon_leave_the_slot_and_say_so() -> None:
    children = settled_children(source())
    orphan = replace(source(), obj=SyncSource(META, replace(SOURCE, deletion_policy=kinds.ORPHAN), Status()))
    made = world(deleting(replace(orphan, children=children)), cleanup=UNREACHABLE)
    assert made.run() and made.gone
    assert not [x for x in flat(made) if isinstance(x, a.StartCleanup)]
    abandoned = deleting(replace(source(), children=children), annotations={labels.ABANDON: "true"})
    made = world(abandoned, cleanup=UNREACHABLE)
    assert made.run() and made.gone
    (event,) = [x for x in flat(made) if isinstance(x, a.Emit)]
    assert event.reason == Reason.ABANDONED and ids.slot_name(SID) in event.note


def test_a_dead_database_holds_a_deletion_and_the_condition_says_how_to_end_it() -> None:
    made = world(deleting(replace(source(), children=settled_children(source()))), cleanup=UNREACHABLE)
    made.run(40)
    assert not made.gone
    ready = made.snapshot.obj.status.conditions[0]
    assert ready.reason == Reason.WAITING_FOR_DATABASE and "switchgear.dev/abandon=true" in ready.message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id_holder": Meta("older", "elsewhere")}, Reason.SERVICE_ID_TAKEN),
        ({"name_holder": Meta("older", "ns")}, Reason.NAME_TAKEN),
        ({"parent": ParentView("Environment", "prod", found=False)}, Reason.REFERENCE_NOT_FOUND),
        ({"parent": ParentView("Environment", "prod", found=True)}, Reason.REFERENCE_NOT_READY),
        ({"url": UserSecret("db", "url", False)}, Reason.REFERENCE_NOT_FOUND),
        ({"namespace_terminating": True}, Reason.NAMESPACE_TERMINATING),
    ],
)
def test_what_keeps_a_service_from_being_made(changes: dict[str, Any], reason: Reason) -> None:
    made = world(source(**changes))
    assert made.run()
    assert empty(made.snapshot.children)
    assert made.snapshot.obj.status.conditions[0].reason == reason


def test_the_loser_of_an_id_publishes_nothing() -> None:
    made = world(streams(id_holder=Meta("older", "elsewhere")))
    assert made.run()
    status = made.snapshot.obj.status
    assert (status.service_id, status.url, status.secret_ref, status.secret_hashes) == (None, None, None, ())


def test_an_unknown_region_is_refused() -> None:
    spec = StreamsServiceSpec("prod", region="mars")
    made = world(streams(obj=StreamsService(META, spec, Status())))
    assert made.run() and empty(made.snapshot.children)
    assert made.snapshot.obj.status.conditions[0].reason == Reason.UNKNOWN_REGION


def test_a_given_id_is_not_claimed_in_the_first_two_seconds() -> None:
    created = (START - timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    spec = StreamsServiceSpec("prod", service_id="moved")
    obj = StreamsService(replace(META, created=created), spec, Status())
    made = world(streams(obj=obj, service_id="moved"))
    first = made.step()
    assert empty(made.snapshot.children) and first.again is not None and first.again <= 2
    assert made.run() and made.snapshot.obj.status.state == kinds.ACTIVE


def test_unseen_secrets_are_not_taken_for_absent_ones() -> None:
    children = replace(settled_children(source()), secret=None, key=None, database=None)
    unseen = deleting(replace(source(), children=children, readable=False))
    made = world(unseen)
    assert made.run() and not made.gone and flat(made) == []
    assert made.snapshot.obj.status.conditions[0].reason == Reason.RIGHTS_MISSING
    running = world(replace(source(), children=children, readable=False))
    assert running.run() and flat(running) == [] and running.snapshot.obj.status == Status()
