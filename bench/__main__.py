"""First figures of a whole region on this machine: start, memory, append rate, live fan-out, direct and by the edge.

Writes bench/RESULTS.md. Append rates need wrk (Debian package `wrk`); without it they are left out, and that is said.
"""

from __future__ import annotations

import asyncio
import base64
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psycopg

from bench import fanout
from tests.support import processes
from tests.support.region import ROOT, Endpoint, Region

NAMESPACE = "quickstart"
SYNC = ("syncsource", "app-production-db")
STREAMS = ("streamsservice", "app-production-events")
CONNECTIONS = (1, 16, 64)


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="sg-bench-"))
    folder.chmod(0o755)
    region = Region(folder / "region", "--demo")
    try:
        first = start(region)
        region.stop()
        second = start(region)
        time.sleep(20)
        memory = memory_by_process(region)
        rates = append_rates(region)
        latencies = fanouts(region)
        region.stop()
    finally:
        if region.process is not None:
            region.stop()
        shutil.rmtree(folder, ignore_errors=True)
    versions = re.findall(r"(Postgres [\d.]+|Kubernetes [\d.]+) is ready", region.log)
    write(list(dict.fromkeys(versions)), first, second, memory, rates, latencies)


def start(region: Region) -> float:
    """Seconds from the command to both services `active`."""
    began = time.monotonic()
    region.start(timeout=300)
    region.wait_active(NAMESPACE, SYNC, STREAMS, timeout=120)
    return time.monotonic() - began


def memory_by_process(region: Region) -> list[tuple[str, float]]:
    """Proportional set size in MB of every process of the region, largest first."""
    found: dict[str, float] = {}
    for pid in processes.find(str(region.data_dir)):
        try:
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        size = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1024
        found[process_name(argv)] = found.get(process_name(argv), 0) + size
    return sorted(found.items(), key=lambda item: -item[1])


def process_name(argv: list[str]) -> str:
    """A short name: the script or module for Python, the program else; Postgres' backends are one."""
    program = Path(argv[0].split(":")[0]).name
    if program.startswith("python"):
        if "-m" in argv:
            return argv[argv.index("-m") + 1]
        return Path(argv[1]).name if len(argv) > 1 else program
    return "postgres" if program.startswith("postgres") else program


def pod_key(region: Region, service_id: str) -> str:
    data = region.get("secret", NAMESPACE, f"sg-{service_id}-key")["data"]["key"]
    return base64.b64decode(data).decode()


def direct(region: Region, endpoint: Endpoint, path: str) -> Endpoint:
    """The pod itself, with its own key instead of the service's secret."""
    pod = region.get("pod", NAMESPACE, f"sg-{endpoint.service_id}-0")
    port = pod["spec"]["containers"][0]["ports"][0]["containerPort"]
    key = pod_key(region, endpoint.service_id)
    return Endpoint(f"http://{pod['status']['podIP']}:{port}{path}", endpoint.service_id, key)


def append_rates(region: Region) -> list[tuple[str, int, str]]:
    """(way, connections, 'rate p50 p99') for one stream."""
    if shutil.which("wrk") is None:
        print("wrk is not installed: append rates are left out (Debian: apt-get install wrk)")
        return []
    service = region.endpoint(*STREAMS[:1], NAMESPACE, STREAMS[1])
    rows = []
    for way, target in (
        ("direct", direct(region, service, f"/v1/stream/{service.service_id}")),
        ("edge", service),
    ):
        headers = target.bearer | {"content-type": "application/json"}
        httpx.put(f"{target.url}/bench-{way}-0", headers=headers).raise_for_status()
        path = httpx.URL(target.url).path + f"/bench-{way}-"
        base = str(httpx.URL(target.url).copy_with(path="/"))
        for connections in CONNECTIONS:
            command = ["wrk", "-t1", f"-c{connections}", "-d5s", "-s", str(ROOT / "bench/append.lua"), base]
            done = subprocess.run(
                [*command, "--", "1", path],
                env=dict(os.environ, BENCH_SECRET=target.secret),
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            )
            result = next(line for line in done.stdout.splitlines() if line.startswith("RESULT")).split()
            assert result[4] == "0", f"{result[4]} errors: {done.stdout}"
            rows.append((way, connections, f"{int(result[1]):,} | {result[2]} | {result[3]}"))
            print("appends", *rows[-1])
    return rows


def fanouts(region: Region) -> list[tuple[str, float, float]]:
    """(way, median, worst) in ms: the last of 200 live clients after COMMIT."""
    secret = region.get("secret", NAMESPACE, "quickstart-database")["data"]["url"]
    url = base64.b64decode(secret).decode()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS bench (id int PRIMARY KEY, n int)")
        connection.execute("INSERT INTO bench VALUES (1, 0) ON CONFLICT DO NOTHING")
    service = region.endpoint(*SYNC[:1], NAMESPACE, SYNC[1])
    rows = []
    pod = direct(region, service, "/v1/shape")
    for way, target, params, headers in (
        ("direct", pod, {}, pod.bearer),
        ("edge", service, service.params, {}),
    ):
        got = asyncio.run(fanout.measure(target.url, {"table": "bench"} | params, headers, url, 200, 30))
        rows.append((way, got[len(got) // 2], got[-1]))
        print("fan-out", *rows[-1])
    return rows


def write(
    versions: list[str],
    first: float,
    second: float,
    memory: list[tuple[str, float]],
    rates: list[tuple[str, int, str]],
    latencies: list[tuple[str, float, float]],
) -> None:
    cpu = next(
        (s.split(":")[1].strip() for s in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in s), ""
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    lines = [
        "# Figures",
        "",
        "`make bench` measures here and rewrites this page. Load generator, Postgres and servers share the cores.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d} · {os.cpu_count()} × {cpu} · Linux {platform.release()}"
        f" · Python {platform.python_version()} · {' · '.join(versions)}"
        f" · commit {commit.stdout.strip()}",
        "",
        "| a whole region (`switchgear up --demo`, warm caches) | measured | reach |",
        "|---|---|---|",
        f"| command → both services `active`, from nothing | {first:.1f} s | ≤ 20 s |",
        f"| the same on kept state | {second:.1f} s | ≤ 10 s |",
        "",
        "| memory at rest (PSS) | MB |",
        "|---|---|",
        *(f"| {name} | {size:.0f} |" for name, size in memory),
        f"| **all** | **{sum(size for _, size in memory):.0f}** |",
        "",
        "| appends to one stream, 100-byte JSON, durable | connections | appends/s | p50 ms | p99 ms |",
        "|---|---|---|---|---|",
        *(f"| {way} | {connections} | {text} |" for way, connections, text in rates),
        "",
        "| one shape, 200 live clients: COMMIT → the last one has the change | median ms | worst of 30 ms |",
        "|---|---|---|",
        *(f"| {way} | {median:.1f} | {worst:.1f} |" for way, median, worst in latencies),
        "",
    ]
    (ROOT / "bench/RESULTS.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
