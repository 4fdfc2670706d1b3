"""The edge's metric series. All labels come from fixed sets, never from a request."""

from __future__ import annotations

from switchgear_edge.paths import Family
from switchgear_wire.metrics import Counter, Registry


class EdgeMetrics:
    """`registry` holds all series; what is read at scrape time is registered by whoever owns the number."""

    def __init__(self) -> None:
        self.registry = Registry()
        self._requests = {
            (family, status): self.registry.counter(
                "switchgear_edge_requests_total",
                "Requests answered, by route and class of status.",
                route=family.value,
                status=f"{status}xx",
            )
            for family in Family
            for status in range(2, 6)
        }

    def count(self, family: Family, status: int) -> None:
        counter = self._requests.get((family, status // 100))
        if counter is not None:
            counter.value += 1

    def failure(self, kind: str) -> Counter:
        """Exchanges with pods that failed; `kind` is the name of an UpstreamError."""
        return self.registry.counter(
            "switchgear_edge_upstream_errors_total", "Exchanges with pods that failed, by kind.", kind=kind
        )
