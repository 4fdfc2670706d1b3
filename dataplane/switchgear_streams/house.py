"""Several services behind one port: finds the one that a request is for. Each has its data directory and log.

Nothing is shared but the process: a path, a fork, a subscription or a limit of one service cannot name another's. A
request for none gets the answer of a wrong secret, so that names do not leak.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from switchgear_streams import answers
from switchgear_streams.gate import unauthorised
from switchgear_streams.service import Service
from switchgear_streams.settings import Settings
from switchgear_wire.metrics import render_all
from switchgear_wire.request import Request
from switchgear_wire.response import AnyResponse, Outcome, Response

_SYSTEM = (b"/health", b"/ready", b"/live", b"/metrics")


Result = Outcome | Awaitable[AnyResponse] | Awaitable[Outcome]


class Face(Protocol):
    """What answers for a service."""

    def handle(self, request: Request) -> Result: ...
    def usage(self, request: Request) -> Result: ...


class House:
    """What `Service` is to one, for several."""

    def __init__(
        self, settings: Settings, services: list[Service] | None = None, faces: Sequence[Face] | None = None
    ) -> None:
        """`faces`: what stands before each service, if it is not asked itself."""
        self.services = [Service(one) for one in settings.services or ()] if services is None else services
        pairs: list[tuple[Settings, Face]] = [
            (service.settings, face) for service, face in zip(self.services, faces or self.services, strict=True)
        ]
        root = settings.root_path.encode() + b"/"
        self._roots = [root]
        prefix, _, rest = root.partition(b"/v1/stream/")
        if not prefix:
            self._roots.append(b"/v1/yjs/" + rest)
        self._by_name = {
            each.service.encode(): face for each, face in pairs if each.service is not None and each.host_name is None
        }
        self._by_host = {each.host_name: face for each, face in pairs if each.host_name is not None}

    def start(self) -> None:
        """All of them, one after the other. Raises StartError, OSError."""
        for one in self.services:
            one.start()

    def drain(self) -> None:
        for one in self.services:
            one.drain()

    async def stop(self) -> None:
        for one in self.services:
            await one.stop()

    def error_headers(self, request: Request | None) -> bytes:
        return answers.BASE

    def handle(self, request: Request) -> Result:
        """The handler."""
        path = request.path
        if path in _SYSTEM:
            return self._system(request)
        if self._by_host:
            host = request.headers.get(b"host", b"").partition(b":")[0].lower().removesuffix(b".")
            found = self._by_host.get(host)
            if found is not None:
                return found.handle(request)
        if request.method == "OPTIONS":
            return Response(204, answers.PREFLIGHT)
        for root in self._roots:
            if path.startswith(root):
                found = self._by_name.get(path[len(root) :].partition(b"/")[0])
                return unauthorised() if found is None else found.handle(request)
        if path.startswith(b"/usage/"):
            found = self._by_name.get(path[7:])
            return unauthorised() if found is None else found.usage(request)
        return answers.problem(404, "NOT_FOUND", "Streams are below the root path and their service's name.")

    def _system(self, request: Request) -> Result:
        if request.path == b"/metrics" and request.method in ("GET", "HEAD"):
            headers = answers.BASE + b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n" + answers.NO_STORE
            return Response(200, headers, self.metrics())
        # They start and stop together; one whose periodic work is stuck speaks for all.
        worst = next((one for one in self.services if not one.well), self.services[0])
        return worst.handle(request)

    def metrics(self) -> bytes:
        """Of all services."""
        return render_all([one.metrics for one in self.services])
