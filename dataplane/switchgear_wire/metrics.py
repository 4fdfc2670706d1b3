"""Counters, gauges and histograms in Prometheus' text format.

A few dozen lines instead of a client library, because each data-plane process is small on purpose. Series are created
by the code, never from request input, so their number is bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

_LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Counter:
    """A number that only grows. `value` may be added to directly in hot paths."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, by: float = 1) -> None:
        self.value += by


class Gauge(Counter):
    """A number that goes up and down, or is read from `source` when rendered."""

    __slots__ = ("source",)

    def __init__(self) -> None:
        super().__init__()
        self.source: Callable[[], float] | None = None

    def set(self, value: float) -> None:
        self.value = value


class Histogram:
    """Observations counted into cumulative buckets (upper bounds, in the unit that the name says)."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = _LATENCY_BUCKETS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


_Series = TypeVar("_Series", Counter, Gauge, Histogram)


class Registry:
    """All series of one process. The same name and labels give the same series."""

    def __init__(self, **labels: str) -> None:
        self._labels = labels
        """Every series has them."""
        self._families: dict[str, tuple[str, str]] = {}
        self._series: dict[tuple[str, str], Counter | Histogram] = {}

    def counter(self, name: str, help_text: str, **labels: str) -> Counter:
        return self._get(name, "counter", help_text, labels, Counter)

    def gauge(self, name: str, help_text: str, source: Callable[[], float] | None = None, **labels: str) -> Gauge:
        made = self._get(name, "gauge", help_text, labels, Gauge)
        if source is not None:
            made.source = source
        return made

    def histogram(
        self, name: str, help_text: str, bounds: Sequence[float] = _LATENCY_BUCKETS, **labels: str
    ) -> Histogram:
        return self._get(name, "histogram", help_text, labels, lambda: Histogram(bounds))

    def _get(
        self, name: str, kind: str, help_text: str, labels: dict[str, str], make: Callable[[], _Series]
    ) -> _Series:
        self._families.setdefault(name, (kind, help_text))
        key = (name, ",".join(f'{k}="{_escape(v)}"' for k, v in sorted((self._labels | labels).items())))
        found = self._series.get(key)
        if found is None:
            found = self._series[key] = make()
        return cast("_Series", found)

    def render(self) -> bytes:
        """The exposition text, families in the order in which they were first named."""
        return render_all([self])

    def families(self) -> dict[str, tuple[str, str]]:
        return self._families

    def series(self) -> list[tuple[str, str, Counter | Histogram]]:
        """(name, labels, series)."""
        return [(name, labels, series) for (name, labels), series in self._series.items()]


def render_all(registries: Sequence[Registry]) -> bytes:
    """The exposition text of several registries whose labels differ."""
    families: dict[str, tuple[str, str]] = {}
    for registry in registries:
        families.update(registry.families())
    by_family: dict[str, list[str]] = {name: [] for name in families}
    for registry in registries:
        for name, labels, series in registry.series():
            by_family[name] += _render(name, labels, series)
    lines: list[str] = []
    for name, (kind, help_text) in families.items():
        lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", *by_family[name]]
    return ("\n".join(lines) + "\n").encode()


def merge(texts: Sequence[bytes]) -> bytes:
    """Expositions of several processes whose labels differ, in one: each family once."""
    families: dict[bytes, list[bytes]] = {}
    for text in texts:
        family: list[bytes] = []
        for line in text.splitlines():
            if line.startswith(b"# HELP "):
                family = families.setdefault(line.split(b" ", 3)[2], [])
                if not family:
                    family.append(line)
            elif not line.startswith(b"# TYPE ") or len(family) == 1:
                family.append(line)
    return b"".join(line + b"\n" for family in families.values() for line in family)


def _render(name: str, labels: str, series: Counter | Histogram) -> list[str]:
    if isinstance(series, Histogram):
        lines, running = [], 0
        prefix = labels + "," if labels else ""
        for bound, count in zip((*map(str, series.bounds), "+Inf"), series.counts, strict=True):
            running += count
            lines.append(f'{name}_bucket{{{prefix}le="{bound}"}} {running}')
        tail = f"{{{labels}}}" if labels else ""
        return [*lines, f"{name}_sum{tail} {series.total:g}", f"{name}_count{tail} {running}"]
    value = series.source() if isinstance(series, Gauge) and series.source is not None else series.value
    return [f"{name}{{{labels}}} {value:.17g}" if labels else f"{name} {value:.17g}"]


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
