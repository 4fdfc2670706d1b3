"""Runs the whole suite: `python -m tests.run [--long] [pytest arguments]`, called by `make test`.

Installs or builds what the tests need (kept in the cache, outside the repo), then runs pytest in two passes: what may
run side by side, then what starts whole regions, two at a time. The last line counts all of it.
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

from tests.support import system

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    arguments = sys.argv[1:]
    long = "--long" in arguments
    extra = [a for a in arguments if a != "--long"]
    system.prepare(print_step)
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    kinds = "" if long else " and not long"
    workers = str(min(4, os.cpu_count() or 2))
    worst = 0
    for name, options in (
        ("side by side", ["-n", workers, "--dist", "loadfile", "-m", f"not e2e{kinds}"]),
        ("whole regions", ["-n", "2", "--dist", "loadfile", "-m", f"e2e{kinds}"]),
    ):
        print_step(f"tests, {name}")
        worst = max(worst, run(options + extra, counts))
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped", flush=True)
    if not counts["passed"]:
        print("No test ran.", flush=True)
        return 1
    return worst


def run(options: list[str], counts: dict[str, int]) -> int:
    """One pytest process; its counts are added to `counts`. Status 5 (nothing selected) is no failure of a pass."""
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
    return 0 if status == 5 else status


def print_step(text: str) -> None:
    print(f"== {time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
