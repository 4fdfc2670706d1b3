"""A URL that leads to another database: the old one is let go of first, whatever happens in between."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switchgear_model import conditions as c
from switchgear_model import ids, kinds, labels
from switchgear_model.conditions import Reason
from switchgear_model.kinds import Status, SyncSource
from switchgear_operator import actions as a
from switchgear_operator.preflight.url import target
from switchgear_operator.snapshot import UserSecret
from tests.operator.model_world import World
from tests.operator.test_decide_services import (
    CLEAN,
    META,
    PASSED,
    SID,
    SOURCE,
    UNREACHABLE,
    URL,
    WRONG,
    deleting,
    flat,
    source,
    world,
)
from tests.support.effort import effort

ELSEWHERE = "postgresql://a:hunter2@other:5432/shop"
SAME_SERVER = "postgresql://a:hunter2@db:5433/shop2"
PASSWORD = "postgresql://a:hunter2@db:5433/shop"


def point(made: World, url: str | None) -> None:
    """The user's Secret says something else now; the operator has not looked at that database yet."""
    secret = UserSecret("db", "url", url is not None, url)
    made.snapshot = replace(made.snapshot, url=secret, probe=None)


def running(**changes: object) -> World:
    made = world(source(**changes))
    assert made.run() and made.slots == {target(URL)}
    made.decisions.clear()
    return made


def shown(made: World) -> list[tuple[str, str, str]]:
    ready = [(d.status.state, d.status.conditions[0]) for d in made.decisions if d.status]
    return [(state, str(k.reason), k.message) for state, k in ready if k.status == "False"]


@pytest.mark.parametrize("new", [ELSEWHERE, SAME_SERVER])
def test_pod_then_slot_then_copy(new: str) -> None:
    made = running()
    point(made, new)
    copies = []
    for _ in range(30):
        decision = made.step()
        copies.append((made.copied(), [type(x).__name__ for x in decision.actions]))
    assert made.slots == {target(new)} and not made.left
    assert made.snapshot.obj.status.state == kinds.ACTIVE
    dropped = next(n for n, (_, names) in enumerate(copies) if "StartCleanup" in names)
    assert [url for url, _ in copies[: dropped + 1]] == [URL] * (dropped + 1) and copies[dropped + 1][0] == new
    (start,) = [x for x in flat(made) if isinstance(x, a.StartCleanup)]
    assert start.url == URL
    # The server's new credentials open its old database, too; another server never sees them.
    assert start.fallback_url is None if new == ELSEWHERE else start.fallback_url == PASSWORD
    told = [(state, text) for state, reason, text in shown(made) if reason == Reason.DATABASE_CHANGED]
    assert {state for state, _ in told} == {kinds.DEGRADED}
    assert any("pod to stop" in text for _, text in told) and any("Dropping" in text for _, text in told)
    assert all("db:5433/shop" in text and ids.slot_name(SID) in text for _, text in told)


def test_nothing_is_let_go_of_before_the_new_database_has_passed() -> None:
    made = running()
    point(made, ELSEWHERE)
    made.probe = WRONG
    made.run(20)
    assert made.copied() == URL and made.child("pod") is not None
    assert not [x for x in flat(made) if isinstance(x, a.StartCleanup)]


def test_another_password_or_pooled_url_lets_go_of_nothing() -> None:
    made = running()
    point(made, PASSWORD)
    assert made.run() and made.copied() == PASSWORD
    pooled = UserSecret("db", "pooled", True, "postgresql://a:b@pool/shop")
    made.snapshot = replace(made.snapshot, pooled_url=pooled)
    assert made.run() and made.snapshot.obj.status.state == kinds.ACTIVE
    done = flat(made)
    assert not [x for x in done if isinstance(x, a.StartCleanup)]
    assert not [x for x in done if isinstance(x, a.Merge) and x.patch.get("spec") == {"replicas": 0}]


