"""`python -m bench.streams --million [COUNT] [--prepared]`: very many streams in one server. Writes STREAMS-MILLION.md.

Streams are created over HTTP (or `--prepared`: by the store's own writers, past its log), `BODY` bytes each, under
names of 38 bytes, every tenth with a time to live. Then the server is stopped, killed, and started again in several
states. Load and server have a core each.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import platform
import random
import re
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx

from bench.streams.servers import CLIENT_CORE, OURS, Running, launch
from switchgear_streams import catalog, recovery, segments
from switchgear_streams.checkpoint import CATALOG_TIMES
from switchgear_streams.disk import Disk
from switchgear_streams.pieces import Pieces
from switchgear_streams.stream import Stream

PAGE = Path(__file__).resolve().parent.parent / "STREAMS-MILLION.md"
BODY = 10_000
CONNECTIONS = 64
GOALS = {"resident": 700.0, "serving": 10.0}
_STARTED = re.compile(r"recovered (\d+) streams, replayed (\d+) records in ([0-9.]+) s")
_CHECKED = 2000
_HAMMERED = 64
_STREAMS_A_PACK = 3000


def name(index: int) -> bytes:
    return b"chats/" + hashlib.md5(b"%d" % index, usedforsecurity=False).hexdigest().encode()


def content(index: int) -> bytes:
    """One JSON message of a stream's own, `BODY` bytes."""
    own = hashlib.sha256(b"%d" % index).hexdigest().encode()
    return b'"' + (own * (BODY // len(own) + 1))[: BODY - 2] + b'"'


@dataclass
class Load:
    """Answers to `CONNECTIONS` clients, each with one request under way. Milliseconds."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def quantile(self, part: float) -> float:
        return sorted(self.latencies)[min(len(self.latencies) - 1, int(len(self.latencies) * part))]


def drive(port: int, requests: Iterator[tuple[int, bytes]], acknowledged: list[int]) -> Load:
    """Send (index, request) after request until there are no more. Every answer must be a 2xx."""
    poll, load = select.epoll(), Load()
    waiting: dict[int, tuple[socket.socket, int, float]] = {}
    began = time.perf_counter()

    def send(sock: socket.socket) -> None:
        following = next(requests, None)
        if following is None:
            poll.unregister(sock.fileno())
            waiting.pop(sock.fileno(), None)
            sock.close()
            return
        waiting[sock.fileno()] = (sock, following[0], time.perf_counter())
        sock.sendall(following[1])

    for _ in range(CONNECTIONS):
        sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(sock, select.EPOLLIN)
        send(sock)
    while waiting:
        ready = poll.poll(60)
        if not ready:
            raise RuntimeError("no answer for a minute")
        for fd, _ in ready:
            sock, index, sent = waiting[fd]
            head = sock.recv(65_536)
            if not head.startswith(b"HTTP/1.1 2") or b"\r\n\r\n" not in head:
                raise RuntimeError(f"answer: {head!r}")
            load.latencies.append((time.perf_counter() - sent) * 1000)
            acknowledged.append(index)
            send(sock)
    load.seconds = time.perf_counter() - began
    return load


_HEAD = b"%b /v1/stream/%b HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"


def creations(count: int) -> Iterator[tuple[int, bytes]]:
    for index in range(count):
        body = content(index)
        lifetime = b"stream-ttl: 864000\r\n" if index % 10 == 0 else b""
        yield index, _HEAD % (b"PUT", name(index), lifetime, len(body)) + body


def appends(indexes: Iterator[int], until: float) -> Iterator[tuple[int, bytes]]:
    """100 bytes each."""
    for index in indexes:
        if time.perf_counter() > until:
            return
        yield index, _HEAD % (b"POST", name(index), b"", 100) + b'"' + b"x" * 98 + b'"'


class Crowd:
    """The course of the measurement; `rows`: what was found, and what was to be reached."""

    def __init__(self, count: int, prepared: bool) -> None:
        self.count = count
        self.prepared = prepared
        self.rows: list[tuple[str, str, str]] = []
        self.folder = Path(tempfile.mkdtemp(prefix="sg-million-"))
        self.appended: dict[int, int] = {}
        self.server: Running
        self._started = False
        self._chance = random.Random(6)

    def note(self, what: str, value: str, goal: str = "–") -> None:
        self.rows.append((what, value, goal))
        print(f"{what}: {value}", flush=True)

    def run(self) -> None:
        try:
            if self.prepared:
                prepare(self.folder / "data", self.count)
                self._disk()
            else:
                self.start(None)
                self.note("resident, empty", _mb(self.server.resident()))
                self.create()
                self.stop("after them")
            self.start("after a stop")
            self.busy()
            self.kill()
            self.start("after kill -9 under appends to streams all over")
            self.check()
            self.hammer()
            self.kill()
            self.start(f"after kill -9 with a full log of small appends to {_HAMMERED} streams")
            self.stop("then")
            self.lengthen()
            self.start("with the largest catalogue there can be, mostly history")
            self.check()
            self.rewrite()
            self.stop("then")
        finally:
            if self._started:
                self.kill()
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- steps --

    def start(self, how: str | None) -> None:
        began = time.perf_counter()
        self.server = launch(OURS, self.folder)
        self._started = True
        wanted = b"HTTP/1.1 200" if how else b"HTTP/1.1 404"
        while not self._answers(wanted):
            if self.server.process.poll() is not None or time.perf_counter() - began > 300:
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.01)
        if how is None:
            return
        seconds = time.perf_counter() - began
        found = _STARTED.findall((self.folder / "log").read_text())[-1]
        used, load = self.server.cpu(), os.getloadavg()[0]
        self.note(f"start {how}: to the first 200", _duration(seconds, used, load), _serving(seconds, used))
        self.note("&nbsp; records replayed", f"{int(found[1]):,}")
        resident, peak = self.server.resident(), self.server.peak()
        self.note("&nbsp; resident", _mb(resident), _goal(resident, GOALS["resident"], "MB"))
        self.note("&nbsp; most until then", _mb(peak), _goal(peak, GOALS["resident"], "MB"))

    def _answers(self, wanted: bytes) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.server.port), timeout=60) as sock:
                sock.sendall(b"HEAD /v1/stream/%b HTTP/1.1\r\nhost: bench\r\n\r\n" % name(0))
                return sock.recv(65_536).startswith(wanted)
        except OSError:
            return False

    def create(self) -> None:
        load = drive(self.server.port, creations(self.count), [])
        self.note("creating them", f"{load.seconds:.0f} s, {load.rate:,.0f}/s")
        self._latencies(load)
        self.note("&nbsp; checkpoints", f"{self.metric('streams_checkpoints_total'):.0f}")
        self._memory()
        self._disk()

    def _disk(self) -> None:
        sizes = {"catalog": 0, "pack": 0}
        for path in (self.folder / "data").iterdir():
            kind = path.name.split("-")[0]
            if kind in sizes:
                sizes[kind] += path.stat().st_size
        self.note("&nbsp; packs, catalogue on disk", f"{sizes['pack'] / 1e9:.2f} GB, {sizes['catalog'] / 1e6:,.0f} MB")

    def _latencies(self, load: Load) -> None:
        told = [f"{load.quantile(part):.1f}" for part in (0.5, 0.99, 0.999)]
        self.note("&nbsp; answers p50, p99, p99.9, slowest", f"{', '.join(told)}, {max(load.latencies):.0f} ms")

    def _memory(self) -> None:
        resident, peak = self.server.resident(), self.server.peak()
        self.note("&nbsp; resident", _mb(resident), _goal(resident, GOALS["resident"], "MB"))
        self.note("&nbsp; most until then", _mb(peak), _goal(peak, GOALS["resident"], "MB"))

    def busy(self) -> None:
        """Appends to streams all over: nearly each to one that waits packed."""
        self._appends("appends to streams all over, 30 s", lambda: self._chance.randrange(self.count), 30)

    def rewrite(self) -> None:
        self._appends("appends while the catalogue is written anew", lambda: self._chance.randrange(self.count), 20)
        self._disk()

    def _appends(self, what: str, chosen: object, seconds: float) -> None:
        before = self.metric("streams_checkpoints_total")
        acknowledged: list[int] = []
        indexes = iter(chosen, None)  # type: ignore[call-overload]
        load = drive(self.server.port, appends(indexes, time.perf_counter() + seconds), acknowledged)
        for index in acknowledged:
            self.appended[index] = self.appended.get(index, 0) + 1
        self.note(what, f"{load.rate:,.0f}/s")
        self._latencies(load)
        self.note("&nbsp; checkpoints", f"{self.metric('streams_checkpoints_total') - before:.0f}")
        self._memory()

    def hammer(self) -> None:
        """Small appends until a checkpoint is near."""
        indexes = itertools.cycle(range(_HAMMERED))
        while self.metric("streams_unsealed_bytes") > 10 * 1_048_576:
            time.sleep(0.1)
        while self.metric("streams_unsealed_bytes") < 30 * 1_048_576:
            acknowledged: list[int] = []
            drive(self.server.port, appends(indexes, time.perf_counter() + 0.5), acknowledged)
            for index in acknowledged:
                self.appended[index] = self.appended.get(index, 0) + 1

    def check(self) -> None:
        """Nothing that was acknowledged is missing, in a sample of streams."""
        indexes = self._chance.sample(range(self.count), _CHECKED // 2)
        indexes += self._chance.sample(sorted(self.appended), min(len(self.appended), _CHECKED // 2))
        tail = b"x" * 98
        with httpx.Client(trust_env=False, timeout=60, base_url=self.server.url) as client:
            for index in indexes:
                got = client.get(f"/v1/stream/{name(index).decode()}").json()
                assert got[0] == content(index)[1:-1].decode()
                assert got[1:] == [tail.decode()] * self.appended.get(index, 0), (index, len(got))
        self.note("&nbsp; streams read back, byte by byte", f"{len(indexes):,}, all as acknowledged")

    def lengthen(self) -> None:
        """Write the catalogue's entries again, as checkpoints would, until it is to be written anew."""
        disk = Disk(self.folder / "data")
        index = max(found for each in disk.names() if (found := catalog.file_index(each)) is not None)
        path = self.folder / "data" / catalog.file_name(index)
        whole = path.read_bytes()
        alive = catalog.load(Pieces(lambda length, offset: whole[offset : offset + length], len(whole)), index).streams
        most = int(CATALOG_TIMES * sum(map(len, alive.values()))) + 16 * 1_048_576  # type: ignore[arg-type]
        with path.open("ab") as file:
            for _ in range(-(-most // len(whole)) - 1):
                file.write(whole)
        self._disk()

    def stop(self, when: str) -> None:
        began = time.perf_counter()
        self.server.process.terminate()
        if self.server.process.wait(120):
            raise RuntimeError((self.folder / "log").read_text()[-2000:])
        self.note(f"stop {when}", f"{time.perf_counter() - began:.2f} s")

    def kill(self) -> None:
        self.server.process.kill()
        self.server.process.wait()

    def metric(self, wanted: str) -> float:
        text = httpx.get(f"{self.server.url}/metrics", trust_env=False, timeout=60).text
        return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(wanted + " "))


def _goal(value: float, most: float, unit: str) -> str:
    return f"≤ {most:.0f} {unit} {'✓' if value <= most else '✗'}"


def _duration(seconds: float, used: float, load: float) -> str:
    return f"{seconds:.1f} s; {used:.2f} s of a processor (load average {load:.0f})"


def _serving(seconds: float, used: float) -> str:
    most = GOALS["serving"]
    goal = f"≤ {most:.0f} s"
    if (seconds <= most) == (used <= most):
        return f"{goal} {'✓' if seconds <= most else '✗'}"
    return f"{goal}: ✗ on the clock, ✓ on the processor"


def _mb(value: float) -> str:
    return f"{value:,.0f} MB"


def prepare(folder: Path, count: int) -> None:
    """The files that a server leaves which made these streams, checkpoint after checkpoint."""
    disk = Disk(folder)
    recovery.take(disk)
    disk.unlock()
    writer, now = catalog.Writer.make(disk, 1), time.time_ns() // 1_000_000
    packs: list[list[int]] = []
    for first in range(0, count, _STREAMS_A_PACK):
        pack, at = len(packs) + 1, 0
        entries: list[bytes] = []
        fd = disk.create(segments.pack_name(pack))
        for index in range(first, min(count, first + _STREAMS_A_PACK)):
            stream = Stream(name(index), index + 1, index + 1, 0, b"application/json", now)
            stream.ttl = None if index % 10 else 864_000
            stored = content(index) + b",\n"
            head, run = segments.encode_run(pack, at, stream.key, stream.generation, 0, [len(stored)], [stored])
            disk.write(fd, [head, stored], at)
            at += len(head) + len(stored)
            stream.end = len(stored)
            body = catalog.pack_body(stream.generation, stream.deadline(), stream.key, [run], stream.meta())
            entries.append(catalog.encode(catalog.PUT, body))
        disk.sync(fd)
        disk.close(fd)
        packs.append([pack, at, at])
        usage = [first + len(entries), (first + len(entries)) * BODY, (first + len(entries)) * BODY, "0"]
        writer.append(entries, {"wal": 0, "generation": count + 1, "usage": usage, "packs": packs})
    writer.close()


def main(count: int, prepared: bool) -> None:
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {int(CLIENT_CORE)})
    crowd = Crowd(count, prepared)
    crowd.run()
    text = page(crowd)
    if count == 1_000_000:
        PAGE.write_text(text)
    print(text)


def page(crowd: Crowd) -> str:
    model = next(
        (s.split(":")[1].strip() for s in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in s), ""
    )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    how = "by the store's own writers (`--prepared`)" if crowd.prepared else "over HTTP"
    return "\n".join([
        f"# Figures: {crowd.count:,} streams",
        "",
        "`python -m bench.streams --million` measures here and rewrites this page: one server core, one core for the",
        f"load, {CONNECTIONS} connections over HTTP, default settings. Each stream has one JSON message of {BODY:,}",
        f"bytes and a name of {len(name(0))} bytes; every tenth has a time to live. They were made {how}.",
        "Other work shared the machine, so that time on a clock is more than it would be alone: processor seconds tell",
        "how much. “To the first 200” counts from the start of the process to the answer about a stream.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d} · {os.cpu_count()} × {model} · Linux {platform.release()}"
        f" · Python {platform.python_version()} · commit {commit.stdout.strip()}",
        "",
        "| measure | measured | goal |",
        "|---|---|---|",
        *[f"| {what} | {value} | {goal} |" for what, value, goal in crowd.rows],
        "",
    ])  # fmt: skip
