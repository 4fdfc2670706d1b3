"""`python -m bench.streams [--seconds N] [--python PATH] [--only NAME] [--install] [--million]`: all in turns.

Each has core 0 for itself, the load generator core 1. Writes bench/STREAMS.md. Needs wrk (Debian package `wrk`).
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median

from bench.streams import load, million, servers
from bench.streams.servers import CLIENT_CORE, KINDS, NODE, OURS, RUST, Kind, Running, available, install, running

PAGE = Path(__file__).resolve().parent.parent / "STREAMS.md"
# What is to be reached: (measure, as a multiple of which peer's, at least or at most).
GOALS: dict[str, list[tuple[str, float]]] = {
    "appends/s, 1 stream, 1 connection": [("rust", 0.6)],
    "appends/s, 1 stream, 64 connections": [("rust", 0.5), ("node file", 15)],
    "appends/s, 64 streams, 64 connections": [("rust", 0.5), ("node file", 15)],
    "p99 ms, 1 stream, 64 connections": [("rust", 2)],
    "SSE p99 ms, 500 subscribers": [("rust", 1.5)],
    "SSE p99 ms, 2000 subscribers": [("rust", 1.5)],
    "catch-up of 100 MB, MB/s": [("rust", 0.8)],
    "100 appends of 1 MB, MB/s": [("rust", 1)],
}

COMPARED = (OURS.name, "rust")
"""Who takes part in all rounds."""

Row = dict[str, float]
Part = Callable[[Running], Row]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.streams")
    parser.add_argument("--seconds", type=int, default=5, help="of each append measurement")
    parser.add_argument("--python", help="runs ours: /usr/bin/python3.11 of Debian is what images have")
    parser.add_argument("--only", help="one server, and no page: its name")
    parser.add_argument("--install", action="store_true", help="fetch missing peers with cargo and npm")
    parser.add_argument(
        "--million", type=int, nargs="?", const=1_000_000, metavar="COUNT", help="instead: so many streams in ours"
    )
    parser.add_argument(
        "--prepared", action="store_true", help="with --million: write their files at once, without HTTP"
    )
    given = parser.parse_args()
    if given.python:
        servers.python = given.python
    if given.million is not None:
        million.main(given.million, given.prepared)
        return
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed (Debian: apt-get install wrk)")
    if given.install:
        install()
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {int(CLIENT_CORE)})
    kinds = [kind for kind in KINDS if given.only in (None, kind.name)]
    for kind in [kind for kind in kinds if not available(kind)]:
        print(f"{kind.name}: not installed (--install fetches it)")
        kinds.remove(kind)
    rows = measure(kinds, given.seconds)
    if given.only is None:
        PAGE.write_text(page(rows))
        print(PAGE.read_text())


def measure(kinds: list[Kind], seconds: int) -> dict[str, Row]:
    """The rows of the table: medians of rounds, in which those that are compared take turns."""
    found: dict[str, dict[str, list[float]]] = {kind.name: {} for kind in kinds}
    for name, rounds, part in _parts(seconds):
        for number in range(rounds):
            for kind in kinds:
                if number and kind.name not in COMPARED:
                    continue
                for measure_name, value in _once(kind, part).items():
                    found[kind.name].setdefault(measure_name, []).append(value)
                    print(f"{name} {number + 1}, {kind.name}: {measure_name}: {value:,.2f}", flush=True)
    return {name: {key: median(values) for key, values in row.items()} for name, row in found.items()}


def _once(kind: Kind, part: Part) -> Row:
    """With a fresh server; when it fails, that is told, and missing in the table."""
    try:
        with running(kind) as server:
            return part(server)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        print(f"{kind.name}: {error}")
        return {}


def _parts(seconds: int) -> list[tuple[str, int, Part]]:
    """(name, rounds, what it measures)."""

    def append(server: Running) -> Row:
        time.sleep(1)
        row = {"resident MB, idle": server.resident()}
        for connections, streams in ((1, 1), (16, 1), (64, 1), (256, 1), (64, 64)):
            found = load.appends(server, connections, streams, seconds)
            where = f"{_count(streams, 'stream')}, {_count(connections, 'connection')}"
            row[f"appends/s, {where}"] = found.rate
            row[f"p50 ms, {where}"] = found.p50
            row[f"p99 ms, {where}"] = found.p99
            row[f"server CPU µs for each, {where}"] = found.cpu
        return row

    def fan(server: Running, subscribers: int) -> Row:
        found = load.fanout(server, subscribers, 50, 0.1)
        return {
            f"SSE p50 ms, {subscribers} subscribers": found.p50,
            f"SSE p99 ms, {subscribers} subscribers": found.p99,
            f"SSE delivered, {subscribers} subscribers": found.delivered,
            f"resident MB, {subscribers} SSE": found.resident,
        }

    def large(server: Running) -> Row:
        return {
            "100 appends of 1 MB, MB/s": load.large_appends(server, 100),
            "catch-up of 100 MB, MB/s": max(load.catch_up(server) for _ in range(3)),
        }

    def creations(server: Running) -> Row:
        return {
            "10,000 streams over 16 connections, s": load.creations(server, 10_000, 16),
            "resident MB, 10,000 streams": server.resident(),
        }

    return [
        ("appends", 3, append),
        ("SSE", 7, partial(fan, subscribers=500)),
        ("SSE", 5, partial(fan, subscribers=2000)),
        ("large", 7, large),
        ("creations", 1, creations),
    ]


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' if number > 1 else ''}"


def page(rows: dict[str, Row]) -> str:
    model = next(
        (s.split(":")[1].strip() for s in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in s), ""
    )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    names = list(rows)
    lines = [
        "# Figures: streams",
        "",
        "`python -m bench.streams` measures here and rewrites this page: one server core, one core for the load,",
        "100-byte JSON, each server in its own process on an empty directory; “memory” keeps nothing.",
        "Ours and the Rust server took turns, and what counts is the median: 3 rounds of appends, 7 and 5 of SSE",
        "(a p99 of 50 messages is about the slowest one), 7 of large ones."
        f" Peers: the Rust server `durable-streams` {RUST}, npm `@durable-streams/server` {NODE}.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d} · {os.cpu_count()} × {model} · Linux {platform.release()}"
        f" · {servers.version()} ({servers.python}) · commit {commit.stdout.strip()}",
        "",
        f"| measure | {' | '.join(names)} | of rust | goal |",
        "|---|" + "---|" * (len(names) + 2),
    ]
    for measure_name in dict.fromkeys(name for row in rows.values() for name in row):
        values = [rows[name].get(measure_name) for name in names]
        shown = ["–" if value is None else _number(value) for value in values]
        mine, rust = rows.get(OURS.name, {}).get(measure_name), rows.get("rust", {}).get(measure_name)
        ratio = f"{mine / rust:.2f}" if mine and rust else "–"
        lines.append(f"| {measure_name} | {' | '.join(shown)} | {ratio} | {_goal(measure_name, mine, rows)} |")
    return "\n".join([*lines, ""])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _goal(name: str, mine: float | None, rows: dict[str, Row]) -> str:
    """Each goal, and whether it is reached."""
    told = []
    for peer, factor in GOALS.get(name, []):
        theirs = rows.get(peer, {}).get(name)
        less = " ms" in name
        text = f"{'≤' if less else '≥'} {factor:g} × {peer}"
        if mine is not None and theirs is not None:
            text += " ✓" if (mine <= factor * theirs if less else mine >= factor * theirs) else " ✗"
        told.append(text)
    return ", ".join(told) or "–"


if __name__ == "__main__":
    main()
