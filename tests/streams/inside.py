"""A server within the test's own process, with a clock that the test moves and a disk that it can take a picture of.

For what depends on time: the real process cannot be told that a day went by.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import httpx

from switchgear_streams.service import Service
from switchgear_streams.settings import load
from switchgear_wire.listener import Server, serve


class Inside:
    """One running server. Its data directory is `folder`/<number>; a crash goes on with a copy."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder = folder
        self.flags = flags
        self.now = 1_800_000_000_000
        self.number = 0
        self.service: Service
        self.client = httpx.AsyncClient(trust_env=False, timeout=30)
        self._server: Server

    @property
    def data(self) -> Path:
        return self.folder / str(self.number)

    async def start(self) -> None:
        settings = load(["--data-dir", str(self.data), "--insecure", "--port", "0", *self.flags], {})
        self.service = Service(settings, lambda: self.now)
        self.service.start()
        self._server = await serve(self.service.handle, "127.0.0.1", 0)

    @property
    def port(self) -> int:
        return self._server.port

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._server.port}/v1/stream/{name}"

    async def stop(self) -> None:
        self.service.drain()
        await self._server.drain(1.0)
        await self.service.stop()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def crash(self) -> None:
        """Go on from what is on the disk at this moment; what the old server would still have done is lost."""
        await self.idle()
        picture = self.folder / str(self.number + 1)
        shutil.copytree(self.data, picture)
        await self.stop()
        shutil.rmtree(self.data)
        self.number += 1
        await self.start()

    async def idle(self) -> None:
        """No checkpoint is running and nothing is on its way to the disk."""
        wal = self.service.wal
        await wal.wait(wal.flush())
        while self.service.checkpointer.running:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await wal.wait(wal.flush())

    async def sweep(self) -> None:
        """What the server does about once a second, until there is nothing left to do."""
        for _ in range(3):
            self.service.upkeep.sweep()
            await self.idle()

    async def settle(self) -> None:
        """Until there is nothing that the server would do on its own, as long as the clock stands still."""
        store = self.service.store
        for _ in range(2000):
            await self.sweep()
            if not store.deadlines.overdue and not store.ripe and not self.service.checkpointer.running:
                return
            await asyncio.sleep(0.01)  # it rests between two checkpoints
        raise AssertionError("the server does not come to rest")

    async def checkpoint(self) -> None:
        await self.idle()
        self.service.checkpointer.request()
        await self.idle()

    async def end(self) -> None:
        await self.client.aclose()
        await self.stop()
