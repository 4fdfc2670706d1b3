"""A soak of the streams server: `python -m bench.soak [--seconds 600]`. A table; status 1 if anything is wrong.

Idempotent producers, catch-up reads, long-polls and SSE readers, streams that come and go, and a Yjs document that is
compacted. Watched: every answer, what readers got, and the server's resident memory, which must be flat once it has
warmed up.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

from tests.streams.server import JSON, OCTETS, TEXT, StreamsServer

# The last third of the samples may be so much above the middle one.
GROWTH = 16 * 1_048_576
# About how long a stream of the load gets before it is deleted and made anew.
LONGEST = 1_000


def resident(server: StreamsServer) -> int:
    assert server.process is not None
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{server.process.pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


class Soak:
    """The load. `counts`: what was done; `wrong`: what must not have happened."""

    def __init__(self, server: StreamsServer, client: httpx.AsyncClient) -> None:
        self.server = server
        self.client = client
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def check(self, what: str, answer: httpx.Response, *fine: int) -> bool:
        self.counts[what] += 1
        if answer.status_code not in fine:
            self.wrong.append(f"{what}: {answer.status_code} {answer.text[:200]}")
        return answer.status_code in fine

    async def writer(self, name: str) -> None:
        """Appends numbers, now and then from the beginning; a reader of all checks the order."""
        url = self.server.stream(name)
        while True:
            self.check("creations", await self.client.put(url, headers=JSON), 201)
            for number in range(LONGEST):
                head = {**JSON, "producer-id": "p", "producer-epoch": "0", "producer-seq": str(number)}
                self.check("appends", await self.client.post(url, headers=head, content=b"%d" % number), 200)
            got: list[int] = []
            offset = "-1"
            while not got or len(got) < LONGEST:
                answer = await self.client.get(url, params={"offset": offset})
                self.check("catch-up reads", answer, 200)
                got += answer.json()
                offset = answer.headers["stream-next-offset"]
            if got != list(range(LONGEST)):
                self.wrong.append(f"{name}: not what was appended")
            self.check("deletions", await self.client.delete(url), 204)

    async def poller(self, name: str) -> None:
        url = self.server.stream(name)
        offset = "-1"
        while True:
            answer = await self.client.get(url, params={"offset": offset, "live": "long-poll"})
            if self.check("long-polls", answer, 200, 204, 404, 410) and answer.status_code in (200, 204):
                offset = answer.headers["stream-next-offset"]
            else:
                offset = "-1"
                await asyncio.sleep(0.1)

    async def subscriber(self, name: str) -> None:
        url = self.server.stream(name)
        while True:
            async with self.client.stream("GET", url, params={"offset": "now", "live": "sse"}) as events:
                if events.status_code == 200:
                    async for part in events.aiter_raw():
                        self.counts["bytes by SSE"] += len(part)
            self.counts["SSE connections"] += 1
            await asyncio.sleep(0.1)

    async def churn(self) -> None:
        number = 0
        while True:
            number += 1
            url = self.server.stream(f"churn/{number % 500}")
            self.check(
                "creations",
                await self.client.put(url, headers={**TEXT, "stream-ttl": "30"}, content=b"x" * 500),
                200,
                201,
            )
            if number % 3:  # (one that was there may have come to its end just now)
                self.check("deletions", await self.client.delete(url), 204, 404)

    async def document(self) -> None:
        """Empty updates: what is measured is the server, not the library."""
        url = f"{self.server.url}/v1/yjs/soak/docs/a"
        update = b"\x02\x00\x00" * 2000
        while True:
            self.check("documents", await self.client.put(url, headers=OCTETS), 200, 201)
            for _ in range(400):
                self.check("updates", await self.client.post(url, content=update), 204)
                await asyncio.sleep(0.02)
            self.check("snapshots asked for", await self.client.get(url, params={"offset": "snapshot"}), 307)
            self.check("deletions", await self.client.delete(url), 204)

    async def run(self, seconds: float) -> list[int]:
        """The samples of the resident memory."""
        jobs: list[Callable[[], Awaitable[None]]] = [self.churn, self.document]
        for number in range(3):
            name = f"w{number}"
            jobs += [lambda n=name: self.writer(n), lambda n=name: self.poller(n)]  # type: ignore[misc]
            jobs += [lambda n=name: self.subscriber(n)] * 5  # type: ignore[misc]
        tasks = [asyncio.ensure_future(job()) for job in jobs]
        samples = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(seconds / 60)
            samples.append(resident(self.server))
            self.wrong += [repr(task.exception()) for task in tasks if task.done()]
            if self.wrong:
                break
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return samples


async def soak(server: StreamsServer, seconds: float) -> int:
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(trust_env=False, timeout=90, limits=limits) as client:
        load = Soak(server, client)
        samples = await load.run(seconds)
    third = max(len(samples) // 3, 1)
    middle, last = max(samples[third : 2 * third] or samples), max(samples[-third:])
    print(f"| what | number | per second |\n|---|---|---|\n| duration | {seconds:.0f} s | |")
    for what, number in sorted(load.counts.items()):
        print(f"| {what} | {number} | {number / seconds:.1f} |")
    print(f"| resident at first; most of middle, last third | {samples[0] >> 20}, {middle >> 20}, {last >> 20} MiB | |")
    if last > middle + GROWTH:
        load.wrong.append("memory grows")
    if "Traceback" in server.log:
        load.wrong.append(server.log[-1000:])
    print("| result | " + ("; ".join(load.wrong[:5]) or "nothing wrong") + " | |")
    return 1 if load.wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.soak", description="Mixed load on a streams server, and its memory.")
    parser.add_argument("--seconds", type=float, default=600.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        server = StreamsServer(Path(folder), "--checkpoint-bytes", "4000000", long_poll_ms=2000).start()
        try:
            return asyncio.run(soak(server, seconds))
        finally:
            with contextlib.suppress(Exception):
                server.stop()
            server.end()


if __name__ == "__main__":
    sys.exit(main())
