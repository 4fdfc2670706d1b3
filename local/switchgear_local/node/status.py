"""What happened to a pod's containers → the pod's status, as a kubelet would report it. Pure.

Invariants: a condition's transition time changes only with its status; a pod that ended (Succeeded, Failed) stays so;
`startTime` and the address never change once set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

Object = dict[str, Any]

ALWAYS: Final = "Always"
ON_FAILURE: Final = "OnFailure"
NEVER: Final = "Never"
TERMINAL: Final = ("Succeeded", "Failed")

CREATING: Final = "ContainerCreating"
INITIALIZING: Final = "PodInitializing"
CRASH_LOOP: Final = "CrashLoopBackOff"

# The exit code of a process whose end nobody saw: the same that a kubelet reports.
UNKNOWN_EXIT: Final = 137
UNKNOWN_REASON: Final = "ContainerStatusUnknown"


@dataclass(frozen=True)
class Waiting:
    """Not running, and why."""

    reason: str
    message: str = ""

    def render(self, container_id: str) -> Object:
        """The Kubernetes form."""
        return {"waiting": {"reason": self.reason} | ({"message": self.message} if self.message else {})}


@dataclass(frozen=True)
class Running:
    """Running since `started_at` (RFC 3339)."""

    started_at: str

    def render(self, container_id: str) -> Object:
        """The Kubernetes form."""
        return {"running": {"startedAt": self.started_at}}


@dataclass(frozen=True)
class Terminated:
    """Ended. `signal` is 0 unless a signal ended it; then `exit_code` is 128 + signal."""

    exit_code: int
    reason: str
    started_at: str
    finished_at: str
    message: str = ""
    signal: int = 0

    def render(self, container_id: str) -> Object:
        """The Kubernetes form."""
        body: Object = {
            "exitCode": self.exit_code,
            "reason": self.reason,
            "startedAt": self.started_at,
            "finishedAt": self.finished_at,
            "containerID": container_id,
        }
        if self.message:
            body["message"] = self.message
        if self.signal:
            body["signal"] = self.signal
        return {"terminated": body}


State = Waiting | Running | Terminated


@dataclass(frozen=True)
class ContainerView:
    """One container at a moment. `last` is how its previous process ended; `done` when it will not run again."""

    name: str
    image: str
    state: State
    last: Terminated | None = None
    restarts: int = 0
    ready: bool = False
    started: bool = False
    done: bool = False
    container_id: str = ""


@dataclass(frozen=True)
class PodView:
    """One pod at a moment. `start_time` is RFC 3339; `address` is empty while the pod has none."""

    init: tuple[ContainerView, ...]
    main: tuple[ContainerView, ...]
    restart_policy: str
    address: str
    host_ip: str
    start_time: str
    readiness_gates: tuple[str, ...] = ()


def timestamp(moment: datetime | None = None) -> str:
    """RFC 3339 in whole seconds, as Kubernetes writes times."""
    return (moment or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")


def ended(code: int | None, started_at: str, finished_at: str, message: str = "") -> Terminated:
    """The state after a process ended: `code` as `subprocess` gives it (negative: a signal), None when unseen."""
    if code is None:
        return Terminated(UNKNOWN_EXIT, UNKNOWN_REASON, started_at, finished_at, message or "its end was not observed")
    if code < 0:
        return Terminated(128 - code, "Error", started_at, finished_at, message, signal=-code)
    return Terminated(code, "Completed" if code == 0 else "Error", started_at, finished_at, message)


def restarts(policy: str, exit_code: int) -> bool:
    """Whether a container that ended with this code is started again."""
    return policy == ALWAYS or (policy == ON_FAILURE and exit_code != 0)


def phase(view: PodView) -> str:
    """The pod's phase."""
    if any(c.done and isinstance(c.state, Terminated) and c.state.exit_code != 0 for c in view.init):
        return "Failed"
    if not all(c.done for c in view.init):
        return "Pending"
    if view.main and all(c.done for c in view.main):
        codes = [c.state.exit_code for c in view.main if isinstance(c.state, Terminated)]
        return "Failed" if any(codes) else "Succeeded"
    begun = any(not isinstance(c.state, Waiting) or c.last is not None for c in view.main)
    return "Running" if begun else "Pending"


