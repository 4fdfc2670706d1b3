"""The node: containerd, kubelet and kube-proxy inside a `Machine`, and what they are configured with."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Final

from switchgear_local.supervise import Keeper, wait_until
from tests.realnode import machine, programs
from tests.realnode.machine import Machine

NAME: Final = "sg-test-node"
DNS: Final = "10.217.0.10"
KUBELET_PORT: Final = 10250
_GATEWAY: Final = "10.218.0.1"
_IMPORT_SECONDS = 180.0


class Node:
    """One node. `start` needs the API server; `close` of the machine ends it."""

    def __init__(self, inside: Machine, made_of: programs.Programs, pki: Path, kubeconfigs: Path) -> None:
        self.machine = inside
        self.folder = inside.folder / "node"
        self.kubelet: Keeper | None = None
        self._programs = made_of
        self._pki = pki
        self._kubeconfigs = kubeconfigs

    @property
    def socket(self) -> Path:
        """Where containerd listens."""
        return self.folder / "containerd.sock"

    @property
    def volumes(self) -> Path:
        """Where the provisioner makes volumes."""
        return self.folder / "volumes"

    def start_runtime(self, *images: Path) -> None:
        """containerd, with these image archives."""
        self.volumes.mkdir(parents=True)
        keeper = self.machine.keeper(
            "containerd", "containerd", "--config", str(self._write("containerd.toml", self._containerd()))
        )
        self._write("cni/10-bridge.conflist", json.dumps(self._cni()))
        wait_until(lambda: self.socket.exists(), 60, "containerd", (keeper,))
        for image in images:
            self.ctr("images", "import", str(image), timeout=_IMPORT_SECONDS)

    def start(self) -> None:
        """kubelet and kube-proxy; returns at once."""
        kubelet = self._write("kubelet.json", json.dumps(self._kubelet()))
        self.kubelet = self.machine.keeper(
            "kubelet",
            str(self._programs.kubelet),
            f"--config={kubelet}",
            f"--kubeconfig={self._kubeconfigs / 'kubelet.yaml'}",
            f"--hostname-override={NAME}",
            f"--node-ip={machine.NODE}",
            f"--root-dir={self.folder / 'kubelet'}",
            f"--cert-dir={self.folder / 'kubelet-pki'}",
        )
        proxy = self._write("kube-proxy.json", json.dumps(self._proxy()))
        self.machine.keeper(
            "kube-proxy", str(self._programs.kube_proxy), f"--config={proxy}", f"--hostname-override={NAME}"
        )

    def ctr(self, *arguments: str, timeout: float = 60.0) -> str:
        """containerd's own client, in Kubernetes' namespace."""
        command = ("ctr", "--address", str(self.socket), "--namespace", "k8s.io", *arguments)
        return self.machine.run(*command, timeout=timeout)

    def containers(self) -> list[str]:
        """Identifiers of what runs."""
        return self.ctr("tasks", "list", "-q").split()

    def kill(self, namespace: str) -> list[str]:
        """kill -9 what runs in all containers of the namespace's pods; the containers' identifiers."""
        label = f'labels."io.kubernetes.pod.namespace"=={namespace}'
        kind = 'labels."io.cri-containerd.kind"==container'
        listed = set(self.ctr("containers", "list", "-q", f"{label},{kind}").split())
        running = [container for container in self.containers() if container in listed]
        for container in running:
            self.ctr("tasks", "kill", "--signal", "SIGKILL", container)
        return running

    def _write(self, name: str, content: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def _containerd(self) -> str:
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        return f"""version = 2
root = "{self.folder}/containerd"
state = "{self.folder}/containerd-run"
[grpc]
address = "{self.socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{self.folder}/opt"
[{cri}]
sandbox_image = "{programs.TOOLS_IMAGE}"
restrict_oom_score_adj = true
[{cri}.cni]
bin_dir = "{programs.CNI_PLUGINS}"
conf_dir = "{self.folder}/cni"
"""

    def _cni(self) -> dict[str, Any]:
        bridge = {
            "type": "bridge",
            "bridge": "pods0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": machine.PODS, "gateway": _GATEWAY}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": str(self.folder / "cni-addresses"),
            },
        }
        return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}

    def _kubelet(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": machine.NODE,
            "port": KUBELET_PORT,
            "healthzPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": str(self._pki / "kubelet-ca.crt")},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "tlsCertFile": str(self._pki / "kubelet.crt"),
            "tlsPrivateKeyFile": str(self._pki / "kubelet.key"),
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{machine.CGROUP}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "clusterDNS": [DNS],
            "clusterDomain": "cluster.local",
            "resolvConf": str(self._write("resolv.conf", f"nameserver {machine.HOST}\n")),
            "podLogsDir": str(self.folder / "pod-logs"),
            "volumePluginDir": str(self.folder / "volume-plugins"),
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "2s",
            "serializeImagePulls": False,
        }

    def _proxy(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(self._kubeconfigs / "kube-proxy.yaml")},
            "mode": "iptables",
            "clusterCIDR": machine.PODS,
            "bindAddress": machine.NODE,
            "healthzBindAddress": f"{machine.NODE}:10256",
            "metricsBindAddress": f"{machine.NODE}:10249",
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            # Answers of a pod on the same bridge would go past the node, which must see them to translate them back.
            "iptables": {"masqueradeAll": True, "syncPeriod": "10s", "minSyncPeriod": "100ms"},
        }


def interfaces() -> set[str]:
    """Network interfaces of the machine around the node."""
    listed = subprocess.run(["ip", "-json", "link"], env=machine.environment(), capture_output=True, check=True)
    return {link["ifname"] for link in json.loads(listed.stdout)}
