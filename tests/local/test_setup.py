"""`make setup`: a registry that breaks off, two at a time, and a kill in the middle leave no half-made environment."""

from __future__ import annotations

import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import processes

pytestmark = pytest.mark.timeout(900)
SCRIPT = Path(__file__).resolve().parents[2] / "locks" / "environment.py"
RUN = "import sys; sys.path.insert(0, 'locks'); import environment as e; e.PAUSE = 0.1; sys.exit(e.main())"
NAME = "tiny-1.0-py3-none-any.whl"
BACKEND = """
import pathlib, sys
sys.path.insert(0, str(pathlib.Path(__file__).parent))
from wheel_of import wheel
def build_editable(folder, settings=None, metadata=None):
    pathlib.Path(folder, "ours-1.0-py3-none-any.whl").write_bytes(wheel("ours"))
    return "ours-1.0-py3-none-any.whl"
"""
PROJECT = """
[project]
name = "ours"
version = "1.0"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
WHEEL = """
import io, zipfile
def wheel(name):
    packed = io.BytesIO()
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(f"{name}.py", "there = True" + " " * 100_000)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\\n{info}/METADATA,,\\n{info}/WHEEL,,\\n{info}/RECORD,,\\n")
    return packed.getvalue()
"""


class Registry:
    """A package index with one wheel. `cut`: so many answers break off in the middle. `gate`: answers wait for it."""

    def __init__(self, body: bytes) -> None:
        self.cut = 0
        self.asked = 0
        self.gate = threading.Event()
        self.gate.set()
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = body if self.path.endswith(".whl") else f'<a href="/{NAME}">{NAME}</a>'.encode()
                self.send_response(200)
                self.send_header("content-length", str(len(content)))
                self.send_header("content-type", "text/html" if content is not body else "application/zip")
                self.end_headers()
                if content is body:
                    registry.asked += 1
                    if registry.cut:
                        registry.cut -= 1
                        content = content[:1000]
                    registry.gate.wait(60)
                self.wfile.write(content)
                self.close_connection = True

            def log_message(self, *_arguments: object) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()


class Checkout:
    """A small project beside the real script."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "locks").mkdir()
        shutil.copy(SCRIPT, folder / "locks")
        (folder / "wheel_of.py").write_text(WHEEL)
        (folder / "backend.py").write_text(BACKEND)
        (folder / "pyproject.toml").write_text(PROJECT)
        scope: dict[str, object] = {}
        exec(WHEEL, scope)  # the project's own helper, used here for the registry's package
        body = scope["wheel"]("tiny")  # type: ignore[operator]
        digest = hashlib.sha256(body).hexdigest()
        (folder / "locks" / "dev.txt").write_text(f"tiny==1.0 --hash=sha256:{digest}\n")
        self.registry = Registry(body)

    def start(self) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
        environment |= {
            "PIP_INDEX_URL": f"http://127.0.0.1:{self.registry.server.server_port}/simple",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_RETRIES": "0",
            "HOME": str(self.folder),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "NO_PROXY": "*",
        }
        return subprocess.Popen(
            [sys.executable, "-c", RUN],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def whole(self) -> bool:
        """Both packages can be imported, and the stamp says so."""
        program = "import tiny, ours; assert tiny.there and ours.there"
        python = self.folder / ".venv" / "bin" / "python"
        done = subprocess.run([python, "-c", program], cwd="/", check=False, capture_output=True)
        return done.returncode == 0 and (self.folder / ".venv" / ".switchgear-setup").exists()


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    made = Checkout(tmp_path)
    yield made
    made.registry.close()


def finished(process: subprocess.Popen[str]) -> str:
    """What it said. Raises AssertionError with it unless all went well."""
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def test_a_kill_in_the_middle_a_download_that_breaks_off_and_two_at_a_time(checkout: Checkout) -> None:
    """What a killed one left is not trusted, nor touched while its pip is still alive."""
    left = checkout.folder / ".venv" / "left"
    checkout.registry.gate.clear()
    killed = checkout.start()
    deadline = time.monotonic() + 60
    while not checkout.registry.asked:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    left.touch()
    killed.kill()
    others = [checkout.start(), checkout.start()]
    for other in others:
        assert other.stdout is not None
        assert "another `make setup` is at work" in other.stdout.readline()
    assert left.exists()
    assert processes.kill(str(checkout.folder / ".venv"), "pip install")
    killed.communicate(timeout=60)
    checkout.registry.cut = 1
    checkout.registry.gate.set()
    said = [finished(other) for other in others]
    assert sum("pip failed; once more" in text for text in said) == 1, said
    assert checkout.registry.asked == 3, "one killed, one cut off, one whole; the last `make setup` found all there"
    assert checkout.whole()
    assert not left.exists()


@pytest.mark.long
def test_what_cannot_be_had_is_said_and_a_whole_environment_stays(checkout: Checkout) -> None:
    checkout.registry.cut = 100
    failed = checkout.start()
    said, _ = failed.communicate(timeout=300)
    assert failed.returncode == 1
    assert "run the same command again" in said
    checkout.registry.cut = 0
    finished(checkout.start())
    assert checkout.whole()
    pins = checkout.folder / "locks" / "dev.txt"
    pins.write_text(pins.read_text().replace("1.0", "2.0"))
    failed = checkout.start()
    said, _ = failed.communicate(timeout=300)
    assert (failed.returncode, "run the same command again" in said) == (1, True)
    assert checkout.whole()
