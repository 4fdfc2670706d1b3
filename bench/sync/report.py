"""The table of results: what was measured, what is to be reached, what others have; written to the pages in bench/."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Figure:
    """One row. `reached` is None where there is nothing to reach."""

    measure: str
    measured: str
    reach: str
    reached: bool | None
    reference: str = ""
    large: bool = False
    """Of a run with `--large` only, with a page of its own."""


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def machine(postgres: str) -> str:
    cpus = (s.split(":")[1].strip() for s in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in s)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=ROOT
    ).stdout.strip()
    return (
        f"{datetime.now(UTC):%Y-%m-%d} · {os.cpu_count()} × {next(cpus, '')} · Linux {platform.release()}"
        f" · Python {platform.python_version()} · {postgres} · commit {commit}"
    )


INTRODUCTION = """# Figures of the sync server

`python -m bench.sync` measures here and rewrites this page. One shape server on one core; Postgres (fsync on) and the
load generator on the same machine. References: figures that Electric published, on other machines, and what was
measured beside. What 100,000 shapes cost is in [SYNC-LARGE.md](SYNC-LARGE.md).
"""
INTRODUCTION_LARGE = """# 100,000 shapes on one sync server

`python -m bench.sync --large memory` makes them (some minutes), measures here and rewrites this page; a run without
`--large` leaves it alone. One shape server on one core; Postgres and the load generator on the same machine.
"""


def write(figures: list[Figure], postgres: str) -> None:
    _write("SYNC.md", INTRODUCTION, figures, postgres)


def write_large(figures: list[Figure], postgres: str) -> None:
    _write("SYNC-LARGE.md", INTRODUCTION_LARGE, figures, postgres)


def _write(page: str, introduction: str, figures: list[Figure], postgres: str) -> None:
    lines = [
        introduction,
        machine(postgres),
        "",
        "| measure | measured | reach | | reference |",
        "|---|---|---|---|---|",
        *(f"| {f.measure} | {f.measured} | {f.reach} | {_mark(f.reached)} | {f.reference} |" for f in figures),
        "",
    ]
    (ROOT / "bench" / page).write_text("\n".join(lines))


def _mark(reached: bool | None) -> str:
    return "" if reached is None else ("reached" if reached else "**not reached**")
