"""A whole cluster with one node: the local region's control plane made reachable for pods, a scheduler, the node,
cluster DNS and a provisioner of volumes. Nothing of Switchgear is installed on it.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Final

from switchgear_local import binaries, pki
from switchgear_local.controlplane import ControlPlane
from switchgear_local.kubeapi import KubeApi
from switchgear_local.supervise import Command, Keeper
from tests.realnode import addons, machine, node, programs
from tests.realnode.machine import Machine
from tests.realnode.node import Node
from tests.support.kube import Kube
from tests.support.region import wait_until

_SERVICE_ADDRESS: Final = "10.217.0.1"
_SERVER_NAMES: Final = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)


class NodeControlPlane(ControlPlane):
    """The control plane on the outer end of the cable, with all controllers and with credentials for a node."""

    @property
    def server(self) -> str:
        return super().server.replace("127.0.0.1", machine.HOST)

    def _make_certificates(self) -> None:
        super()._make_certificates()
        store = pki.Pki(self._pki_dir)
        ca, kubelet_ca = store.authority("ca"), store.authority("kubelet-ca")
        store.server(
            ca, "apiserver", dns=["localhost", *_SERVER_NAMES], addresses=["127.0.0.1", machine.HOST, _SERVICE_ADDRESS]
        )
        store.server(kubelet_ca, "kubelet", dns=[node.NAME], addresses=[machine.NODE])
        for name, user, groups in (
            ("kubelet", f"system:node:{node.NAME}", ["system:nodes"]),
            ("kube-proxy", "system:kube-proxy", []),
            ("kube-scheduler", "system:kube-scheduler", []),
        ):
            pair = store.client(ca, f"user-{name}", user, groups)
            pki.kubeconfig_with_certificate(self.kubeconfig(name), self.server, ca.cert_file, user, pair)

    def _apiserver_arguments(self) -> list[str]:
        changed = {
            "bind-address": machine.HOST,
            "advertise-address": machine.HOST,
            "endpoint-reconciler-type": "lease",
            "service-cluster-ip-range": machine.SERVICES,
            "allow-privileged": "true",
        }
        return [*super()._apiserver_arguments(), *(f"--{name}={value}" for name, value in changed.items())]

    def _controller_manager_arguments(self) -> list[str]:
        # A flag given twice adds up, and the region's names what it leaves out: endpoints, which pods need.
        kept = [argument for argument in super()._controller_manager_arguments() if "--controllers=" not in argument]
        return [*kept, "--controllers=*"]


class Cluster:
    """`start` and `close`. `kube` and `node` are there in between."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machine = Machine(folder)
        self.control_plane = NodeControlPlane(folder / "control-plane", binaries.ensure(), durable=False)
        self._programs = programs.ensure()
        self.node = Node(
            self.machine,
            self._programs,
            folder / "control-plane" / "pki",
            self.control_plane.kubeconfig("admin").parent,
        )
        self._scheduler: Keeper | None = None

    @property
    def kube(self) -> Kube:
        """kubectl and clients with the administrator's rights."""
        return Kube(self.control_plane, self.folder)

    def start(self, *images: Path) -> None:
        """Start everything, with these images on the node, and wait until pods can run."""
        self.machine.open()
        tools = programs.tools_image(self._programs, self.folder / "tools.tar")
        self.control_plane.start(crds=[])
        self.node.start_runtime(tools, *images)
        self.node.start()
        self._start_scheduler()
        with self.control_plane.api() as api:
            for obj in addons.objects(self.node.volumes):
                _applied(api, obj)
        self.wait_ready()

    def wait_ready(self, seconds: float = 120.0) -> None:
        """Wait until the node is Ready and what every cluster has runs. Raises AssertionError with what is not."""
        wait_until(self._node_is_ready, seconds, lambda: self.kube.kubectl("describe", "nodes", check=False))
        for namespace, name in addons.DEPLOYMENTS:
            try:
                self.kube.kubectl(
                    "rollout",
                    "status",
                    f"deployment/{name}",
                    "-n",
                    namespace,
                    f"--timeout={seconds:.0f}s",
                    timeout=seconds + 10,
                )
            except AssertionError as error:
                raise AssertionError(f"{error}\n{self.report(namespace)}") from None

    def report(self, namespace: str) -> str:
        """What a person would look at first when pods of a namespace do not run."""
        parts = [
            self.kube.kubectl("get", "pods", "-n", namespace, "-o", "wide", check=False),
            self.kube.kubectl("get", "events", "-n", namespace, "--sort-by=.lastTimestamp", check=False)[-3000:],
        ]
        for pod in self.kube.kubectl("get", "pods", "-n", namespace, "-o", "name", check=False).split():
            parts.append(f"{pod}: {self.kube.kubectl('logs', pod, '-n', namespace, '--tail=15', check=False)}")
        return "\n".join(parts)

    def close(self) -> None:
        """End everything; the folder is the caller's."""
        if self._scheduler is not None:
            self._scheduler.stop()
        self.machine.close()
        self.control_plane.stop()

    def _node_is_ready(self) -> bool:
        found: dict[str, Any] = json.loads(self.kube.kubectl("get", "nodes", "-o", "json"))
        conditions = [one for item in found["items"] for one in item["status"].get("conditions", ())]
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def _start_scheduler(self) -> None:
        kubeconfig = self.control_plane.kubeconfig("kube-scheduler")
        flags = {
            "kubeconfig": kubeconfig,
            "authentication-kubeconfig": kubeconfig,
            "authorization-kubeconfig": kubeconfig,
        }
        flags |= {"leader-elect": "false", "secure-port": "0"}  # type: ignore[dict-item]
        command = Command(
            name="kube-scheduler",
            argv=(str(self._programs.kube_scheduler), *(f"--{name}={value}" for name, value in flags.items())),
            environ=machine.environment(),
            log_file=self.folder / "logs" / "kube-scheduler.log",
        )
        self._scheduler = Keeper(command, self.folder / "run" / "kube-scheduler.pid")
        self._scheduler.start()


def _applied(api: KubeApi, obj: dict[str, Any]) -> None:
    api.apply(obj)


def fingerprint() -> tuple[set[str], str]:
    """What a node could leave behind outside of its folder: network interfaces, and mounts."""
    mounts = subprocess.run(["findmnt", "-rno", "TARGET"], capture_output=True, text=True, check=True).stdout
    return node.interfaces(), "\n".join(sorted(mounts.split("\n")))
