"""Settings of the demo, and what its proxy lets through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from switchgear_local.demo import proxy, settings

STATE: dict[str, Any] = {
    "database_url": "postgresql://u:hunter2@h/d",
    "sync": {"service_id": "a", "url": "http://h/v1/shape/", "secret": "hunter2"},
    "streams": {"service_id": "b", "url": "http://h/v1/stream/b", "secret": "hunter2"},
}


def read(folder: Path, state: Any, *more: str) -> settings.Settings:
    path = folder / "state.json"
    path.write_text(state if isinstance(state, str) else json.dumps(state))
    return settings.read(["--port", "0", "--region-state", str(path), *more])


def test_secrets_are_read_and_not_shown(tmp_path: Path) -> None:
    found = read(tmp_path, STATE)
    assert (found.sync.url, found.sync.secret, found.streams.service_id) == ("http://h/v1/shape", "hunter2", "b")
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize(
    ("state", "part"),
    [
        ("{secret: hunter2", "not JSON"),
        ("[]", "object"),
        ({**STATE, "sync": None}, "sync is missing"),
        ({**STATE, "streams": {**STATE["streams"], "secret": ""}}, "streams.secret is missing"),
        ({**STATE, "sync": {**STATE["sync"], "url": "ftp://h"}}, "sync.url"),
        ({**STATE, "database_url": 1}, "database_url is missing"),
    ],
)
def test_a_state_that_cannot_be_used_is_named(tmp_path: Path, state: Any, part: str) -> None:
    with pytest.raises(settings.SettingsError) as caught:
        read(tmp_path, state)
    assert part in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_bad_flags(tmp_path: Path) -> None:
    with pytest.raises(settings.SettingsError):
        read(tmp_path, STATE, "--interval", "0")
    with pytest.raises(settings.SettingsError):
        settings.read(["--port", "0", "--region-state", str(tmp_path / "none")])


def test_only_the_protocols_own_parameters_go_through() -> None:
    asked = [
        ("offset", "-1"),
        ("table", "secrets"),
        ("where", "true"),
        ("secret", "x"),
        ("source_id", "y"),
        ("live", "1"),
    ]
    assert proxy.allowed(asked, proxy.SHAPE_PARAMETERS) == [("offset", "-1"), ("live", "1")]
    assert proxy.allowed(asked, proxy.STREAM_PARAMETERS) == [("offset", "-1"), ("live", "1")]
