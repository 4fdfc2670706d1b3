"""Runs the whole suite: `python -m tests.run [--long] [pytest arguments]`, called by `make test`.

Installs or builds what the tests need (kept in the cache, outside the repo), then runs pytest with one worker more than
there are cores: tests wait about as long as they work. `tests/support/schedule.py` says in which order. The last line
counts all of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.support import effort, system

# Not the bounds on connections: with several workers they hold give or take a twentieth of a second.
SEEN_BY_CLIENTS = [
    "bad_input",
    "clients",
    "live",
    "model",
    "protocol",
    "subscriptions",
    "tenants",
    "usage",
    "yjs",
]
ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    arguments = sys.argv[1:]
    long = "--long" in arguments
    extra = [a for a in arguments if a != "--long"]
    # Each start of a server would compile all that it is made of (a fifth of what tests/shapes/test_live.py costs).
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    system.prepare(print_step)
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    workers = str(1 + min(4, os.cpu_count() or 2))
    print_step(f"tests, {workers} at a time")
    os.environ[effort.LONG if long else effort.SAME] = "1"
    options = ["-n", workers, "--dist", "loadfile", "--no-loadscope-reorder"]
    status = run(options + ([] if long else ["-m", "not long"]) + extra, counts)
    if long and not extra:
        print_step("what clients see of the streams server, against three workers")
        os.environ["STREAMS_TEST_WORKERS"] = "3"
        files = [f"tests/streams/test_{name}.py" for name in SEEN_BY_CLIENTS]
        status = run(["-m", "not long", *options, *files], counts) or status
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped", flush=True)
    if not counts["passed"]:
        print("No test ran.", flush=True)
        return 1
    return status


def run(options: list[str], counts: dict[str, int]) -> int:
    """pytest's status; what it counted is added to `counts`."""
    report = Path(tempfile.mkdtemp(prefix="switchgear-tests-")) / "report.xml"
    status = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *options], cwd=ROOT, check=False
    ).returncode
    if report.exists():
        for suite in ET.parse(report).getroot().iter("testsuite"):
            number = {key: int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")}
            failed = number["failures"] + number["errors"]
            counts["failed"] += failed
            counts["skipped"] += number["skipped"]
            counts["passed"] += number["tests"] - failed - number["skipped"]
    shutil.rmtree(report.parent, ignore_errors=True)
    return status


def print_step(text: str) -> None:
    print(f"== {time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
