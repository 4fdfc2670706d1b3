"""Fetching: again after a failure, and not for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import network


@pytest.mark.parametrize(("fails", "status", "attempts"), [(0, 0, 1), (2, 0, 3), (9, 7, 3)])
def test_a_command_that_fails_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int, status: int, attempts: int
) -> None:
    monkeypatch.setattr(network, "PAUSE", 0.0)
    script = f"echo x >> runs; test $(wc -l < runs) -gt {fails} || exit 7"
    done = network.fetch(["sh", "-c", script], cwd=tmp_path, capture_output=True)
    assert done.returncode == status
    assert len((tmp_path / "runs").read_text().split()) == attempts
