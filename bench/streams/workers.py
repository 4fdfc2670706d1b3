"""Several workers against one: server CPU for each append, clients that keep to a stream and clients that do not.

`python -m bench.streams.workers` measures here, in turns, and rewrites `bench/WORKERS.md`. The machine's cores are
shared by server and load, so that CPU, and not the rate, is what is compared.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.streams.load import HERE, JSON
from bench.streams.servers import free_port

PAGE = HERE.parent / "WORKERS.md"
COUNTS = (1, 2, 4)
CLIENTS = 8
CONNECTIONS = 8
ROUNDS = 5
GOAL = 1.15


@dataclass
class Group:
    """One server and its processes."""

    port: int
    process: subprocess.Popen[bytes]

    def cpu(self) -> float:
        """Seconds that all processes used so far."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return sum(_cpu(one) for one in [str(pid), *children])


def _cpu(pid: str) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def group(workers: int) -> Iterator[Group]:
    """A server, started empty; its data go with it."""
    folder = Path(tempfile.mkdtemp(prefix="sg-bench-"))
    port = free_port()
    flags = ["--workers", str(workers), "--port", str(port), "--data-dir", str(folder / "data"), "--insecure"]
    process = subprocess.Popen(
        [sys.executable, "-m", "switchgear_streams", *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait(port)
        yield Group(port, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}/ready", trust_env=False).status_code == 200:
                return
        time.sleep(0.05)
    raise SystemExit("the server did not come up")


def appends(server: Group, seconds: int, keep: bool, connections: int = CONNECTIONS) -> tuple[float, float]:
    """(appends a second, CPU µs for each): `CLIENTS` processes, each on its stream, or all on all streams in turn."""
    url = f"http://127.0.0.1:{server.port}"
    with httpx.Client(trust_env=False) as client:
        for number in range(CLIENTS):
            for name in (f"s{number}-0", f"all-{number}"):
                client.put(f"{url}/v1/stream/{name}", headers=JSON).raise_for_status()
    before = server.cpu()
    common = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(HERE.parent / "append.lua"), url, "--"]
    running = [
        subprocess.Popen(
            [*common, *(["1", f"/v1/stream/s{number}-"] if keep else [str(CLIENTS), "/v1/stream/all-"])],
            env=dict(os.environ, BENCH_SECRET="none"),
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(CLIENTS)
    ]
    rate = 0.0
    for one in running:
        text, _ = one.communicate(timeout=seconds + 60)
        found = next(line for line in text.splitlines() if line.startswith("RESULT")).split()
        if found[4] != "0":
            raise SystemExit(f"errors: {found}")
        rate += float(found[1])
    return rate, (server.cpu() - before) / (rate * seconds) * 1e6


def main() -> None:
    """Measure and write the page."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=int, default=3)
    seconds = arguments.parse_args().seconds
    found: dict[tuple[int, bool], list[tuple[float, float]]] = {}
    for number in range(ROUNDS):
        for count in COUNTS:
            with group(count) as server:
                for keep in (True, False):
                    result = appends(server, seconds, keep, CONNECTIONS * count)
                    found.setdefault((count, keep), []).append(result)
                    print(f"round {number}, {count} workers, {'own' if keep else 'all'}: {result}", flush=True)
    PAGE.write_text(page(found))
    print(PAGE.read_text())


def page(found: dict[tuple[int, bool], list[tuple[float, float]]]) -> str:
    """The table. Each figure is the median of the rounds, ratios those of the same round."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    machine = f"{os.cpu_count()} cores · Linux {platform.release()} · Python {platform.python_version()}"
    lines = [
        "# Figures: several workers",
        "",
        "`python -m bench.streams.workers` measures here and rewrites this page:"
        f" {CLIENTS} clients with {CONNECTIONS} connections for each worker, 100-byte JSON appends, durable;"
        f" {ROUNDS} rounds in turns, medians.",
        "Server and load share the cores, so the rate says little; what counts is the server's CPU for each append.",
        "",
        f"{datetime.date.today().isoformat()} · {machine} · commit {commit.stdout.strip()}",
        "",
        "| clients | workers | appends/s | CPU µs for each | of one worker | goal |",
        "|---|---|---|---|---|---|",
    ]
    for keep, name in ((True, "each on one stream"), (False, "each on all 8 streams in turn")):
        for count in COUNTS:
            rounds = found[count, keep]
            ratio = statistics.median(mine[1] / one[1] for mine, one in zip(rounds, found[1, keep], strict=True))
            goal = f"≤ {GOAL} {'✓' if ratio <= GOAL else '✗'}" if keep and count > 1 else "–"
            rate, cpu = (statistics.median(one[k] for one in rounds) for k in (0, 1))
            lines.append(f"| {name} | {count} | {rate:,.0f} | {cpu:.1f} | {ratio:.2f} | {goal} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
