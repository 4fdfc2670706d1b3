"""Limits of a service that several workers share: each tells the others what counts against them.

A limit holds for the service as a whole, give or take what the others accept in `EVERY` seconds.
"""

from __future__ import annotations

import asyncio

from switchgear_streams.service import Service
from switchgear_streams.workers.mesh import Mesh

EVERY = 0.05


class Totals:
    """Of one service."""

    def __init__(self, service: Service, number: int, mesh: Mesh) -> None:
        self._service = service
        self._number = number
        self._mesh = mesh
        self._said: tuple[int, ...] = ()
        self._known: dict[int, tuple[int, ...]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if self._service.gate.limited:
            self._say()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _say(self) -> None:
        mine = self._service.shared()
        if mine != self._said:
            self._said = mine
            for peer in self._mesh.peers:
                self._mesh.send(peer, "totals", (self._number, mine))
        self._timer = asyncio.get_running_loop().call_later(EVERY, self._say)

    def hear(self, peer: int, figures: tuple[int, ...]) -> None:
        """What a worker holds: see `Service.shared`."""
        before = self._known.get(peer)
        self._known[peer] = figures
        others = self._service.others
        others.streams, others.held, others.live, others.connections, _ = (
            sum(each) for each in zip(*self._known.values(), strict=True)
        )
        self._service.gate.appended_elsewhere(figures[4] - (0 if before is None else before[4]))
