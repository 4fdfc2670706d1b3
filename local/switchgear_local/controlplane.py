"""A real Kubernetes control plane in user space: etcd, kube-apiserver, kube-controller-manager, all on loopback.

Order, which matters: certificates → etcd → kube-apiserver → /readyz → CustomResourceDefinitions → controller-manager.
(Garbage collection of a CRD that the controller-manager did not find at its start can lag by half a minute.)

Invariants: RBAC and the node restriction are on, every connection is TLS with client certificates, etcd trusts only the
API server; each process is restarted when it dies; ports are kept from one start to the next.
Must not: need root, or listen on anything but 127.0.0.1.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import pki
from .binaries import KubeBinaries
from .kubeapi import KubeApi, apply_crds
from .processes import free_port, port_is_free, write_private
from .supervise import Command, Keeper, end_orphan, wait_until

NODE_NAME = "switchgear-local"
_SERVICE_RANGE = "10.217.0.0/16"
_SERVICE_IP = "10.217.0.1"
# Written nowhere but into the API server's own record: an address of documentation networks, because the real ones are
# loopback, which the API server refuses, and a machine without a network has no other.
_ADVERTISED = "192.0.2.1"
_HOST = "127.0.0.1"
_ETCD_LIMIT = 60.0
_READY_LIMIT = 120.0
_CONTROLLERS = "*,-endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller"


class ControlPlane:
    """The three processes on one data directory. Synchronous; `start` and `stop` from one thread.

    `durable=False` lets etcd skip fsync (for tests). `say` gets a line when a process died and is started again.
    """

    def __init__(
        self,
        data_dir: Path,
        binaries: KubeBinaries,
        *,
        durable: bool = True,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.data_dir = data_dir
        self.binaries = binaries
        self.keepers: dict[str, Keeper] = {}
        self._durable = durable
        self._say = say
        self._ports: dict[str, int] = {}

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://{_HOST}:{self._ports['apiserver']}"

    @property
    def ca(self) -> Path:
        """The certificate of the authority that signed the API server's certificate."""
        return self._pki_dir / "ca.crt"

    @property
    def admin_kubeconfig(self) -> Path:
        """A kubeconfig of group system:masters."""
        return self.kubeconfig("admin")

    @property
    def node_tls(self) -> dict[str, Path]:
        """The files with which a node serves logs to this API server and to nobody else, by the node's flags."""
        folder = self._pki_dir
        return {
            "--tls-cert": folder / "kubelet.crt",
            "--tls-key": folder / "kubelet.key",
            "--client-ca": folder / "kubelet-ca.crt",
        }

    def kubeconfig(self, name: str) -> Path:
        """Where the kubeconfig called `name` is."""
        return self.data_dir / "kubeconfigs" / f"{name}.yaml"

    def api(self) -> KubeApi:
        """A client with the administrator's rights."""
        return KubeApi(self.admin_kubeconfig)

    def start(self, crds: list[dict[str, Any]] | None = None, *, controllers: bool = True) -> None:
        """Start everything and return when it works, `crds` (default: those of the model) included.

        Without `controllers` nothing acts on the objects: enough to read them.

        Raises StartError with the end of the log, or KubeError.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True)
        for name in ("etcd", "kube-apiserver", "kube-controller-manager"):
            end_orphan(self._pid_file(name))
        self._choose_ports()
        try:
            self._make_certificates()
            etcd = self._keep("etcd", self._etcd_arguments())
            wait_until(self._etcd_is_healthy, _ETCD_LIMIT, "etcd", (etcd,))
            server = self._keep("kube-apiserver", self._apiserver_arguments())
            with self.api() as api:
                wait_until(api.ready, _READY_LIMIT, "Kubernetes API", (server, etcd))
                apply_crds(api, model_crds() if crds is None else crds)
            if controllers:
                self._keep("kube-controller-manager", self._controller_manager_arguments())
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop in the opposite order; objects stay in the data directory."""
        for name in ("kube-controller-manager", "kube-apiserver", "etcd"):
            keeper = self.keepers.pop(name, None)
            if keeper is not None:
                keeper.stop()

    @property
    def _pki_dir(self) -> Path:
        return self.data_dir / "pki"

    def _pid_file(self, name: str) -> Path:
        return self.data_dir / "run" / f"{name}.pid"

    def _keep(self, name: str, arguments: list[str]) -> Keeper:
        self._pid_file(name).parent.mkdir(parents=True, exist_ok=True)
        command = Command(
            name=name,
            argv=tuple(arguments),
            environ={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.data_dir)},
            log_file=self.data_dir / "logs" / f"{name}.log",
            cwd=self.data_dir,
            # Everything is in etcd, which survives any end: no need to wait for open watches.
            grace=5.0,
            parent_death_signal=signal.SIGKILL,
        )
        keeper = Keeper(command, self._pid_file(name), self._say)
        self.keepers[name] = keeper
        keeper.start()
        return keeper

    def _choose_ports(self) -> None:
        file = self.data_dir / "ports.json"
        try:
            kept = json.loads(file.read_text())
        except (OSError, ValueError):
            kept = {}
        for name in ("apiserver", "etcd", "etcd-peer"):
            port = kept.get(name)
            # All kubeconfigs are written at each start, so a port that someone else took meanwhile may change.
            self._ports[name] = port if isinstance(port, int) and port_is_free(port) else free_port()
        write_private(file, json.dumps(self._ports) + "\n")

    def _make_certificates(self) -> None:
        store = pki.Pki(self._pki_dir)
        ca, etcd_ca, front_ca = (store.authority(name) for name in ("ca", "etcd-ca", "front-proxy-ca"))
        kubelet_ca = store.authority("kubelet-ca")
        store.server(etcd_ca, "etcd", dns=["localhost"], addresses=[_HOST], also_client=True)
        store.client(etcd_ca, "etcd-client", "kube-apiserver")
        services = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ]
        store.server(ca, "apiserver", dns=["localhost", *services], addresses=[_HOST, _SERVICE_IP, _ADVERTISED])
        store.client(kubelet_ca, "kubelet-client", "kube-apiserver-kubelet-client", ["system:masters"])
        store.server(kubelet_ca, "kubelet", dns=[NODE_NAME], addresses=[_HOST])
        store.client(front_ca, "front-proxy-client", "front-proxy-client")
        store.signing_key("service-account")
        users = {
            "admin": ("switchgear-admin", ["system:masters"]),
            "controller-manager": ("system:kube-controller-manager", []),
        }
        for name, (user, groups) in users.items():
            pair = store.client(ca, f"user-{name}", user, groups)
            pki.kubeconfig_with_certificate(self.kubeconfig(name), self.server, ca.cert_file, user, pair)

    def _etcd_url(self) -> str:
        return f"https://{_HOST}:{self._ports['etcd']}"

    def _etcd_arguments(self) -> list[str]:
        certificates = self._pki_dir
        peer = f"https://{_HOST}:{self._ports['etcd-peer']}"
        options = {
            "name": "local",
            "data-dir": self.data_dir / "etcd",
            "listen-client-urls": self._etcd_url(),
            "advertise-client-urls": self._etcd_url(),
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"local={peer}",
            "cert-file": certificates / "etcd.crt",
            "key-file": certificates / "etcd.key",
            "trusted-ca-file": certificates / "etcd-ca.crt",
            "client-cert-auth": "true",
            "peer-cert-file": certificates / "etcd.crt",
            "peer-key-file": certificates / "etcd.key",
            "peer-trusted-ca-file": certificates / "etcd-ca.crt",
            "peer-client-cert-auth": "true",
            "log-level": "warn",
            "quota-backend-bytes": 4 * 1024**3,
        }
        arguments = [str(self.binaries.etcd), *_flags(options)]
        return arguments if self._durable else [*arguments, "--unsafe-no-fsync"]

    def _apiserver_arguments(self) -> list[str]:
        certificates = self._pki_dir
        options = {
            "etcd-servers": self._etcd_url(),
            "etcd-cafile": certificates / "etcd-ca.crt",
            "etcd-certfile": certificates / "etcd-client.crt",
            "etcd-keyfile": certificates / "etcd-client.key",
            "bind-address": _HOST,
            "secure-port": self._ports["apiserver"],
            "advertise-address": _ADVERTISED,
            "endpoint-reconciler-type": "none",
            "service-cluster-ip-range": _SERVICE_RANGE,
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "anonymous-auth": "false",
            "profiling": "false",
            "client-ca-file": certificates / "ca.crt",
            "tls-cert-file": certificates / "apiserver.crt",
            "tls-private-key-file": certificates / "apiserver.key",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": certificates / "service-account.pub",
            "service-account-signing-key-file": certificates / "service-account.key",
            "kubelet-client-certificate": certificates / "kubelet-client.crt",
            "kubelet-client-key": certificates / "kubelet-client.key",
            "kubelet-certificate-authority": certificates / "kubelet-ca.crt",
            "kubelet-preferred-address-types": "InternalIP",
            "requestheader-client-ca-file": certificates / "front-proxy-ca.crt",
            "requestheader-allowed-names": "front-proxy-client",
            "requestheader-username-headers": "X-Remote-User",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "proxy-client-cert-file": certificates / "front-proxy-client.crt",
            "proxy-client-key-file": certificates / "front-proxy-client.key",
        }
        return [str(self.binaries.kube_apiserver), *_flags(options)]

    def _controller_manager_arguments(self) -> list[str]:
        certificates = self._pki_dir
        kubeconfig = self.kubeconfig("controller-manager")
        plugins = self.data_dir / "volume-plugins"
        plugins.mkdir(exist_ok=True)
        options = {
            "kubeconfig": kubeconfig,
            "authentication-kubeconfig": kubeconfig,
            "authorization-kubeconfig": kubeconfig,
            "controllers": _CONTROLLERS,
            "leader-elect": "false",
            "use-service-account-credentials": "true",
            "kube-api-qps": 2000,
            "kube-api-burst": 4000,
            "secure-port": 0,
            "profiling": "false",
            "flex-volume-plugin-dir": plugins,
            "service-account-private-key-file": certificates / "service-account.key",
            "root-ca-file": certificates / "ca.crt",
            "cluster-signing-cert-file": certificates / "ca.crt",
            "cluster-signing-key-file": certificates / "ca.key",
        }
        return [str(self.binaries.kube_controller_manager), *_flags(options)]

    def _etcd_is_healthy(self) -> bool:
        context = ssl.create_default_context(cafile=str(self._pki_dir / "etcd-ca.crt"))
        context.load_cert_chain(self._pki_dir / "etcd-client.crt", self._pki_dir / "etcd-client.key")
        try:
            opener = urllib.request.build_opener(
                urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
            )
            with opener.open(f"{self._etcd_url()}/health", timeout=5) as answer:
                return bool(json.load(answer).get("health") == "true")
        except (OSError, urllib.error.URLError, ValueError):
            return False


def model_crds() -> list[dict[str, Any]]:
    """The CustomResourceDefinitions of the product."""
    from switchgear_model.crds import all_crds

    return list(all_crds())


def remove(data_dir: Path) -> None:
    """Remove all state of a stopped control plane."""
    shutil.rmtree(data_dir, ignore_errors=True)


def _flags(options: dict[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]
