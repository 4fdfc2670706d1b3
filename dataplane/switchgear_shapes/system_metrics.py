"""How busy the machine is, under Electric's names: cores, load and memory, read from /proc when somebody asks."""

from __future__ import annotations

import os
import time
from pathlib import Path

from switchgear_wire.metrics import Registry

SETTLED_SECONDS = 1.0
_MEMORY = {"free_memory": "MemFree", "available_memory": "MemAvailable"}


class _Busy:
    """The part of the time, in percent, in which the processors worked since it was last asked."""

    def __init__(self) -> None:
        self._last = _ticks()
        self._at = time.monotonic()
        self._value = 0.0

    def __call__(self) -> float:
        if time.monotonic() - self._at >= SETTLED_SECONDS:
            idle, total = _ticks()
            passed = total - self._last[1]
            self._value = 100.0 * (1 - (idle - self._last[0]) / passed) if passed > 0 else 0.0
            self._last, self._at = (idle, total), time.monotonic()
        return self._value


def watch_system(registry: Registry) -> None:
    """Add the gauges."""
    gauge = registry.gauge
    cores = os.cpu_count() or 1
    gauge("system_cpu_core_count", "Processors", lambda: cores)
    gauge("system_cpu_utilization_total", "Percent of the processors' time that was used", _Busy())
    for index, minutes in enumerate((1, 5, 15)):
        gauge(
            f"system_load_percent_avg{minutes}",
            "Load average in percent of the processors",
            lambda index=index: 100.0 * os.getloadavg()[index] / cores,  # type: ignore[misc]
        )
    for name, field in _MEMORY.items():
        gauge(
            f"system_memory_percent_{name}",
            "Percent of the memory",
            lambda field=field: memory_percent(field),  # type: ignore[misc]
        )
    gauge("system_memory_percent_used_memory", "Percent of the memory", lambda: 100.0 - memory_percent("MemAvailable"))


def memory_percent(field: str) -> float:
    """A field of /proc/meminfo in percent of all memory; 0 where there is none."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return 0.0
    values = {name: float(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return 100.0 * values.get(field, 0.0) / max(values.get("MemTotal", 0.0), 1.0)


def _ticks() -> tuple[float, float]:
    """(idle, all) time of the processors."""
    try:
        with Path("/proc/stat").open(encoding="ascii") as file:
            fields = [float(field) for field in file.readline().split()[1:9]]
    except OSError:
        return 0.0, 0.0
    return fields[3] + fields[4], sum(fields)
