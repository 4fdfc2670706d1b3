"""What is sent to StatsD and to an OpenTelemetry collector: a real server, and receivers that read what comes."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from switchgear_shapes.setting_values import address
from switchgear_shapes.settings import SettingsError, load
from switchgear_shapes.telemetry import DATAGRAM_BYTES, StatsD, dotted, labels_of, otlp, resource_of
from switchgear_wire.metrics import Registry
from tests.shapes.server import ShapesServer, one_version
from tests.support.postgres import Database

MINIMAL = {"DATABASE_URL": "postgresql://a@b/c", "ELECTRIC_INSECURE": "true"}
ELECTRICS = re.findall(
    r"\S+",
    """
electric.plug.serve_shape.duration electric.plug.serve_shape.count electric.admission_control.reject.limit
electric.postgres.info_looked_up.pg_version electric.postgres.replication.pg_wal_offset
electric.postgres.replication.transaction_received.bytes
electric.plug.serve_shape.bytes electric.plug.serve_shape.requests.count
electric.shape.response_size.bytes electric.shape_snapshot.create_snapshot_task.stop.duration
electric.postgres.replication.transaction_received.receive_lag electric.postgres.replication.transaction_received.count
electric.postgres.replication.transaction_received.operations electric.postgres.replication.slot_retained_wal_size
electric.postgres.replication.slot_confirmed_flush_lsn_lag electric.subqueries.subset_result.bytes
electric.subqueries.subset_result.rows electric.subqueries.subset_result.count
electric.subqueries.move_in_triggered.count electric.admission_control.acquire.current
electric.admission_control.acquire.limit electric.admission_control.reject.count electric.shapes.total_shapes.count
electric.shapes.total_shapes.count_indexed electric.shapes.total_shapes.count_unindexed
electric.shapes.active_shapes.count system.cpu.core_count system.cpu.utilization.total system.load_percent.avg1
system.load_percent.avg5 system.load_percent.avg15 system.memory_percent.free_memory
system.memory_percent.available_memory system.memory_percent.used_memory
""",
)


@pytest.mark.parametrize("name", ELECTRICS)
def test_names_have_electrics_dots(name: str) -> None:
    assert dotted(name.replace(".", "_")) == name


def filled() -> Registry:
    registry = Registry()
    registry.counter("electric_plug_serve_shape_requests_count", "Answers", status="200", path='a"\\\n').inc(3)
    registry.gauge("switchgear_live_waiters", "Waiters", lambda: 7)
    histogram = registry.histogram("electric_plug_serve_shape_duration", "Milliseconds", (1, 10))
    for value in (0.5, 5, 50):
        histogram.observe(value)
    return registry


def test_statsd_tells_what_was_added() -> None:
    registry = filled()
    sender = StatsD(registry, ("localhost", 1), "me")
    assert labels_of(registry.series()[0][1]) == {"status": "200", "path": 'a"\\\n'}
    assert list(sender.lines())[1:] == [
        b"switchgear.live_waiters:7|g|#instance_id:me",
        b"electric.plug.serve_shape.duration.count:3|c|#instance_id:me",
        b"electric.plug.serve_shape.duration.sum:55.5|c|#instance_id:me",
    ]
    registry.counter("electric_plug_serve_shape_requests_count", "Answers", status="409").inc(2)
    assert list(sender.lines()) == [
        b"switchgear.live_waiters:7|g|#instance_id:me",
        b"electric.plug.serve_shape.requests.count:2|c|#instance_id:me,status:409",
    ]
    for number in range(200):
        registry.counter("switchgear_many", "Many", number=str(number)).inc()
    datagrams = list(sender.datagrams())
    assert len(datagrams) > 1
    assert max(map(len, datagrams)) <= DATAGRAM_BYTES
    assert b"\n".join(datagrams).count(b"switchgear.many:1|c") == 200


def test_otlp_tells_totals() -> None:
    made = otlp(filled(), {"service.name": "x"}, 1.0, 2.5)
    (resource,) = made["resourceMetrics"]
    assert resource["resource"]["attributes"] == [{"key": "service.name", "value": {"stringValue": "x"}}]
    metrics = {metric["name"]: metric for metric in resource["scopeMetrics"][0]["metrics"]}
    times = {"startTimeUnixNano": "1000000000", "timeUnixNano": "2500000000"}
    (count,) = metrics["electric.plug.serve_shape.requests.count"]["sum"]["dataPoints"]
    assert count["asDouble"] == 3
    assert {"key": "status", "value": {"stringValue": "200"}} in count["attributes"]
    assert metrics["switchgear.live_waiters"]["gauge"]["dataPoints"] == [{"attributes": [], "asDouble": 7, **times}]
    (duration,) = metrics["electric.plug.serve_shape.duration"]["histogram"]["dataPoints"]
    assert duration == {
        "attributes": [],
        **times,
        "count": "3",
        "sum": 55.5,
        "explicitBounds": [1, 10],
        "bucketCounts": ["1", "1", "1"],
    }


def test_settings() -> None:
    assert address("statsd") == ("statsd", 8125)
    assert address("10.0.0.1:9125") == ("10.0.0.1", 9125)
    assert address("[::1]:9125") == ("::1", 9125)
    given = {"OTEL_RESOURCE_ATTRIBUTES": "region=eu,team=a%2Cb,,=x,service.name=own"}
    resource = resource_of(load(MINIMAL | given)[0])
    assert (resource["region"], resource["team"], resource["service.name"]) == ("eu", "a,b", "own")
    for wrong in (
        {"ELECTRIC_STATSD_HOST": "http://x"},
        {"ELECTRIC_STATSD_HOST": "x:99999"},
        {"ELECTRIC_OTLP_ENDPOINT": "file:///etc/passwd"},
        {"ELECTRIC_OTEL_EXPORT_PERIOD": "0"},
    ):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            load(MINIMAL | wrong)


class Collector(HTTPServer):
    """Keeps what is posted; fails the first one."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.posts: list[tuple[str, dict[str, Any]]] = []