def conditions(view: PodView, pod_phase: str, previous: Iterable[Mapping[str, Any]], now: str) -> list[Object]:
    """The four conditions a kubelet writes."""
    before = {condition["type"]: condition for condition in previous}
    initialized = all(c.done and isinstance(c.state, Terminated) and c.state.exit_code == 0 for c in view.init)
    unready = [c.name for c in view.main if not c.ready]
    over = pod_phase in TERMINAL
    gates = [gate for gate in view.readiness_gates if before.get(gate, {}).get("status") != "True"]
    if over:
        reason, message = ("PodCompleted", "") if pod_phase == "Succeeded" else ("PodFailed", "")
    elif unready:
        reason, message = "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"
    else:
        reason, message = "", ""
    containers_ready = not over and not unready
    gate_reason = ("ReadinessGatesNotReady", f"readiness gates not True: {gates}") if gates else ("", "")
    wanted: Sequence[tuple[str, bool, str, str]] = (
        ("PodScheduled", True, "", ""),
        ("Initialized", initialized, "" if initialized else "ContainersNotInitialized", ""),
        ("ContainersReady", containers_ready, reason, message),
        ("Ready", containers_ready and not gates, *((reason, message) if not containers_ready else gate_reason)),
    )
    return [_condition(before.get(kind, {}), kind, ok, why, text, now) for kind, ok, why, text in wanted]


def _condition(old: Mapping[str, Any], kind: str, status: bool, reason: str, message: str, now: str) -> Object:
    word = "True" if status else "False"
    return {
        "type": kind,
        "status": word,
        "lastTransitionTime": old.get("lastTransitionTime") or now if old.get("status") == word else now,
        "lastProbeTime": None,
        # Explicit nulls: a strategic merge would otherwise keep what an earlier state said.
        "reason": reason or None,
        "message": message or None,
    }


def container_status(view: ContainerView) -> Object:
    """One entry of containerStatuses."""
    result: Object = {
        "name": view.name,
        "image": view.image,
        "imageID": "",
        "ready": view.ready,
        "started": view.started,
        "restartCount": view.restarts,
        "state": view.state.render(view.container_id),
        "lastState": view.last.render("") if view.last is not None else {},
    }
    if view.container_id:
        result["containerID"] = view.container_id
    return result


def pod_status(pod: Mapping[str, Any], view: PodView, now: str) -> Object:
    """The status to write for `pod` (whose current status gives the transition times)."""
    previous = pod.get("status") or {}
    pod_phase = previous["phase"] if previous.get("phase") in TERMINAL else phase(view)
    result: Object = {
        "phase": pod_phase,
        "conditions": conditions(view, pod_phase, previous.get("conditions") or (), now),
        "hostIP": view.host_ip,
        "startTime": previous.get("startTime") or view.start_time,
        "containerStatuses": [container_status(c) for c in view.main],
    }
    if view.init:
        result["initContainerStatuses"] = [container_status(c) for c in view.init]
    if view.address:
        result["podIP"] = view.address
        result["podIPs"] = [{"ip": view.address}]
        result["hostIPs"] = [{"ip": view.host_ip}]
    return result


def status_patch(pod: Mapping[str, Any], status: Mapping[str, Any]) -> Object:
    """The strategic merge patch that writes `status` to exactly this pod (by uid)."""
    body = dict(status)
    for key in ("podIPs", "hostIPs"):
        if key in body:
            # These lists merge by address: without this a former address would stay.
            body[key] = [{"$patch": "replace"}, *body[key]]
    return {"metadata": {"uid": pod["metadata"]["uid"]}, "status": body}


def covers(observed: Any, wanted: Any) -> bool:
    """Whether `observed` already says everything that `wanted` does. None in `wanted` matches an absent field."""
    if isinstance(wanted, Mapping):
        if not isinstance(observed, Mapping):
            return not wanted and not observed
        return all(covers(observed.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        if not isinstance(observed, list):
            return not wanted and not observed
        if wanted and isinstance(wanted[0], Mapping) and "type" in wanted[0]:
            by_type = {item.get("type"): item for item in observed}
            return all(covers(by_type.get(item["type"]), item) for item in wanted)
        return len(observed) == len(wanted) and all(covers(o, w) for o, w in zip(observed, wanted, strict=True))
    if wanted in (None, "", 0, False):
        return not observed
    return bool(observed == wanted)
