"""How much memory shapes cost, and how long a restart with them takes."""

from __future__ import annotations

import time

from bench.sync.latency import items
from bench.sync.report import Figure
from bench.sync.world import World

REACH = {0: 60, 10_000: 120, 100_000: 700}


def memory(world: World, counts: tuple[int, ...]) -> list[Figure]:
    """Resident memory with so many idle shapes (`counts` ascending), and the restart with each."""
    url = world.database()
    items(url, 1000)
    figures = []
    made = 0
    with world.server(url) as server:
        for count in counts:
            began, cpu = time.perf_counter(), server.cpu()
            if count:
                server.create([{"table": "items", "where": f"field = {i} AND n >= 0"} for i in range(made, count)])
            seconds = time.perf_counter() - began
            large = count > 10_000
            if large:
                each = (server.cpu() - cpu) / (count - made) * 1e6
                what = f"making {count - made:,} more shapes, 50 at a time"
                figures.append(
                    Figure(what, f"{seconds:.0f} s ({each:,.0f} µs of the server's CPU for each)", "", None, large=True)
                )
            time.sleep(3)
            resident = server.memory()
            what = f"with {count:,} idle shapes" if count else "empty"
            figures.append(
                Figure(
                    f"resident memory, {what}",
                    f"{resident:.0f} MB",
                    f"≤ {REACH[count]} MB",
                    resident <= REACH[count],
                    large=large,
                )
            )
            if not count:
                continue
            print(f"{count - made:,} shapes made in {seconds:.0f} s")
            made = count
            server.stop()
            began = time.perf_counter()
            server.start()
            ready = time.perf_counter() - began
            figures.append(
                Figure(
                    f"restart to ready with {count:,} shapes",
                    f"{ready:.1f} s ({server.memory():.0f} MB)",
                    "≤ 3 s" if count == 10_000 else "",
                    ready <= 3 if count == 10_000 else None,
                    large=large,
                )
            )
    return figures
