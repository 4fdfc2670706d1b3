"""Container states → pod status."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from switchgear_local.node.status import (
    ContainerView,
    PodView,
    Running,
    Terminated,
    Waiting,
    covers,
    ended,
    phase,
    pod_status,
    restarts,
    status_patch,
)

T0, T1 = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"
OK = Terminated(0, "Completed", T0, T1)
BAD = Terminated(3, "Error", T0, T1)
POD: dict[str, Any] = {"metadata": {"uid": "u", "name": "p", "namespace": "n"}, "spec": {}}

waiting = ContainerView("c", "i", Waiting("ContainerCreating"))
running = ContainerView("c", "i", Running(T0), started=True)
ready = replace(running, ready=True)
crashed = ContainerView("c", "i", Waiting("CrashLoopBackOff", "back-off 1s"), last=BAD, restarts=2)
succeeded = ContainerView("c", "i", OK, done=True)
failed = ContainerView("c", "i", BAD, done=True)
stopped = ContainerView("c", "i", BAD)


def view(*main: ContainerView, init: tuple[ContainerView, ...] = (), **more: Any) -> PodView:
    return PodView(
        init=init,
        main=main,
        restart_policy="Always",
        address="127.64.0.1",
        host_ip="127.0.0.1",
        start_time=T0,
        **more,
    )


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (view(waiting), "Pending"),
        (view(running), "Running"),
        (view(waiting, running), "Running"),
        (view(crashed), "Running"),
        (view(stopped), "Running"),
        (view(succeeded), "Succeeded"),
        (view(succeeded, running), "Running"),
        (view(succeeded, failed), "Failed"),
        (view(waiting, init=(running,)), "Pending"),
        (view(waiting, init=(crashed,)), "Pending"),
        (view(waiting, init=(failed,)), "Failed"),
        (view(running, init=(succeeded,)), "Running"),
    ],
)
def test_phase(what: PodView, expected: str) -> None:
    assert phase(what) == expected


def conditions(status: dict[str, Any]) -> dict[str, str]:
    return {c["type"]: c["status"] for c in status["conditions"]}


def test_a_ready_pod() -> None:
    status = pod_status(POD, view(ready), T1)
    assert conditions(status) == dict.fromkeys(("PodScheduled", "Initialized", "ContainersReady", "Ready"), "True")
    assert (status["podIP"], status["podIPs"], status["startTime"]) == ("127.64.0.1", [{"ip": "127.64.0.1"}], T0)
    entry = status["containerStatuses"][0]
    assert entry["state"] == {"running": {"startedAt": T0}}
    assert (entry["ready"], entry["started"], entry["restartCount"]) == (True, True, 0)


def test_one_unready_container_makes_the_pod_unready_and_is_named() -> None:
    status = pod_status(POD, view(ready, replace(running, name="slow")), T1)
    assert conditions(status)["Ready"] == "False"
    reasons = {c["type"]: (c["reason"], c["message"]) for c in status["conditions"]}
    assert reasons["Ready"] == ("ContainersNotReady", "containers with unready status: [slow]")


def test_a_crash_loop_shows_how_it_ended() -> None:
    entry = pod_status(POD, view(crashed), T1)["containerStatuses"][0]
    assert entry["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert entry["lastState"]["terminated"]["exitCode"] == 3
    assert entry["restartCount"] == 2


def test_readiness_gates_of_others_count() -> None:
    gated = view(ready, readiness_gates=("example.com/ok",))
    assert conditions(pod_status(POD, gated, T1))["Ready"] == "False"
    assert conditions(pod_status(POD, gated, T1))["ContainersReady"] == "True"
    with_gate = POD | {"status": {"conditions": [{"type": "example.com/ok", "status": "True"}]}}
    assert conditions(pod_status(with_gate, gated, T1))["Ready"] == "True"


def test_transition_times_change_only_with_the_status() -> None:
    first = pod_status(POD, view(running), T0)
    later = pod_status(POD | {"status": first}, view(ready), T1)
    times = {c["type"]: c["lastTransitionTime"] for c in later["conditions"]}
    assert times == {"PodScheduled": T0, "Initialized": T0, "ContainersReady": T1, "Ready": T1}
    assert later["startTime"] == T0


def test_a_pod_that_ended_stays_so() -> None:
    status = pod_status(POD | {"status": {"phase": "Failed"}}, view(running), T1)
    assert status["phase"] == "Failed"
    assert conditions(status)["Ready"] == "False"


def test_initialized_waits_for_every_init_container() -> None:
    assert conditions(pod_status(POD, view(waiting, init=(succeeded, running)), T1))["Initialized"] == "False"
    assert conditions(pod_status(POD, view(waiting, init=(succeeded,)), T1))["Initialized"] == "True"


@pytest.mark.parametrize(
    ("code", "exit_code", "reason", "signal"),
    [(0, 0, "Completed", 0), (7, 7, "Error", 0), (-9, 137, "Error", 9), (None, 137, "ContainerStatusUnknown", 0)],
)
def test_how_a_process_ended(code: int | None, exit_code: int, reason: str, signal: int) -> None:
    got = ended(code, T0, T1)
    assert (got.exit_code, got.reason, got.signal) == (exit_code, reason, signal)


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [
        ("Always", 0, True),
        ("Always", 1, True),
        ("OnFailure", 0, False),
        ("OnFailure", 1, True),
        ("Never", 0, False),
        ("Never", 1, False),
    ],
)
def test_restart_policy(policy: str, code: int, again: bool) -> None:
    assert restarts(policy, code) is again


def test_the_patch_is_for_this_pod_and_replaces_addresses() -> None:
    patch = status_patch(POD, pod_status(POD, view(ready), T1))
    assert patch["metadata"] == {"uid": "u"}
    assert patch["status"]["podIPs"] == [{"$patch": "replace"}, {"ip": "127.64.0.1"}]


def test_nothing_is_written_twice() -> None:
    status = pod_status(POD, view(ready), T0)
    # As the API server gives it back: nulls and empty values gone, fields of its own added.
    stored = {
        **status,
        "qosClass": "BestEffort",
        "conditions": [
            {k: v for k, v in c.items() if v is not None} for c in (*status["conditions"], {"type": "Other"})
        ],
    }
    assert covers(stored, pod_status(POD | {"status": stored}, view(ready), T1))
    assert not covers(stored, pod_status(POD | {"status": stored}, view(running), T1))
    assert not covers(stored, pod_status(POD | {"status": stored}, view(replace(ready, restarts=1)), T1))


def test_a_reason_that_is_over_is_taken_back() -> None:
    unready = pod_status(POD, view(running), T0)
    assert not covers(unready, pod_status(POD | {"status": unready}, view(ready), T1))
    patched = pod_status(POD | {"status": unready}, view(ready), T1)
    assert all(c["reason"] is None for c in patched["conditions"])
