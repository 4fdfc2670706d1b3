"""Sends the process's metrics to who does not scrape: StatsD (Datadog's format, over UDP) and OTLP (JSON over HTTP).

Names are Electric's, with their dots. What is sent is what `/metrics` shows. Nothing is kept for a receiver that is
away, and nobody waits for it: a datagram is sent or lost, a POST has a limit, and there is one at a time. Traces and
logs are not sent. Counts go to StatsD as what was added since the last time, to OTLP as totals since the start.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import orjson

from switchgear_shapes.answers import VERSION
from switchgear_shapes.settings import Settings
from switchgear_wire.metrics import Counter, Gauge, Histogram, Registry

log = logging.getLogger("switchgear.shapes.telemetry")

DATAGRAM_BYTES = 1400
"""Below what a network takes in one piece."""
POST_SECONDS = 5.0
SPANS = (
    "electric_plug_serve_shape_",
    "electric_shape_snapshot_create_snapshot_task_stop_",
    "electric_postgres_replication_transaction_received_",
    "electric_postgres_replication_",
    "electric_postgres_info_looked_up_",
    "electric_admission_control_acquire_",
    "electric_admission_control_reject_",
    "electric_subqueries_subset_result_",
    "electric_subqueries_move_in_triggered_",
    "electric_shapes_total_shapes_",
    "electric_shapes_active_shapes_",
    "electric_shape_response_size_",
    "system_cpu_utilization_",
    "system_cpu_",
    "system_load_percent_",
    "system_memory_percent_",
)
"""What comes before the last part of a name, as `/metrics` writes it; longer ones first where one begins another."""
_WHOLE = {
    "electric_plug_serve_shape_requests_count": "electric.plug.serve_shape.requests.count",
}
_WORDS = (
    *("serve_shape", "shape_snapshot", "create_snapshot_task", "transaction_received", "admission_control"),
    "info_looked_up",
    *("subset_result", "move_in_triggered", "total_shapes", "active_shapes", "response_size", "load_percent"),
    "memory_percent",
)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")


def dotted(name: str) -> str:
    """The name with its dots: `electric.plug.serve_shape.duration`; our own have none but the first."""
    if name in _WHOLE:
        return _WHOLE[name]
    prefix = next((prefix for prefix in SPANS if name.startswith(prefix)), None)
    if prefix is None:
        first, _, rest = name.partition("_")
        return f"{first}.{rest}"
    marked = prefix[:-1]
    for word in _WORDS:
        marked = marked.replace(word, word.replace("_", "\0"))
    return marked.replace("_", ".").replace("\0", "_") + "." + name[len(prefix) :]


def labels_of(text: str) -> dict[str, str]:
    """`a="x",b="y"` as `/metrics` writes it → names and values."""
    return {
        name: _ESCAPED.sub(lambda found: "\n" if found[1] == "n" else found[1], value)
        for name, value in _LABEL.findall(text)
    }


def value_of(series: Counter) -> float:
    source = series.source if isinstance(series, Gauge) else None
    return series.value if source is None else source()


class StatsD:
    """Datagrams for a StatsD server."""

    def __init__(self, registry: Registry, address: tuple[str, int], instance: str) -> None:
        self._registry = registry
        self._address = address
        self._instance = instance
        self._last: dict[tuple[str, str], float] = {}

    def lines(self) -> Iterator[bytes]:
        """What there is to tell now, a metric each."""
        for name, text, series in self._registry.series():
            tags = "|#" + ",".join([f"instance_id:{self._instance}", *(f"{k}:{v}" for k, v in labels_of(text).items())])
            if isinstance(series, Histogram):
                yield from self._added(f"{dotted(name)}.count", text, sum(series.counts), tags)
                yield from self._added(f"{dotted(name)}.sum", text, series.total, tags)
            elif isinstance(series, Gauge):
                yield f"{dotted(name)}:{value_of(series):.15g}|g{tags}".encode()
            else:
                yield from self._added(dotted(name), text, series.value, tags)

    def _added(self, name: str, labels: str, total: float, tags: str) -> Iterator[bytes]:
        added = total - self._last.get((name, labels), 0.0)
        self._last[name, labels] = total
        if added:
            yield f"{name}:{added:.15g}|c{tags}".encode()

    def datagrams(self) -> Iterator[bytes]:
        waiting: list[bytes] = []
        size = 0
        for line in self.lines():
            if waiting and size + len(line) > DATAGRAM_BYTES:
                yield b"\n".join(waiting)
                waiting, size = [], 0
            waiting.append(line)
            size += len(line) + 1
        if waiting:
            yield b"\n".join(waiting)

    async def run(self, seconds: float) -> None:
        """Send every so many seconds, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(seconds)
            try:
                found = await loop.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)
                family, kind, protocol, _, address = found[0]
                with socket.socket(family, kind, protocol) as sender:
                    sender.setblocking(False)
                    for datagram in self.datagrams():
                        sender.sendto(datagram, address)
            except Exception as error:  # whatever it is, the server is not to suffer
                log.debug("metrics could not be sent to StatsD: %s", error)


