"""The control plane is real, heals when its processes are killed, and keeps objects over a restart."""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from switchgear_local import kubeapi
from switchgear_local.kubeapi import KubeApi, KubeError
from switchgear_model import labels
from tests.support.kube import Kube, start_kube

pytestmark = pytest.mark.cluster


def eventually(check: Callable[[], bool], limit: float = 60) -> None:
    deadline = time.monotonic() + limit
    while not check():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.1)


def test_everything_of_an_installation_is_there(kube: Kube) -> None:
    with kube.api() as api:
        crds = {crd["metadata"]["name"] for crd in api.list("apiextensions.k8s.io/v1", "CustomResourceDefinition")}
        key = api.get("v1", "Secret", labels.REGION_KEY_SECRET, labels.SYSTEM_NAMESPACE)
    assert {"workspaces.switchgear.dev", "syncsources.switchgear.dev", "streamsservices.switchgear.dev"} <= crds
    assert key is not None


def test_accounts_have_their_own_rights_only(kube: Kube) -> None:
    with KubeApi(kube.account_kubeconfig("switchgear-edge")) as edge:
        edge.list("switchgear.dev/v1alpha1", "SyncSource")  # other tests share the control plane and may have some
        with pytest.raises(KubeError) as refused:
            edge.list("v1", "Secret")
    assert refused.value.status == 403


def test_lightkube_and_kubectl_speak_to_it(kube: Kube) -> None:
    from lightkube.resources.core_v1 import Namespace

    name = kube.new_namespace()
    assert kube.client().get(Namespace, name).metadata is not None
    assert name in kube.kubectl("get", "namespaces", "-o", "name")


def test_files_are_private(kube: Kube) -> None:
    pki = kube.data_dir / "pki"
    assert stat.S_IMODE(pki.stat().st_mode) == 0o700
    for path in [*pki.glob("*.key"), *(kube.data_dir / "kubeconfigs").iterdir(), *(kube.data_dir / "logs").iterdir()]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_etcd_refuses_whoever_is_not_the_api_server(kube: Kube) -> None:
    import ssl
    import urllib.error
    import urllib.request

    arguments = Path(f"/proc/{kube.control_plane.keepers['etcd'].pid}/cmdline").read_text().split("\0")
    url = next(a.removeprefix("--listen-client-urls=") for a in arguments if a.startswith("--listen-client-urls="))
    pki = kube.data_dir / "pki"
    context = ssl.create_default_context(cafile=str(pki / "etcd-ca.crt"))
    context.load_cert_chain(pki / "user-admin.crt", pki / "user-admin.key")
    with pytest.raises((urllib.error.URLError, OSError)):
        urllib.request.urlopen(f"{url}/health", context=context, timeout=60)


@pytest.mark.crash
@pytest.mark.parametrize("victim", ["kube-apiserver", "etcd", "kube-controller-manager"])
def test_killed_process_heals(kube: Kube, victim: str) -> None:
    name = kube.new_namespace()
    keeper = kube.control_plane.keepers[victim]
    before = keeper.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    eventually(lambda: keeper.pid not in (None, before))

    def works() -> bool:
        try:
            with kube.api() as api:
                return api.ready() and api.get("v1", "ServiceAccount", "default", name) is not None
        except KubeError:
            return False

    eventually(works)
    assert keeper.restarts >= 1
    # The controller-manager works too: it makes the default account of each new namespace.
    after = kube.new_namespace()

    def account_made() -> bool:
        with kube.api() as api:
            return api.get("v1", "ServiceAccount", "default", after) is not None

    eventually(account_made)


def test_restart_keeps_objects_and_address(tmp_path: Path) -> None:
    first = start_kube(tmp_path / "data", durable=True)
    try:
        name = first.new_namespace("kept")
        with first.api() as api:
            key = api.get("v1", "Secret", labels.REGION_KEY_SECRET, labels.SYSTEM_NAMESPACE)
        pids = [keeper.pid for keeper in first.control_plane.keepers.values()]
    finally:
        first.control_plane.stop()
    assert all(pid is not None and not Path(f"/proc/{pid}").exists() for pid in pids)
    second = start_kube(tmp_path / "data", durable=True)
    try:
        assert second.server == first.server
        with second.api() as api:
            assert api.get("v1", "Namespace", name) is not None
            again = api.get("v1", "Secret", labels.REGION_KEY_SECRET, labels.SYSTEM_NAMESPACE)
        assert key is not None
        assert again is not None
        assert again["data"] == key["data"]
    finally:
        second.control_plane.stop()


def test_a_definition_without_conditions_yet_is_waited_for() -> None:
    """The API server shows `null` for a moment after one was made."""
    assert not any(kubeapi._established(crd) for crd in (None, {}, {"status": {"conditions": None}}))
    assert kubeapi._established({"status": {"conditions": [{"type": "Established", "status": "True"}]}})
