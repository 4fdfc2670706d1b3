"""Settings are checked at start, all at once."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from switchgear_api import settings
from tests.api.server import PROGRAM


def test_flags_win_over_the_environment() -> None:
    environment = {"SWITCHGEAR_PORT": "1", "SWITCHGEAR_HOST": "127.0.0.9", "SWITCHGEAR_ADMIN_TOKEN_FILE": "/t"}
    read = settings.read(["--port", "2"], environment)
    assert (read.host, read.port, read.admin_token_file) == ("127.0.0.9", 2, Path("/t"))


def test_every_problem_is_listed() -> None:
    with pytest.raises(settings.SettingsError) as caught:
        settings.read(["--port", "70000", "--public-url", "ftp://x"], {})
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("token", [None, "", "short"])
def test_a_token_file_that_cannot_be_used_ends_with_status_2(tmp_path: Path, token: str | None) -> None:
    path = tmp_path / "token"
    if token is not None:
        path.write_text(token)
    done = subprocess.run(
        [PROGRAM, "--admin-token-file", path], capture_output=True, text=True, timeout=60, check=False, env=os.environ
    )
    assert done.returncode == 2
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr


def test_no_kubernetes_configuration_ends_with_status_2(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("x" * 40)
    environment = dict(os.environ, KUBECONFIG=str(tmp_path / "none"), HOME=str(tmp_path))
    done = subprocess.run(
        [PROGRAM, "--admin-token-file", token], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert done.returncode == 2
    assert "KUBECONFIG" in done.stderr
