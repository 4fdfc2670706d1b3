"""Pods on the real API server: what a kubelet would do."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

import pytest

from .conftest import TOLERATION, Place, alive, eventually, kill, pod_manifest

pytestmark = pytest.mark.cluster

SLEEP = ("sleep", "1000")
SERVE = "cd /data && exec python -u -m http.server --bind $HOST 8080"
HOST = {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}


def stateful_set(name: str, **container: Any) -> dict[str, Any]:
    template = pod_manifest(name, "sh", "-c", SERVE, container=container)
    template["metadata"] = {"labels": {"app": name}}
    template["spec"]["volumes"] = [
        {"name": "data", "persistentVolumeClaim": {"claimName": name}},
        {"name": "tmp", "emptyDir": {}},
    ]
    del template["apiVersion"], template["kind"]
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name},
        "spec": {
            "serviceName": name,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": name}},
            "template": template,
        },
    }


def claim(name: str, **spec: Any) -> dict[str, Any]:
    body = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}} | spec
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": body}


def test_a_stateful_set_with_a_claim_becomes_ready_and_keeps_its_data(place: Place) -> None:
    probe = {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1, "timeoutSeconds": 30}
    mounts = [{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}]
    container = {
        "ports": [{"name": "http", "containerPort": 8080}],
        "env": [HOST],
        "volumeMounts": mounts,
        "startupProbe": probe | {"periodSeconds": 30},
        "readinessProbe": probe,
        "livenessProbe": probe,
    }
    place.apply(claim("web"), stateful_set("web", **container))
    place.kube.kubectl("rollout", "status", "-n", place.namespace, "sts/web", "--timeout=60s")
    status = place.status("web-0")
    assert status["podIP"].startswith("127.")
    assert status["podIPs"] == [{"ip": status["podIP"]}]
    assert status["hostIP"] == "127.0.0.1"
    volume = place.get("pvc/web")["spec"]["volumeName"]
    data = place.node_data / "volumes" / volume
    (data / "kept").write_text("x")
    first = place.get("pod/web-0")["metadata"]["uid"]
    place.delete("pod/web-0")
    eventually(lambda: place.get("pod/web-0").get("metadata", {}).get("uid", first) != first, "a new pod")
    place.ready("web-0")
    assert (data / "kept").read_text() == "x"
    place.delete("sts/web")
    place.delete("pvc/web")
    eventually(lambda: not place.get(f"pv/{volume}") and not data.exists(), "the volume is gone")


def test_env_and_volumes_are_as_the_spec_says(place: Place) -> None:
    place.secret("sec", url="postgres://u:pw@h/db", more="m")
    place.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cfg"}, "data": {"LEVEL": "debug", "a.ini": "A"}}
    )

    def field(name: str, path: str) -> dict[str, Any]:
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}

    def key(name: str, ref: str, which: str, *, optional: bool = False) -> dict[str, Any]:
        return {"name": name, "valueFrom": {"secretKeyRef": {"name": ref, "key": which, "optional": optional}}}

    script = (
        "import json,os,pathlib,stat,tempfile;"
        "s=pathlib.Path(os.environ['SEC']);"
        "print(json.dumps({'env':dict(os.environ),'cwd':os.getcwd(),'tmp':tempfile.gettempdir(),"
        "'sec':(s/'url').read_text(),'mode':oct(stat.S_IMODE((s/'url').stat().st_mode)),"
        "'cfg':pathlib.Path(os.environ['CFG']).read_text()}))"
    )
    container = {
        "command": ["python", "-c"],
        "args": [script],
        "workingDir": "/work/",
        "envFrom": [{"configMapRef": {"name": "cfg"}, "prefix": "P_"}],
        "env": [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "$(A)-$(P_LEVEL)-$$(A)"},
            key("URL", "sec", "url"),
            key("OPTIONAL", "none", "x", optional=True),
            field("NAME", "metadata.name"),
            field("UID", "metadata.uid"),
            field("LABEL", "metadata.labels['l']"),
            field("IP", "status.podIP"),
            field("HOSTIP", "status.hostIP"),
            field("NODE", "spec.nodeName"),
            field("SA", "spec.serviceAccountName"),
            {"name": "SEC", "value": "/etc/sec"},
            {"name": "CFG", "value": "/etc/cfg/sub/x.ini"},
        ],
        "volumeMounts": [
            {"name": "sec", "mountPath": "/etc/sec", "readOnly": True},
            {"name": "cfg", "mountPath": "/etc/cfg"},
            {"name": "work", "mountPath": "/work"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    volumes = [
        {"name": "sec", "secret": {"secretName": "sec"}},
        {"name": "cfg", "configMap": {"name": "cfg", "items": [{"key": "a.ini", "path": "sub/x.ini"}]}},
        {"name": "work", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
    ]
    manifest = pod_manifest("env", container=container, restartPolicy="Never", volumes=volumes)
    manifest["metadata"]["labels"] = {"l": "v"}
    place.apply(manifest)
    status = place.phase("env", "Succeeded")
    pod = place.get("pod/env")
    got = json.loads(place.logs("env"))
    env = got["env"]
    expected = {
        "A": "1",
        "B": "1-debug-$(A)",
        "P_LEVEL": "debug",
        "URL": "postgres://u:pw@h/db",
        "NAME": "env",
        "UID": pod["metadata"]["uid"],
        "LABEL": "v",
        "IP": status["podIP"],
        "HOSTIP": "127.0.0.1",
        "NODE": "switchgear-local",
        "SA": "default",
    }
    assert {name: env.get(name) for name in expected} == expected
    assert "OPTIONAL" not in env
    assert "KUBECONFIG" not in env
    assert (got["sec"], got["mode"], got["cfg"]) == ("postgres://u:pw@h/db", "0o600", "A")
    private = place.node_data / "pods" / pod["metadata"]["uid"]
    assert got["cwd"] == str(private / "volumes" / "work")
    assert got["tmp"] == str(private / "volumes" / "tmp")
    assert "pw@h" not in (private / "record.json").read_text()
    assert "pw@h" not in place.node_log()
    assert private.stat().st_mode & 0o777 == 0o700
    place.delete("pod/env")
    eventually(lambda: not private.exists(), "the directory goes, last of all")


def test_pods_that_do_not_tolerate_the_taint_are_left_alone(place: Place) -> None:
    stranger = pod_manifest("stranger", *SLEEP, tolerations=[])
    blanket = pod_manifest("blanket", *SLEEP, tolerations=[{"operator": "Exists"}])
    elsewhere = pod_manifest("elsewhere", *SLEEP, nodeSelector={"kubernetes.io/os": "windows"})
    place.apply(stranger, blanket, elsewhere, pod_manifest("ours", *SLEEP))
    place.ready("ours")
    for name in ("stranger", "blanket", "elsewhere"):
        assert "nodeName" not in place.get(f"pod/{name}")["spec"]


def test_a_cordoned_node_takes_no_pods(place: Place) -> None:
    tried: list[str] = []

    def is_refused() -> bool:
        # The node looks at itself every ten seconds, so the first ones may still be bound.
        name = f"p{len(tried)}"
        tried.append(name)
        place.apply(pod_manifest(name, *SLEEP))
        try:
            eventually(lambda: "nodeName" in place.get(f"pod/{name}")["spec"], "bound", limit=3)
        except AssertionError:
            return True
        time.sleep(1)
        return False

    place.kube.kubectl("cordon", "switchgear-local")
    try:
        eventually(is_refused, "a pod is refused")
    finally:
        place.kube.kubectl("uncordon", "switchgear-local")
    for name in tried:
        place.ready(name)


def test_a_crash_loop_shows_itself_and_its_previous_log(place: Place) -> None:
    place.apply(pod_manifest("crash", "sh", "-c", "echo attempt; exit 3"))
    entry = eventually(
        lambda: (c := place.container("crash")).get("restartCount", 0) >= 2 and "waiting" in c["state"] and c, "loop"
    )
    assert entry["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert "back-off" in entry["state"]["waiting"]["message"]
    assert entry["lastState"]["terminated"]["exitCode"] == 3
    assert place.status("crash")["phase"] == "Running"
    assert place.condition("crash") == "False"
    assert place.logs("crash", "--previous") == "attempt\n"
    eventually(lambda: "BackOff" in place.kube.kubectl("get", "events", "-n", place.namespace), "an event")


@pytest.mark.parametrize(
    ("policy", "script", "phase", "restarts"),
    [
        ("Never", "exit 0", "Succeeded", 0),
        ("Never", "exit 5", "Failed", 0),
        ("OnFailure", "test -e $HOME/x || { touch $HOME/x; exit 1; }", "Succeeded", 1),
    ],
)
def test_restart_policies(place: Place, policy: str, script: str, phase: str, restarts: int) -> None:
    place.apply(pod_manifest("once", "sh", "-c", script, restartPolicy=policy))
    status = place.phase("once", phase)
    entry = status["containerStatuses"][0]
    assert entry["restartCount"] == restarts
    assert entry["state"]["terminated"]["exitCode"] == (5 if phase == "Failed" else 0)
    assert place.condition("once") == "False"
    place.delete("pod/once")


def test_a_job_completes(place: Place) -> None:
    template = {"spec": pod_manifest("x", "true", restartPolicy="Never")["spec"]}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"template": template}}
    place.apply(job)
    place.kube.kubectl("wait", "-n", place.namespace, "--for=condition=complete", "job/j", "--timeout=60s")


def test_init_containers_run_first_and_in_order(place: Place) -> None:
    def init(name: str, script: str) -> dict[str, Any]:
        return {"name": name, "image": "none", "command": ["sh", "-c", script], "volumeMounts": mounts}

    mounts = [{"name": "w", "mountPath": "/w"}]
    inits = [init("one", "sleep 0.3; echo 1 >> /w/log"), init("two", "echo 2 >> /w/log")]
    container = {"volumeMounts": mounts}
    volumes = [{"name": "w", "emptyDir": {}}]
    place.apply(
        pod_manifest(
            "seq", "sh", "-c", "cat /w/log; sleep 1000", container=container, volumes=volumes, initContainers=inits
        ),
        pod_manifest("bad", *SLEEP, initContainers=[init("one", "exit 9")], volumes=volumes, restartPolicy="Never"),
    )
    place.ready("seq")
    eventually(lambda: place.logs("seq") == "1\n2\n", "both ran before")
    assert [c["state"]["terminated"]["exitCode"] for c in place.status("seq")["initContainerStatuses"]] == [0, 0]
    status = place.phase("bad", "Failed")
    assert status["containerStatuses"][0]["state"]["waiting"]["reason"] == "PodInitializing"


def test_what_is_missing_is_said_and_picked_up_when_it_comes(place: Place) -> None:
    ref = {"name": "late", "key": "k"}
    container = {"env": [{"name": "S", "valueFrom": {"secretKeyRef": ref}}]}
    place.apply(pod_manifest("wait", "sh", "-c", "echo $S; sleep 1000", container=container))
    waiting = eventually(lambda: place.container("wait").get("state", {}).get("waiting"), "waits")
    eventually(
        lambda: (
            "Secret 'late' not found" in place.container("wait").get("state", {}).get("waiting", {}).get("message", "")
        ),
        "says why",
    )
    assert waiting["reason"] in ("ContainerCreating", "CreateContainerConfigError")
    place.secret("late", k="here")
    place.ready("wait")
    eventually(lambda: place.logs("wait") == "here\n", "runs with it")
    assert place.container("wait")["restartCount"] == 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"volumes": [{"name": "v", "hostPath": {"path": "/etc"}}]}, "hostPath is not supported"),
        ({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "none"}}]}, "claim 'none' not found"),
        ({"container": {"command": []}}, "no command"),
        ({"container": {"livenessProbe": {"grpc": {"port": 1}}}}, "a probe needs"),
    ],
)
def test_what_cannot_run_says_why_and_can_be_deleted(place: Place, spec: dict[str, Any], message: str) -> None:
    place.apply(pod_manifest("no", *SLEEP, **spec))

    def said() -> bool:
        return message in place.container("no").get("state", {}).get("waiting", {}).get("message", "")

    eventually(said, "the message")
    place.delete("pod/no")


def test_a_command_that_does_not_exist_is_a_start_error_without_arguments(place: Place) -> None:
    place.apply(pod_manifest("none", "no-such-command-here", "--token=abc", restartPolicy="Never"))
    ended = place.phase("none", "Failed")["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert "not found on PATH" in ended["message"]
    assert "abc" not in ended["message"]


def test_deleting_gives_grace_and_ends_descendants(place: Place) -> None:
    script = (
        "import os,signal,subprocess,sys,time\n"
        "p=subprocess.Popen(['sleep','1000'],start_new_session=True)\n"
        "def bye(*a):\n print('bye',flush=True); time.sleep(0.5); open('/w/done','w').write('x'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM,bye)\n"
        "print(p.pid,flush=True)\n"
        "time.sleep(1000)\n"
    )
    container = {"volumeMounts": [{"name": "w", "mountPath": "/w"}]}
    volumes = [{"name": "w", "persistentVolumeClaim": {"claimName": "w"}}]
    patient = {"volumes": volumes, "terminationGracePeriodSeconds": 50}
    place.apply(claim("w"), pod_manifest("bye", "python", "-c", script, container=container, **patient))
    place.ready("bye")
    child = int(eventually(lambda: place.logs("bye").strip(), "the child's pid"))
    volume = place.get("pvc/w")["spec"]["volumeName"]
    place.delete("pod/bye")
    assert (place.node_data / "volumes" / volume / "done").exists()
    assert not alive(child)


def test_a_process_that_ignores_sigterm_is_killed_after_its_grace(place: Place) -> None:
    script = "import os,signal,time; signal.signal(15,signal.SIG_IGN); print(os.getpid(),flush=True); time.sleep(1000)"
    place.apply(pod_manifest("deaf", "python", "-c", script, terminationGracePeriodSeconds=1))
    pid = int(eventually(lambda: place.container("deaf").get("started") and place.logs("deaf").strip(), "its pid"))
    place.delete("pod/deaf")
    assert not alive(pid)


def test_a_forced_deletion_leaves_no_process_and_no_directory(place: Place) -> None:
    place.apply(pod_manifest("gone", "sh", "-c", "echo $$$$; exec sleep 1000"))
    place.ready("gone")
    pid = int(eventually(lambda: place.logs("gone").strip(), "its pid"))
    uid = place.get("pod/gone")["metadata"]["uid"]
    place.delete("pod/gone", "--force", "--grace-period=0")
    eventually(lambda: not alive(pid), "the process ends")
    eventually(lambda: not (place.node_data / "pods" / uid).exists(), "the directory goes")


def test_liveness_restarts_and_readiness_follows(place: Place) -> None:
    often = {"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 30}
    exists = {"exec": {"command": ["test", "-e", "/w/ok"]}} | often
    alive_probe = {"exec": {"command": ["test", "!", "-e", "/w/sick"]}} | often
    container = {
        "volumeMounts": [{"name": "w", "mountPath": "/w"}],
        "readinessProbe": exists,
        "livenessProbe": alive_probe,
    }
    volumes = [{"name": "w", "emptyDir": {}}]
    place.apply(pod_manifest("p", "sh", "-c", "rm -f /w/sick; exec sleep 1000", container=container, volumes=volumes))
    eventually(lambda: place.container("p").get("started"), "started")
    work = place.node_data / "pods" / place.get("pod/p")["metadata"]["uid"] / "volumes" / "w"
    assert place.condition("p") == "False"
    (work / "ok").touch()
    place.ready("p")
    (work / "ok").unlink()
    eventually(lambda: place.condition("p") == "False", "unready")
    (work / "ok").touch()
    (work / "sick").touch()
    entry = eventually(lambda: (c := place.container("p")).get("restartCount") == 1 and c, "restarted")
    assert "liveness probe failed" in entry["lastState"]["terminated"]["message"]
    place.ready("p")


def test_logs_tail_limit_follow_and_since(place: Place) -> None:
    script = "for i in 1 2 3 4 5; do echo line $i; done; while [ ! -e $HOME/go ]; do sleep 0.1; done; echo last"
    place.apply(pod_manifest("l", "sh", "-c", script, restartPolicy="Never"))
    eventually(lambda: place.container("l").get("started") and "line 5" in place.logs("l"), "five lines")
    assert place.logs("l", "--tail=2") == "line 4\nline 5\n"
    assert place.logs("l", "--tail=0") == ""
    assert place.logs("l", "--limit-bytes=6") == "line 1"
    assert place.logs("l", "--since=1h").startswith("line 1\n")
    control = place.kube.control_plane
    command = [str(control.binaries.kubectl), f"--kubeconfig={control.admin_kubeconfig}", "-n", place.namespace]
    follower = subprocess.Popen([*command, "logs", "-f", "l", "--tail=1"], stdout=subprocess.PIPE, text=True)
    try:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "line 5\n"
        uid = place.get("pod/l")["metadata"]["uid"]
        (place.node_data / "pods" / uid / "home" / "go").touch()
        out, _ = follower.communicate(timeout=60)
        assert out == "last\n"
    finally:
        follower.kill()
        follower.wait()
    refused = place.kube.kubectl("logs", "-n", place.namespace, "l", "--timestamps", check=False)
    assert "timestamps are not recorded" in refused
    refused = place.kube.kubectl("logs", "-n", place.namespace, "l", "--previous", check=False)
    assert "no previous log" in refused


def test_a_container_that_dies_is_started_again_at_the_same_address(place: Place) -> None:
    place.apply(pod_manifest("again", "sh", "-c", "echo $$$$; exec sleep 1000"))
    place.ready("again")
    address = place.status("again")["podIP"]
    kill(int(eventually(lambda: place.logs("again").strip(), "its pid")))
    eventually(lambda: place.container("again").get("restartCount") == 1, "restarted")
    place.ready("again")
    assert place.status("again")["podIP"] == address
    ended = place.container("again")["lastState"]["terminated"]
    assert (ended["exitCode"], ended["signal"]) == (137, 9)


def test_pods_have_addresses_of_their_own(place: Place) -> None:
    script = "exec python -m http.server --bind $HOST 8080"
    probe = {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 30}
    names = [f"p{i}" for i in range(4)]
    container = {"env": [HOST], "readinessProbe": probe}
    place.apply(*(pod_manifest(name, "sh", "-c", script, container=container) for name in names))
    for name in names:
        place.ready(name)
    assert len({place.status(name)["podIP"] for name in names}) == len(names)


def test_claims_that_cannot_be_served_say_why(place: Place) -> None:
    place.apply(claim("block", volumeMode="Block"))
    eventually(
        lambda: "volumeMode Block is not supported" in place.kube.kubectl("get", "events", "-n", place.namespace),
        "an event",
    )
    assert place.get("pvc/block")["status"]["phase"] == "Pending"


def test_a_forged_volume_removes_nothing_outside(place: Place) -> None:
    victim = place.kube.data_dir / "victim"
    victim.mkdir(exist_ok=True)
    (victim / "file").write_text("x")
    name = f"forged-{place.namespace}"
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/name": "switchgear-node"},
            "annotations": {"pv.kubernetes.io/provisioned-by": "switchgear.dev/process-node"},
            "finalizers": ["switchgear.dev/local-volume"],
        },
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "switchgear-local",
            "persistentVolumeReclaimPolicy": "Delete",
            "hostPath": {"path": str(victim)},
        },
    }
    place.apply(volume)
    place.kube.kubectl("delete", "pv", name, "--timeout=60s")
    assert (victim / "file").read_text() == "x"


def test_a_toleration_by_value_or_for_another_effect() -> None:
    from switchgear_local.node.binder import tolerates

    def pod(**toleration: str) -> dict[str, Any]:
        return {"spec": {"tolerations": [{"key": TOLERATION["key"], **toleration}]}}

    assert tolerates(pod(operator="Exists"))
    assert tolerates(pod(operator="Exists", effect="NoSchedule"))
    assert tolerates(pod(operator="Equal", value=""))
    assert not tolerates(pod(operator="Exists", effect="NoExecute"))
    assert not tolerates(pod(operator="Equal", value="other"))
    assert not tolerates({"spec": {}})
