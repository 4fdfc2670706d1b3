"""State and lock of a data directory, and the certificates in it."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography import x509

from switchgear_local import commands, pki, processes, quickstart
from switchgear_local.errors import BusyError, StartError
from switchgear_local.state import DataDirLock, State, choose_ports


def test_ports_are_chosen_once_and_kept(tmp_path: Path) -> None:
    state = State()
    choose_ports(state, tmp_path)
    assert len(set(state.ports.values())) == len(state.ports)
    state.save(tmp_path / "region.json")
    assert stat.S_IMODE((tmp_path / "region.json").stat().st_mode) == 0o600
    again = State.load(tmp_path / "region.json")
    choose_ports(again, tmp_path)
    assert again.ports == state.ports


def test_port_that_someone_else_took_is_named(tmp_path: Path) -> None:
    state = State()
    choose_ports(state, tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", state.ports["edge"]))
        other.listen()
        with pytest.raises(StartError, match=rf"Port {state.ports['edge']} .*edge port"):
            choose_ports(state, tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"ports": 3}', '{"ports": {"edge": "x"}}'])
def test_damaged_state_is_a_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "region.json").write_text(content)
    with pytest.raises(StartError, match=r"region\.json cannot be read"):
        State.load(tmp_path / "region.json")


def test_second_owner_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    lock = DataDirLock(tmp_path)
    assert lock.owner() is None
    with lock.held():
        assert lock.owner() == os.getpid()
        with pytest.raises(BusyError, match=f"process {os.getpid()}.*switchgear down"), DataDirLock(tmp_path).held():
            pass
    assert lock.owner() is None
    assert lock.wait_free(0.1)


def test_up_on_a_taken_directory_changes_nothing(tmp_path: Path) -> None:
    with DataDirLock(tmp_path).held(), pytest.raises(BusyError):
        commands.up(data_dir=tmp_path, say=lambda line: None)
    assert not (tmp_path / "region.json").exists()


def test_lock_goes_with_a_killed_owner(tmp_path: Path) -> None:
    script = f"""
import pathlib, time
from switchgear_local.state import DataDirLock
with DataDirLock(pathlib.Path({str(tmp_path)!r})).held():
    print("held", flush=True)
    time.sleep(600)
"""
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "held\n"
    assert DataDirLock(tmp_path).owner() == owner.pid
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert DataDirLock(tmp_path).owner() is None


def test_down_interrupts_the_owner_and_waits_for_it(tmp_path: Path) -> None:
    script = f"""
import pathlib, signal, time
from switchgear_local.state import DataDirLock
signal.signal(signal.SIGINT, lambda *_: (time.sleep(0.5), exit(0)))
with DataDirLock(pathlib.Path({str(tmp_path)!r})).held():
    print("held", flush=True)
    time.sleep(600)
"""
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    owner.stdout.readline()
    told: list[str] = []
    assert commands.down(data_dir=tmp_path, say=told.append) == 0
    assert owner.wait(60) == 0
    owner.stdout.close()
    assert told[-1] == "stopped"


def test_down_without_a_region_says_so(tmp_path: Path) -> None:
    told: list[str] = []
    assert commands.down(data_dir=tmp_path, say=told.append) == 0
    assert commands.down(data_dir=tmp_path, wipe=True, say=told.append) == 0
    assert "no region runs" in told[0]
    assert "nothing to remove" in told[1]


def test_database_url_needs_demo(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="--demo --database-url"):
        commands.up(data_dir=tmp_path, database_url="postgresql://x", say=lambda line: None)


def test_signal_interrupts_a_start() -> None:
    with commands._signals() as asked, pytest.raises(commands.InterruptedStartError), asked.raising():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert signal.getsignal(signal.SIGINT) is not asked.on_signal


def test_free_ports_are_below_the_range_of_outgoing_connections() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(processes.free_port() < low for _ in range(20)) or low < 32_000


def test_a_free_port_is_not_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever got it may not listen yet."""
    monkeypatch.setenv("SWITCHGEAR_PORT_RANGE", "14100-14119")
    given = [processes.free_port() for _ in range(10)]
    assert len(set(given)) == 10


def test_the_range_of_free_ports_may_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWITCHGEAR_PORT_RANGE", "14000-14099")
    given = [processes.free_port() for _ in range(20)]
    assert all(14_000 <= port <= 14_099 for port in given)
    for wrong in ("14000", "14000-", "2-1", "0-10", "60000-70000", "a-b"):
        monkeypatch.setenv("SWITCHGEAR_PORT_RANGE", wrong)
        with pytest.raises(StartError, match="SWITCHGEAR_PORT_RANGE"):
            processes.free_port()


def test_quickstart_has_one_of_each_kind() -> None:
    import yaml

    kinds = [document["kind"] for document in yaml.safe_load_all(quickstart.manifest())]
    assert kinds == ["Namespace", "Workspace", "Project", "Environment", "SyncSource", "StreamsService"]


def test_login_is_private(tmp_path: Path) -> None:
    path = quickstart.log_in("http://127.0.0.1:1", "secret-token", {"XDG_CONFIG_HOME": str(tmp_path)})
    assert path == tmp_path / "switchgear" / "auth.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not quickstart.log_out("http://127.0.0.1:2", {"XDG_CONFIG_HOME": str(tmp_path)}), "another API's login stays"
    assert path.exists()
    assert quickstart.log_out("http://127.0.0.1:1", {"XDG_CONFIG_HOME": str(tmp_path)})
    assert not path.exists()


def test_certificates_are_kept_and_replaced_when_they_do_not_fit(tmp_path: Path) -> None:
    store = pki.Pki(tmp_path / "pki")
    ca = store.authority("ca")
    leaf = store.server(ca, "web", dns=["localhost"], addresses=["127.0.0.1"])
    assert store.authority("ca").cert == ca.cert
    assert store.server(ca, "web", dns=["localhost"], addresses=["127.0.0.1"]).cert == leaf.cert
    more = store.server(ca, "web", dns=["localhost"], addresses=["127.0.0.1", "127.5.0.1"])
    assert more.cert != leaf.cert
    (tmp_path / "pki" / "ca.key").unlink()
    other = store.authority("ca")
    assert other.cert != ca.cert
    replaced = store.server(other, "web", dns=["localhost"], addresses=["127.0.0.1", "127.5.0.1"])
    replaced.cert.verify_directly_issued_by(other.cert)
    for key in (tmp_path / "pki").glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_client_certificate_names_user_and_groups(tmp_path: Path) -> None:
    store = pki.Pki(tmp_path / "pki")
    pair = store.client(store.authority("ca"), "node", "system:node:here", ["system:nodes"])
    subject = pair.cert.subject
    assert subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value == "system:node:here"
    assert subject.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)[0].value == "system:nodes"
