"""Live fan-out of one shape: how long after COMMIT the last of N long-polling clients has the change."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlencode, urlsplit

import psycopg


class Client:
    """One keep-alive connection that long-polls a shape, with as little work of its own as Python allows."""

    def __init__(self, url: str, params: dict[str, str], headers: dict[str, str]) -> None:
        parts = urlsplit(url)
        self.host, self.port, self.path = parts.hostname or "", parts.port or 80, parts.path
        self.params = params
        self.headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port)

    async def get(self, **params: str) -> tuple[dict[str, str], float]:
        """One request; its response headers (lower case) and when the body was whole. Raises on non-200."""
        query = urlencode(self.params | params)
        head = f"GET {self.path}?{query} HTTP/1.1\r\nhost: {self.host}\r\n{self.headers}\r\n"
        self.writer.write(head.encode())
        raw = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        if " 200 " not in raw[0] + " ":
            raise RuntimeError(raw[0])
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in raw[1:] if line)}
        if "content-length" in headers:
            await self.reader.readexactly(int(headers["content-length"]))
        else:
            while True:
                size = int((await self.reader.readline()).strip(), 16)
                await self.reader.readexactly(size + 2)
                if size == 0:
                    break
        return headers, time.perf_counter()


async def measure(
    url: str, params: dict[str, str], headers: dict[str, str], database_url: str, clients: int, rounds: int
) -> list[float]:
    """Milliseconds from COMMIT's return to the last client's answer, one per round, sorted."""
    connected = [Client(url, params, headers) for _ in range(clients)]
    await asyncio.gather(*(client.connect() for client in connected))
    first, _ = await connected[0].get(offset="-1")
    position = {"handle": first["electric-handle"], "offset": first["electric-offset"]}
    while "electric-up-to-date" not in first:
        first, _ = await connected[0].get(**position)
        position["offset"] = first["electric-offset"]
    last = []
    database = await psycopg.AsyncConnection.connect(database_url, autocommit=True)
    for _ in range(rounds):
        waiting = [asyncio.create_task(client.get(live="true", **position)) for client in connected]
        await asyncio.sleep(0.3)
        await database.execute("UPDATE bench SET n = n + 1 WHERE id = 1")
        committed = time.perf_counter()
        answers = await asyncio.gather(*waiting)
        last.append((max(at for _, at in answers) - committed) * 1000)
        position["offset"] = answers[0][0]["electric-offset"]
    await database.close()
    for client in connected:
        client.writer.close()
    return sorted(last)
