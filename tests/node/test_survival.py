"""Kills and outages: the node's own, the API server's, and what pods see of them."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from switchgear_local.node import process

from .conftest import Place, alive, eventually, kill, pod_manifest
from .test_pods import HOST, claim

pytestmark = [pytest.mark.cluster, pytest.mark.crash]

# A server that says its pid, is ready while /w/ok exists and can be told to end with a status.
SERVER = """
import http.server, os, pathlib, threading, time
print(os.getpid(), flush=True)
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ok = not pathlib.Path(os.environ["W"], "sick").exists()
        self.send_response(200 if ok else 503); self.end_headers()
        print("probed", flush=True)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer((os.environ["HOST"], 8080), H).serve_forever()
"""


def server(name: str, **spec: Any) -> dict[str, Any]:
    probe = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1, "failureThreshold": 3, "timeoutSeconds": 30}
    container = {
        "env": [HOST, {"name": "W", "value": "/w"}],
        "volumeMounts": [{"name": "w", "mountPath": "/w"}],
        "startupProbe": probe | {"failureThreshold": 60},
        "readinessProbe": probe,
        "livenessProbe": probe | {"failureThreshold": 30},
    }
    volumes = spec.pop("volumes", [{"name": "w", "emptyDir": {}}])
    return pod_manifest(name, "python", "-c", SERVER, container=container, volumes=volumes, **spec)


def first_pid(place: Place, pod: str) -> int:
    text = eventually(lambda: place.container(pod).get("started") and place.logs(pod).splitlines(), "its pid")
    return int(text[0])


@contextmanager
def watching(place: Place, pod: str) -> Iterator[list[str]]:
    """Collects every change of the pod's Ready condition and of its restart count."""
    control = place.kube.control_plane
    columns = (
        "-o=custom-columns=R:.status.conditions[?(@.type=='Ready')].status,C:.status.containerStatuses[0].restartCount"
    )
    command = [str(control.binaries.kubectl), f"--kubeconfig={control.admin_kubeconfig}", "-n", place.namespace]
    watcher = subprocess.Popen(
        [*command, "get", "pod", pod, "-w", "--no-headers", columns], stdout=subprocess.PIPE, text=True
    )
    seen: list[str] = []

    def read() -> None:
        assert watcher.stdout is not None
        for line in watcher.stdout:
            seen.append(" ".join(line.split()))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        eventually(lambda: seen, "the watch began")
        yield seen
    finally:
        watcher.kill()
        watcher.wait()
        reader.join()


def kill_node(place: Place) -> None:
    """SIGKILL to the node; returns when its keeper has started it again."""
    old = place.node_pid()
    kill(old)
    eventually(lambda: place.node_pid() != old, "the node is started again")


def test_a_killed_node_adopts_its_pods_and_nobody_notices(place: Place) -> None:
    place.apply(server("s"))
    place.ready("s")
    pid = first_pid(place, "s")
    uid = place.get("pod/s")["metadata"]["uid"]
    with watching(place, "s") as seen:
        kill_node(place)
        eventually(lambda: place.node_log().count(f"adopted c of s_{place.namespace}"), "adopted")
        before = place.logs("s").count("probed")
        eventually(lambda: place.logs("s").count("probed") > before + 3, "logs and probes go on")
    assert set(seen) == {"True 0"}
    assert alive(pid)
    # Probes count: readiness follows the adopted process.
    work = place.node_data / "pods" / uid / "volumes" / "w"
    (work / "sick").touch()
    eventually(lambda: place.condition("s") == "False", "unready")
    (work / "sick").unlink()
    place.ready("s")
    # Its end is noticed.
    kill(pid)
    eventually(lambda: place.container("s").get("restartCount") == 1, "restarted")
    place.ready("s")
    assert first_pid(place, "s") != pid
    place.delete("pod/s")


