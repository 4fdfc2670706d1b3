"""Fixtures with a real Kubernetes control plane, one per test process, started on first use.

`kube` is etcd, kube-apiserver and kube-controller-manager with our CRDs, RBAC, region key and ServiceAccounts, and no
node: pods stay Pending. `kube_node` is a second one with the process node, which runs pods as processes.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightkube
import pytest

from switchgear_local import binaries, install, supervisor
from switchgear_local.controlplane import ControlPlane
from switchgear_local.kubeapi import KubeApi
from switchgear_local.supervise import Command, Keeper, wait_until
from switchgear_model import labels


@dataclass(frozen=True)
class Kube:
    """A running control plane."""

    control_plane: ControlPlane
    data_dir: Path
    node: Keeper | None = None

    @property
    def admin_kubeconfig(self) -> Path:
        return self.control_plane.admin_kubeconfig

    @property
    def ca(self) -> Path:
        return self.control_plane.ca

    @property
    def server(self) -> str:
        return self.control_plane.server

    def client(self, namespace: str = "default") -> lightkube.Client:
        """A typed synchronous client with the administrator's rights."""
        config = lightkube.KubeConfig.from_file(str(self.admin_kubeconfig))
        return lightkube.Client(config=config, namespace=namespace, trust_env=False)

    def api(self) -> KubeApi:
        """A client for plain dictionaries with the administrator's rights."""
        return self.control_plane.api()

    def account_kubeconfig(self, account: str) -> Path:
        """The kubeconfig of one of our ServiceAccounts: switchgear-operator, -edge or -api."""
        return self.control_plane.kubeconfig(account)

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True, timeout: float = 120) -> str:
        """Run kubectl as administrator; returns its output, raises AssertionError with its errors."""
        command = [str(self.control_plane.binaries.kubectl), f"--kubeconfig={self.admin_kubeconfig}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout if check else done.stdout + done.stderr

    def new_namespace(self, prefix: str = "t") -> str:
        """Create a namespace with a fresh name."""
        name = f"{prefix}-{uuid.uuid4().hex[:10]}"
        with self.api() as api:
            api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        return name


def start_kube(data_dir: Path, *, durable: bool = False, crds: list[dict[str, Any]] | None = None) -> Kube:
    """Start a control plane with everything that an installation has in the cluster."""
    control_plane = ControlPlane(data_dir, binaries.ensure(), durable=durable)
    control_plane.start(crds)
    try:
        with control_plane.api() as api:
            install.install(control_plane, api, labels.SYSTEM_NAMESPACE)
    except BaseException:
        control_plane.stop()
        raise
    return Kube(control_plane, data_dir)


def start_node(kube: Kube) -> Kube:
    """Add the process node and wait until it is Ready."""
    folder = kube.data_dir / "node"
    folder.mkdir(mode=0o700, exist_ok=True)
    with kube.api() as api:
        install.install_node(kube.control_plane, api)
        command = Command(
            name="node",
            argv=supervisor.node_argv(kube.control_plane, folder),
            environ=supervisor.child_environment(),
            log_file=kube.data_dir / "logs" / "node.log",
            grace=60,
        )
        keeper = Keeper(command, kube.data_dir / "run" / "node.pid")
        keeper.start()
        try:
            wait_until(lambda: supervisor.node_is_ready(api), 120, "process node", (keeper,))
        except BaseException:
            keeper.stop()
            raise
    return replace(kube, node=keeper)


@pytest.fixture(scope="session")
def kube_node() -> Iterator[Kube]:
    folder = Path(tempfile.mkdtemp(prefix="sg-kube-node-"))
    try:
        running = start_kube(folder)
        try:
            with_node = start_node(running)
            yield with_node
            assert with_node.node is not None
            with_node.node.stop()
        finally:
            running.control_plane.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def kube() -> Iterator[Kube]:
    with running_kube() as running:
        yield running


@contextmanager
def running_kube() -> Iterator[Kube]:
    """A control plane of its own, without a node, in a folder that goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="sg-kube-"))
    try:
        running = start_kube(folder)
        yield running
        running.control_plane.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
