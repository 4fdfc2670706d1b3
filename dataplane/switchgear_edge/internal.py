"""The internal listener: probes, metrics, and what the operator asks before it calls a service active.

Invariant: secret hashes are told only to whoever has the region's internal key.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from urllib.parse import unquote

import orjson

from switchgear_edge.credentials import bearer
from switchgear_edge.routes import Route, RouteTable
from switchgear_wire import HttpError, Request, Response
from switchgear_wire.metrics import Registry

_JSON = b"content-type: application/json\r\ncache-control: no-store\r\n"
_TEXT = b"content-type: text/plain; version=0.0.4; charset=utf-8\r\ncache-control: no-store\r\n"
_SERVICES = b"/internal/services/"


class Internal:
    """`ready` and `live` give the reason why not, or ""."""

    def __init__(
        self, table: RouteTable, registry: Registry, key: str, ready: Callable[[], str], live: Callable[[], str]
    ) -> None:
        self._table = table
        self._registry = registry
        self._key = key.encode()
        self._checks = {b"/ready": ready, b"/live": live}

    def handle(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            raise HttpError(405, "METHOD_NOT_ALLOWED", "Only GET is served here.", b"allow: GET, HEAD\r\n")
        check = self._checks.get(request.path)
        if check is not None:
            problem = check()
            body = {"status": "unavailable", "message": problem} if problem else {"status": "ok"}
            return Response(503 if problem else 200, _JSON, orjson.dumps(body))
        if request.path == b"/metrics":
            return Response(200, _TEXT, self._registry.render())
        if request.path.startswith(_SERVICES):
            return self._service(request)
        raise HttpError(404, "NOT_FOUND", "There is nothing here.")

    def _service(self, request: Request) -> Response:
        token = bearer(request.headers.get(b"authorization"))
        if token is None or not hmac.compare_digest(token, self._key):
            raise HttpError(401, "INVALID_KEY", "This needs the region's internal key as Bearer.")
        service_id = unquote(request.path[len(_SERVICES) :].decode("ascii", "replace"))
        route = self._table.find(service_id)
        if route is None:
            raise HttpError(404, "UNKNOWN_SERVICE", "This edge knows no service with this id.")
        return Response(200, _JSON, orjson.dumps(_describe(route)))


def _describe(route: Route) -> dict[str, object]:
    service = route.service
    now = time.time()
    valid = [h.digest.hex() for h in service.hashes if h.expires_at is None or h.expires_at > now]
    return {
        "serviceId": service.service_id,
        "kind": service.kind,
        "namespace": service.namespace,
        "name": service.name,
        "uid": service.uid,
        "state": service.state,
        "podReady": route.address is not None,
        "secretHashes": valid,
    }