def otlp(registry: Registry, resource: Mapping[str, str], started: float, now: float) -> dict[str, Any]:
    """All metrics as an ExportMetricsServiceRequest in JSON."""
    times = {"startTimeUnixNano": str(int(started * 1e9)), "timeUnixNano": str(int(now * 1e9))}
    made: dict[str, dict[str, Any]] = {}
    families = registry.families()
    for name, text, series in registry.series():
        point: dict[str, Any] = {"attributes": _attributes(labels_of(text)), **times}
        if isinstance(series, Histogram):
            point |= {"count": str(sum(series.counts)), "sum": series.total, "explicitBounds": list(series.bounds)}
            point["bucketCounts"] = list(map(str, series.counts))
            kind: dict[str, Any] = {"histogram": {"aggregationTemporality": 2, "dataPoints": []}}
        elif isinstance(series, Gauge):
            point["asDouble"] = value_of(series)
            kind = {"gauge": {"dataPoints": []}}
        else:
            point["asDouble"] = series.value
            kind = {"sum": {"aggregationTemporality": 2, "isMonotonic": True, "dataPoints": []}}
        metric = made.setdefault(name, {"name": dotted(name), "description": families[name][1], **kind})
        metric[next(iter(kind))]["dataPoints"].append(point)
    scope = {"scope": {"name": "switchgear-shapes", "version": VERSION}, "metrics": list(made.values())}
    return {"resourceMetrics": [{"resource": {"attributes": _attributes(resource)}, "scopeMetrics": [scope]}]}


def _attributes(values: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in values.items()]


def resource_of(settings: Settings) -> dict[str, str]:
    """Who sends: the settings' own, and `OTEL_RESOURCE_ATTRIBUTES` (`key=value,…`, percent-encoded)."""
    made = {"service.name": settings.service_name, "service.version": VERSION, "instance.id": settings.instance_id}
    for item in (settings.resource_attributes or "").split(","):
        key, has_value, value = item.partition("=")
        if has_value and key.strip():
            made[unquote(key.strip())] = unquote(value.strip())
    return made


class Otlp:
    """POSTs for an OpenTelemetry collector."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        assert settings.otlp_endpoint is not None
        self._registry = registry
        self._url = settings.otlp_endpoint.removesuffix("/v1/metrics").rstrip("/") + "/v1/metrics"
        self._resource = resource_of(settings)
        self._started = time.time()
        self._failing = False

    async def run(self, seconds: float) -> None:
        """Send every so many seconds, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(seconds)
            try:
                body = orjson.dumps(otlp(self._registry, self._resource, self._started, time.time()))
                failure = await loop.run_in_executor(None, _post, self._url, body)
            except Exception as error:  # whatever it is, the server is not to suffer
                failure = repr(error)
            if failure is not None and not self._failing:
                log.warning("metrics could not be sent to %s: %s", _host(self._url), failure)
            self._failing = failure is not None


def _post(url: str, body: bytes) -> str | None:
    """What went wrong, or None."""
    request = urllib.request.Request(url, body, {"content-type": "application/json"})  # noqa: S310 - checked setting
    try:
        with urllib.request.urlopen(request, timeout=POST_SECONDS) as response:  # noqa: S310
            response.read(65536)
    except (OSError, ValueError) as error:  # HTTP's errors are OSErrors here
        return str(error)
    return None


def _host(url: str) -> str:
    """Without a password that may be in it."""
    return url.partition("//")[2].partition("/")[0].rpartition("@")[2]
