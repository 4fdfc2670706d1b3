"""What is measured of requests as they are answered, under Electric's names. Cheap enough for every live request.

Buckets are chosen for what is seen here: milliseconds from a quarter to a minute, bytes from a hundred to a gigabyte.
"""

from __future__ import annotations

import time

from switchgear_wire import AnyResponse, FileResponse, Response
from switchgear_wire.metrics import Counter, Registry

MILLISECONDS = (0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000)
BYTES = (100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
_KNOWN = b"electric-internal-known-error:"
_EMPTY = b"electric-has-data: false"
_REQUESTS = "electric_plug_serve_shape_requests_count"


class RequestMeasures:
    """Counts answers by status and kind, and times and sizes of those that are not live."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._counts: dict[tuple[int, bool, bool], Counter] = {}
        self._count = registry.counter("electric_plug_serve_shape_count", "Answers (not live)")
        self._duration = registry.histogram(
            "electric_plug_serve_shape_duration", "Milliseconds until an answer was ready (not live)", MILLISECONDS
        )
        self._bytes = registry.counter("electric_plug_serve_shape_bytes", "Bytes of bodies (not live)")
        name, text = "electric_shape_response_size_bytes", "Bytes of a body; streams are not counted"
        self._sizes = {live: registry.histogram(name, text, BYTES, is_live=_said(live)) for live in (False, True)}

    def answered(self, answer: AnyResponse, started: float, live: bool) -> None:
        """An answer is ready to be sent; `started` is when the request came (`time.perf_counter`)."""
        marked = (_EMPTY if answer.status < 400 else _KNOWN) in answer.headers
        key = (answer.status, live, marked)
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = self._counter(answer.status, live, marked)
        count.value += 1
        if isinstance(answer, Response):
            size = len(answer.body)
        elif isinstance(answer, FileResponse):
            size = answer.length
        else:
            size = -1
        if size >= 0:
            self._sizes[live].observe(size)
        if not live:
            self._count.value += 1
            self._duration.observe((time.perf_counter() - started) * 1000)
            self._bytes.value += max(size, 0)

    def _counter(self, status: int, live: bool, marked: bool) -> Counter:
        """`marked`: an answer without changes, or an error of which the client is told that it is no fault."""
        return self._registry.counter(
            _REQUESTS,
            "Answers to shape requests",
            status=str(status),
            live=_said(live),
            empty=_said(marked and status < 400),
            known_error=_said(marked and status >= 400),
        )


def _said(value: bool) -> str:
    return "true" if value else "false"