class _Taking(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert isinstance(self.server, Collector)
        self.server.posts.append((self.path, json.loads(body)))
        self.send_response(200 if len(self.server.posts) > 1 else 500)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def take(receiver: socket.socket, datagrams: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # it is closed in the end
        while True:
            datagrams.append(receiver.recv(65536))


@pytest.mark.pg
@one_version
def test_a_server_sends(database: Database, make_server: Callable[..., ShapesServer], collector: Collector) -> None:
    database.execute("CREATE TABLE items (id int PRIMARY KEY)")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        datagrams: list[bytes] = []
        # From the beginning: what the kernel has no room for while nobody takes it, nobody is ever told.
        threading.Thread(target=take, args=(receiver, datagrams), daemon=True).start()
        server = make_server(
            ELECTRIC_STATSD_HOST=f"127.0.0.1:{receiver.getsockname()[1]}",
            ELECTRIC_SYSTEM_METRICS_POLL_INTERVAL="200ms",
            ELECTRIC_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.server_port}",
            ELECTRIC_OTEL_EXPORT_PERIOD="200ms",
            ELECTRIC_INSTANCE_ID="inst-1",
            ELECTRIC_SERVICE_NAME="my-sync",
        ).start()
        assert server.get(table="items", offset="-1").status_code == 200
        received = b""
        # What never happened here is not told to StatsD; the slot is looked at every 10 s only.
        quiet = {name for name in ELECTRICS if ".reject." in name or "lag" in name}
        told: set[str] = set()
        deadline = time.monotonic() + 60
        while not (missing := {name for name in ELECTRICS if f"{name}.count" not in told} - quiet) <= told:
            assert time.monotonic() < deadline, missing - told
            time.sleep(0.05)
            received = b"\n".join(datagrams)
            told = {line.partition(b":")[0].decode() for line in received.split()}
        assert (
            b"electric.plug.serve_shape.requests.count:1|c|#instance_id:inst-1,empty:false,known_error:false,live:false,status:200"
            in received
        )
        wanted = {f'"{name}"' for name in ELECTRICS}
        server.wait(lambda: all(name in json.dumps(collector.posts[-1:]) for name in wanted), 60, "all of them")
        for line in received.split():
            assert re.fullmatch(rb"[a-z][a-z0-9_.]*:-?[0-9.e+-]+\|[cg]\|#instance_id:inst-1(,\w+:[\w.]+)*", line), line
        path, post = collector.posts[-1]
        assert path == "/v1/metrics"
        resource = {a["key"]: a["value"]["stringValue"] for a in post["resourceMetrics"][0]["resource"]["attributes"]}
        assert (resource["service.name"], resource["instance.id"]) == ("my-sync", "inst-1")
        assert server.log().count("metrics could not be sent") == 1, "the first one, once"
    # Receivers that are gone harm nobody.
    assert server.get(table="items", offset="-1").status_code == 200
    assert server.stop() == 0
