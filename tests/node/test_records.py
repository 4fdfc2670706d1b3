"""Records survive the node, and hold no secret."""

from __future__ import annotations

from pathlib import Path

from switchgear_local.node import records
from switchgear_local.node.process import Identity
from switchgear_local.node.records import ContainerRecord, PodRecord
from switchgear_local.node.status import Terminated

LAST = Terminated(1, "Error", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", "why", 0)


def sample(uid: str) -> PodRecord:
    running = ContainerRecord(Identity(12, 34, "boot"), 3, "2026-01-01T00:00:00Z", True, True, LAST, False)
    return PodRecord(
        uid, "ns", "p-0", "127.64.0.1", "2026-01-01T00:00:00Z", {"data": "/x"}, {"c": running, "d": ContainerRecord()}
    )


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    records.save(tmp_path / "u1", sample("u1"))
    assert records.load(tmp_path / "u1") == sample("u1")
    assert (tmp_path / "u1" / records.FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "u1").iterdir()] == [records.FILE]


def test_what_cannot_be_used_is_none(tmp_path: Path) -> None:
    for name, text in {
        "a": "",
        "b": "{",
        "c": "[]",
        "d": '{"version": 99}',
        "e": '{"version":1,"pod":{"uid":"e"}}',
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / records.FILE).write_text(text)
    records.save(tmp_path / "other", sample("u1"))
    (tmp_path / ".deleting-x").mkdir()
    found = {directory.name: record for directory, record in records.load_all(tmp_path)}
    assert found == dict.fromkeys(["a", "b", "c", "d", "e", "other"])
    assert list(records.load_all(tmp_path / "none")) == []
