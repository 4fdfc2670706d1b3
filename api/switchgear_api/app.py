"""The application: routes, who may call them, and one form for every error.

`/live`, `/ready`, `/openapi.json` and `/docs` are open; everything below `/v1` needs the admin token, and that is
checked before a path or a body is looked at. An unexpected error is logged and answered 500 without details.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from switchgear_api import docs_page
from switchgear_api.auth.admin_token import AdminToken
from switchgear_api.kube import Kube
from switchgear_api.limits import Limits
from switchgear_api.problems import Json, Problem, from_validation
from switchgear_api.resources.routes import router
from switchgear_api.resources.store import Store

log = logging.getLogger(__name__)

_READY_SECONDS = 2.0
_DESCRIPTION = (
    "Workspaces, projects, environments and services of a Switchgear region. Every call reads or writes the same "
    "Kubernetes resources as `kubectl`; field names are those of the YAML."
)


class _Ready:
    """Whether the Kubernetes API answers, asked at most every _READY_SECONDS."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._checked = float("-inf")
        self._problem: Problem | None = None

    async def problem(self) -> Problem | None:
        now = time.monotonic()
        if now - self._checked >= _READY_SECONDS:
            self._checked = now
            try:
                await self._store.reachable()
                self._problem = None
            except Problem as problem:
                self._problem = problem
        return self._problem


class _Authenticated:
    """ASGI middleware: nothing below /v1 is reached without the token, not even a 404."""

    def __init__(self, app: ASGIApp, token: AdminToken) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1"):
            given = [value for name, value in scope["headers"] if name == b"authorization"]
            try:
                self._token.check(given[0].decode("latin-1") if len(given) == 1 else None)
            except Problem as problem:
                await _answer(problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def create_app(kube: Kube, token: AdminToken, *, public_url: str | None = None) -> FastAPI:
    """The application over a Kubernetes client, which it closes when it shuts down."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await kube.close()

    app = FastAPI(
        title="Switchgear",
        description=_DESCRIPTION,
        version=metadata.version("switchgear"),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.store = Store(kube)
    app.include_router(router)
    _add_open_routes(app, _Ready(app.state.store), _schema(app, public_url))
    _add_error_forms(app)
    app.add_middleware(_Authenticated, token=token)
    app.add_middleware(Limits)
    return app


def _add_open_routes(app: FastAPI, ready: _Ready, schema: Json) -> None:
    document, page = orjson.dumps(schema), docs_page.render(schema)

    @app.get("/live", include_in_schema=False)
    async def live() -> Json:
        return {"status": "live"}

    @app.get("/ready", include_in_schema=False)
    async def is_ready() -> Response:
        problem = await ready.problem()
        return (
            _answer(problem) if problem else Response(orjson.dumps({"status": "ready"}), media_type="application/json")
        )

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return Response(document, media_type="application/json")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": docs_page.CONTENT_SECURITY_POLICY})


def _add_error_forms(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> Response:
        return _answer(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        return _answer(from_validation(error.errors()))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return _answer(_from_http(request, error))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        # The traceback, without the values of the request: those may hold a database URL.
        log.error("unexpected %s at %s %s", type(error).__name__, request.method, request.url.path, exc_info=error)
        return _answer(Problem(500, "INTERNAL", "Internal server error"))


def _from_http(request: Request, error: HTTPException) -> Problem:
    if error.status_code == 404:
        return Problem(404, "NOT_FOUND", f"There is nothing at {request.url.path}. See /docs for what there is.")
    if error.status_code == 405:
        message = f"{request.method} is not possible at {request.url.path}. See /docs for what is."
        return Problem(405, "METHOD_NOT_ALLOWED", message, headers=error.headers)
    return Problem(error.status_code, "INVALID_REQUEST", "The request cannot be read.", headers=error.headers)


def _answer(problem: Problem) -> Response:
    return Response(
        orjson.dumps(problem.body()), problem.status, headers=problem.headers, media_type="application/json"
    )


def _schema(app: FastAPI, public_url: str | None) -> Json:
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = schema.setdefault("components", {})
    components["securitySchemes"] = {"adminToken": {"type": "http", "scheme": "bearer"}}
    components.setdefault("schemas", {})["Problem"] = {
        "type": "object",
        "title": "Problem",
        "required": ["code", "message"],
        "properties": {"code": {"type": "string"}, "message": {"type": "string"}, "details": {}},
    }
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    schema["security"] = [{"adminToken": []}]
    if public_url:
        schema["servers"] = [{"url": public_url}]
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path in schema["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = {"description": "Any error", "content": content}
    return schema
