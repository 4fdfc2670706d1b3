"""`switchgear up --demo` as a newcomer sees it: what it prints works, and a second start finds everything."""

from __future__ import annotations

import contextlib
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import processes
from tests.support.region import Endpoint, Region, wait_until
from tests.support.shape_follower import ShapeFollower

SYNC, STREAMS = ("syncsource", "app-production-db"), ("streamsservice", "app-production-events")


@pytest.fixture(scope="module")
def demo() -> Iterator[Region]:
    root = Path(tempfile.mkdtemp(prefix="sg-demo-"))
    root.chmod(0o755)
    region = Region(root / "region", "--demo")
    try:
        region.start()
        yield region
    finally:
        if region.process is not None:
            region.stop()
        nothing_left(region)
        wiped = region.cli("down", "--wipe", check=False)
        left = region.data_dir.exists()
        shutil.rmtree(root, ignore_errors=True)
        assert wiped.returncode == 0, wiped.stderr
        assert not left, "--wipe left the data directory"


def nothing_left(region: Region) -> None:
    """No process of the region outlives it. (Those that were killed may be on their way out.)"""
    wait_until(
        lambda: not processes.find(str(region.data_dir)),
        30,
        lambda: f"processes of the region are left: {processes.find(str(region.data_dir))}",
    )


def endpoints(region: Region) -> tuple[Endpoint, Endpoint]:
    return region.endpoint(SYNC[0], "quickstart", SYNC[1]), region.endpoint(STREAMS[0], "quickstart", STREAMS[1])


def test_what_it_prints_works_when_pasted(demo: Region) -> None:
    lines = [line for line in demo.log.splitlines() if line.startswith("curl ")]
    assert len(lines) == 2
    answers = [subprocess.run(["bash", "-c", line], capture_output=True, timeout=90, check=False) for line in lines]
    assert [answer.returncode for answer in answers] == [0, 0], answers
    assert b'"operation":"insert"' in answers[0].stdout
    assert answers[1].stdout.startswith(b"[{")


def test_demo_page_is_served_and_knows_no_secret(demo: Region) -> None:
    match = re.search(r"Demo page\s+(http://\S+)", demo.log)
    assert match is not None
    page = httpx.get(match[1])
    assert page.status_code == 200
    sync, streams = endpoints(demo)
    sent = page.text + "".join(httpx.get(match[1] + name).text for name in re.findall(r'src="([^"]+\.js)"', page.text))
    assert not [s for s in (sync.secret, streams.secret, sync.service_id) if s in sent]


def test_command_line_is_logged_in(demo: Region) -> None:
    found = demo.cli("services", "list", "--environment", "production", "--json").stdout
    for endpoint in endpoints(demo):
        assert endpoint.service_id in found
    login = Path(demo.environment["XDG_CONFIG_HOME"]) / "switchgear" / "auth.json"
    assert stat.S_IMODE(login.stat().st_mode) == 0o600


def test_no_secret_in_logs_status_events_or_command_lines(demo: Region) -> None:
    secrets = [endpoint.secret for endpoint in endpoints(demo)]
    for item in demo.get("secret", "quickstart"):
        secrets += [value for value in item["data"].values() if len(value) > 20]
    texts = {}
    for path in (demo.data_dir / "logs").rglob("*.log*"):
        with contextlib.suppress(FileNotFoundError):  # renamed since it was listed: the newer ones are read
            texts[str(path)] = path.read_text(errors="replace")
    texts["objects"] = demo.kubectl("get", "switchgear,events,pods,statefulsets", "-A", "-o", "yaml").stdout
    for pid in processes.find(str(demo.data_dir)):
        with contextlib.suppress(OSError):
            texts[f"command line of {pid}"] = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    found = [name for name, text in texts.items() for secret in secrets if secret in text]
    assert found == []


def test_second_start_finds_everything(demo: Region) -> None:
    sync, streams = endpoints(demo)
    made = httpx.put(f"{streams.url}/kept", headers=streams.bearer | {"content-type": "text/plain"}, content="kept")
    assert made.status_code == 201
    follower = ShapeFollower(sync.url, {"table": "switchgear_demo", **sync.params}).start()
    follower.wait_for(lambda f: f.up_to_date.is_set(), 60, "the table")
    demo.stop()
    nothing_left(demo)
    demo.start()
    demo.wait_active("quickstart", SYNC, STREAMS)
    assert endpoints(demo) == (sync, streams)
    assert httpx.get(f"{streams.url}/kept", headers=streams.bearer, params={"offset": "-1"}).text == "kept"
    seen = len(follower.history)
    follower.wait_for(lambda f: len(f.history) > seen, 60, "changes after the second start")
    follower.stop()
    assert follower.refetches == 0, "the shape had to be fetched again"


def test_down_from_another_terminal(demo: Region) -> None:
    assert demo.process is not None
    assert demo.cli("down").returncode == 0
    wait_until(lambda: demo.process is not None and demo.process.poll() is not None, 60, "`up` ends")
    assert demo.process.returncode == 0
    demo.process = None