def test_what_happens_while_the_node_is_away_is_caught_up_with(place: Place) -> None:
    place.apply(server("dies"), server("deleted"), server("forced"), claim("kept"))
    for name in ("dies", "deleted", "forced"):
        place.ready(name)
    pids = {name: first_pid(place, name) for name in ("dies", "deleted", "forced")}
    node = place.node_pid()
    os.kill(node, signal.SIGSTOP)
    place.delete("pod/deleted", "--wait=false")
    place.delete("pod/forced", "--force", "--grace-period=0")
    place.apply(server("new"))
    kill(node)
    kill(pids["dies"])
    place.ready("new")
    eventually(lambda: place.container("dies").get("restartCount") == 1, "restarted")
    place.ready("dies")
    assert place.container("dies")["lastState"]["terminated"]["exitCode"] == 137
    eventually(lambda: not place.get("pod/deleted"), "deleted")
    eventually(lambda: not alive(pids["deleted"]) and not alive(pids["forced"]), "their processes end")


def test_processes_that_no_record_knows_are_ended(place: Place) -> None:
    node_id = (place.node_data / "id").read_text().strip()
    environ = {"PATH": os.environ["PATH"], process.MARKER: f"{node_id}/unknown/c/1"}
    stray = subprocess.Popen(["sleep", "1000"], env=environ, start_new_session=True)
    other = subprocess.Popen(
        ["sleep", "1000"], env=environ | {process.MARKER: "another-node/u/c/1"}, start_new_session=True
    )
    try:
        kill_node(place)
        assert stray.wait(60) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for child in (stray, other):
            child.kill()
            child.wait()


def test_an_outage_of_the_api_server_leaves_pods_alone(place: Place) -> None:
    place.apply(server("s"), pod_manifest("crash", "sh", "-c", "echo $$$$; exec sleep 1000"))
    place.ready("s")
    place.ready("crash")
    pid, crashing = first_pid(place, "s"), first_pid(place, "crash")
    keeper = place.kube.control_plane.keepers["kube-apiserver"]
    old = keeper.pid
    assert old is not None
    os.kill(old, signal.SIGSTOP)
    # A container that dies now is started again without the API server.
    kill(crashing)
    uid_line = f"started c of crash_{place.namespace}"
    eventually(lambda: place.node_log().count(uid_line) == 2, "restarted during the outage")
    kill(old)
    eventually(lambda: place.kube.kubectl("get", "--raw", "/readyz", check=False).startswith("ok"), "readyz")
    eventually(lambda: place.container("crash").get("restartCount") == 1, "the status catches up")
    assert place.container("s")["restartCount"] == 0
    assert alive(pid)
    place.ready("s")
    # Watches go on.
    place.apply(server("after"))
    place.ready("after")
    place.delete("pod/after")
    place.delete("pod/s")
    assert not alive(pid)


def test_a_stopped_node_stops_its_pods_and_runs_them_again_at_its_next_start(place: Place) -> None:
    volumes = [{"name": "w", "persistentVolumeClaim": {"claimName": "w"}}]
    place.apply(claim("w"), server("s", volumes=volumes))
    place.ready("s")
    pid, address = first_pid(place, "s"), place.status("s")["podIP"]
    uid = place.get("pod/s")["metadata"]["uid"]
    old = place.node_pid()
    with watching(place, "s") as seen:
        os.kill(old, signal.SIGTERM)
        eventually(lambda: not alive(old), "the node ends")
        assert not alive(pid)
        eventually(lambda: place.container("s").get("restartCount") == 1, "run again")
        place.ready("s")
        eventually(lambda: seen[-1] == "True 1", "the watch says so, too")
    assert any(line.startswith("False") for line in seen), "while it does not run it must not count as ready"
    assert place.get("pod/s")["metadata"]["uid"] == uid
    assert place.status("s")["podIP"] == address
    assert place.container("s")["lastState"]["terminated"]["exitCode"] == 143
