"""`python -m bench.sync [--large] [names…]`: all measurements, or those named; the page is written after all of them.

`--large` adds 100,000 shapes (some minutes), which have a page of their own.
Needs psql; wrk and nginx for the comparison of served chunks.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from bench.sync import latency, report, size, throughput
from bench.sync.report import Figure
from bench.sync.world import World


def main() -> None:
    names = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    counts = (0, 10_000, 100_000) if "--large" in sys.argv else (0, 10_000)
    world = World()
    figures: list[Figure] = []
    alone: list[float] = []

    def one_shape() -> list[Figure]:
        found, p50 = latency.one_shape(world)
        alone.append(p50)
        return found

    measurements: dict[str, Callable[[], list[Figure]]] = {
        "one": one_shape,
        "equal": lambda: latency.many_equal(world, alone[0] if alone else 2.0),
        "ilike": lambda: latency.many_ilike(world),
        "matching": lambda: throughput.matching(world),
        "unmatched": lambda: throughput.not_matching(world),
        "fanout": lambda: latency.fan_out(world),
        "all": lambda: latency.all_shapes(world),
        "creation": lambda: throughput.creation(world),
        "initial": lambda: throughput.initial_sync(world),
        "chunk": lambda: throughput.chunk(world),
        "memory": lambda: size.memory(world, counts),
    }
    try:
        for name, measure in measurements.items():
            if names and name not in names:
                continue
            for figure in measure():
                figures.append(figure)
                print(f"{figure.measure}: {figure.measured} (reach {figure.reach})", flush=True)
    finally:
        world.close()
    version = subprocess.run([world.postgres.command()[0], "--version"], capture_output=True, text=True, check=True)
    postgres = version.stdout.strip().replace(" (PostgreSQL)", "").replace("postgres", "Postgres")
    large = [figure for figure in figures if figure.large]
    if large:
        report.write_large(large, postgres)
    if not names:
        report.write([figure for figure in figures if not figure.large], postgres)


if __name__ == "__main__":
    main()