@pytest.mark.parametrize(("annotations", "attempts"), [({}, 3), ({labels.ABANDON: "true"}, 1)])
def test_an_old_database_that_is_gone_is_given_up(annotations: dict[str, str], attempts: int) -> None:
    made = running(obj=SyncSource(replace(META, annotations=annotations), SOURCE, Status()))
    made.cleanup = UNREACHABLE
    point(made, ELSEWHERE)
    assert made.run(80)
    assert made.snapshot.obj.status.state == kinds.ACTIVE and made.copied() == ELSEWHERE
    assert len([x for x in flat(made) if isinstance(x, a.StartCleanup)]) == attempts
    (event,) = [x for x in flat(made) if isinstance(x, a.Emit)]
    assert (event.type, event.reason) == ("Warning", Reason.ABANDONED)
    for text in (ids.slot_name(SID), ids.publication_name(SID), "db:5433/shop", "holds back WAL"):
        assert text in event.note
    assert "a:b" not in event.note and "hunter2" not in event.note and len(event.note) < 1000
    reasons = [reason for _, reason, _ in shown(made)]
    assert Reason.ABANDONED in reasons and (Reason.WAITING_FOR_DATABASE in reasons) == (attempts > 1)


def test_orphan_leaves_the_old_database_alone_and_says_so() -> None:
    made = running(obj=SyncSource(META, replace(SOURCE, deletion_policy=kinds.ORPHAN), Status()))
    point(made, ELSEWHERE)
    assert made.run() and made.snapshot.obj.status.state == kinds.ACTIVE
    assert not [x for x in flat(made) if isinstance(x, a.StartCleanup)]
    (event,) = [x for x in flat(made) if isinstance(x, a.Emit)]
    assert (event.type, event.reason) == ("Normal", Reason.ORPHANED) and "db:5433/shop" in event.note
    assert made.slots == {target(URL), target(ELSEWHERE)} and made.left == {target(URL)}


def test_what_a_cleanup_did_counts_no_longer_once_the_pod_runs_again() -> None:
    made = running()
    point(made, ELSEWHERE)
    while not (made.snapshot.cleanup and made.snapshot.cleanup.result == CLEAN):
        made.step()
    assert made.copied() == URL
    point(made, URL)  # the user has thought better of it
    assert made.run() and made.slots == {target(URL)} and made.snapshot.cleanup is None
    made.snapshot = deleting(made.snapshot)
    assert made.run() and made.gone and made.slots == set()


EVENTS = st.lists(
    st.one_of(
        st.sampled_from([URL, ELSEWHERE, SAME_SERVER, PASSWORD, None]),
        st.sampled_from(["restart", "away", "back", "wrong", "right"]),
        st.integers(1, 6),
    ),
    max_size=14,
)


@pytest.mark.timeout(600)
@settings(max_examples=effort(120, 1000), deadline=None)
@given(EVENTS, st.sampled_from([URL, ELSEWHERE, SAME_SERVER]), st.booleans())
def test_whatever_happens_no_slot_is_left_unsaid(events: list[str | int | None], last: str, delete: bool) -> None:
    made = running()
    for event in events:
        match event:
            case int():
                for _ in range(event):
                    made.step()
            case "restart":
                # What is only in the operator's memory is gone.
                made.snapshot = replace(made.snapshot, probe=None, cleanup=None)
            case "away" | "back":
                made.cleanup = UNREACHABLE if event == "away" else CLEAN
            case "wrong" | "right":
                made.probe = WRONG if event == "wrong" else PASSED
            case _:
                point(made, event)
    made.cleanup, made.probe = CLEAN, PASSED
    point(made, last)
    assert made.run(120), made.decisions[-1]
    assert made.snapshot.obj.status.state == kinds.ACTIVE
    assert c.is_true(made.snapshot.obj.status.conditions, c.READY)
    current = target(made.copied() or "")
    assert current == target(last) and current in made.slots and made.slots - made.left <= {current}
    for _, _, message in shown(made):
        assert "hunter2" not in message and "a:b@" not in message
    if delete:
        made.snapshot = deleting(made.snapshot)
        assert made.run(80) and made.gone and made.slots <= made.left
