"""Projected files, volume directories, and their removal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from switchgear_local.node import volumes
from switchgear_local.node.environment import Reference, Sources
from switchgear_local.node.errors import ConfigError
from switchgear_local.node.volumes import File

from .test_environment import FACTS

SOURCES = Sources(secrets={"tls": {"crt": b"C", "key": b"K"}}, config_maps={"cfg": {"a.ini": b"A"}})


def test_a_secret_is_all_its_keys_for_the_owner_only() -> None:
    got = volumes.files({"name": "v", "secret": {"secretName": "tls", "defaultMode": 0o644}}, SOURCES, FACTS)
    assert got == [File("crt", b"C", 0o600), File("key", b"K", 0o600)]


def test_items_choose_paths_and_modes() -> None:
    spec = {"name": "cfg", "items": [{"key": "a.ini", "path": "sub/b.ini", "mode": 0o755}]}
    assert volumes.files({"name": "v", "configMap": spec}, SOURCES, FACTS) == [File("sub/b.ini", b"A", 0o700)]


def test_projected_and_downward() -> None:
    volume = {
        "name": "v",
        "projected": {
            "defaultMode": 0o400,
            "sources": [
                {"secret": {"name": "tls", "items": [{"key": "key", "path": "k"}]}},
                {"configMap": {"name": "cfg"}},
                {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                {"serviceAccountToken": {"path": "token"}},
            ],
        },
    }
    got = {file.path: file.data for file in volumes.files(volume, SOURCES, FACTS)}
    assert got == {"k": b"K", "a.ini": b"A", "labels": b'app="web"'}
    assert list(volumes.references({"volumes": [volume]})) == [
        Reference("Secret", "tls", False),
        Reference("ConfigMap", "cfg", False),
    ]


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"secret": {"secretName": "gone"}}, "Secret 'gone' not found"),
        ({"secret": {"secretName": "tls", "items": [{"key": "no", "path": "x"}]}}, "no key 'no'"),
        ({"secret": {"secretName": "tls", "items": [{"key": "crt", "path": "../x"}]}}, "must stay inside"),
        ({"secret": {"secretName": "tls", "items": [{"key": "crt", "path": "/etc/x"}]}}, "must stay inside"),
        ({"hostPath": {"path": "/etc"}}, "hostPath is not supported"),
    ],
)
def test_what_cannot_be_mounted_is_named(volume: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        volumes.files({"name": "v"} | volume, SOURCES, FACTS)


def test_optional_secrets_may_be_missing() -> None:
    assert volumes.files({"name": "v", "secret": {"secretName": "gone", "optional": True}}, SOURCES, FACTS) == []


def test_writing_replaces_changes_and_removes(tmp_path: Path) -> None:
    volumes.write(tmp_path / "v", [File("a", b"1", 0o400), File("sub/b", b"2", 0o600)])
    inode = (tmp_path / "v" / "sub" / "b").stat().st_ino
    volumes.write(tmp_path / "v", [File("a", b"3", 0o400), File("sub/b", b"2", 0o600)])
    assert (tmp_path / "v" / "a").read_bytes() == b"3"
    assert (tmp_path / "v" / "a").stat().st_mode & 0o777 == 0o400
    assert (tmp_path / "v" / "sub" / "b").stat().st_ino == inode
    volumes.write(tmp_path / "v", [File("a", b"3", 0o400)])
    assert [path.name for path in (tmp_path / "v").rglob("*") if path.is_file()] == ["a"]


def test_mount_table_and_sub_paths(tmp_path: Path) -> None:
    directories = {"data": str(tmp_path / "data"), "cfg": str(tmp_path / "cfg")}
    (tmp_path / "data").mkdir()
    mounts = [
        {"name": "data", "mountPath": "/data", "subPath": "one/two"},
        {"name": "cfg", "mountPath": "/etc/a.ini", "subPath": "a.ini"},
    ]
    got = volumes.mount_table({"volumeMounts": mounts}, directories, {"cfg"})
    assert got == {"/data": str(tmp_path / "data/one/two"), "/etc/a.ini": str(tmp_path / "cfg/a.ini")}
    assert (tmp_path / "data/one/two").is_dir()
    assert not (tmp_path / "cfg").exists()


@pytest.mark.parametrize(
    "mount",
    [
        {"name": "data", "mountPath": "/d", "subPath": "../../etc"},
        {"name": "data", "mountPath": "/d", "subPath": "link/x"},
        {"name": "data", "mountPath": "/d", "subPathExpr": "$(X)"},
        {"name": "none", "mountPath": "/d"},
    ],
)
def test_mounts_that_are_refused(tmp_path: Path, mount: dict[str, Any]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "out")
    with pytest.raises(ConfigError):
        volumes.mount_table({"volumeMounts": [mount]}, {"data": str(tmp_path / "data")}, set())


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", ".deleting-x", "A"])
def test_a_volume_name_never_leads_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is no volume name"):
        volumes.volume_directory(tmp_path, name)


def test_a_removal_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    half = tmp_path / ".deleting-pvc-1"
    half.mkdir()
    (half / "left").write_text("x")
    (tmp_path / "pvc-1").mkdir()
    (tmp_path / "pvc-1" / "new").write_text("x")
    volumes.remove(tmp_path / "pvc-1")
    assert list(tmp_path.iterdir()) == []
    half.mkdir()
    volumes.finish_removals(tmp_path)
    assert list(tmp_path.iterdir()) == []
    volumes.remove(tmp_path / "never-was")


def claim(phase: str, volume: str) -> dict[str, Any]:
    return {"metadata": {"uid": "u-1"}, "spec": {"volumeName": volume}, "status": {"phase": phase}}


def test_claims_are_found_by_uid_only(tmp_path: Path) -> None:
    assert volumes.claim_directory(tmp_path, "c", claim("Bound", "pvc-u-1")) == tmp_path / "pvc-u-1"
    for found in (None, claim("Pending", ""), claim("Bound", "other")):
        with pytest.raises(ConfigError):
            volumes.claim_directory(tmp_path, "c", found)
