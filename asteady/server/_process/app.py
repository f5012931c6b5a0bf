"""All that is served, as one application."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import attrs
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from asteady._session.session import Session
from asteady.operate import PrometheusCollector
from asteady.server._dashboard.app import dashboard
from asteady.server._openai.app import openai
from asteady.server._openai.errors import not_there
from asteady.server._process.guard import API, HEALTH, Guard

_DASHBOARD = "/dashboard"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"
_EXPOSED = ("x-asteady-cache", "x-asteady-key", "retry-after")


@attrs.frozen(kw_only=True)
class Served:
    """What is served, and for whom.

    `models` are further names of models. `hosts` are further names of this server, None if any is
    allowed. `dashboard` is served at /dashboard.
    """

    models: Mapping[str, str]
    keys: Sequence[str]
    hosts: Sequence[str] | None
    origins: Sequence[str]
    max_body_bytes: int
    max_messages: int
    max_streams: int
    dashboard: bool
    show_prompts: bool


class Health:
    """Whether the models are loaded, for /health; /health/live is there as soon as the server."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.ready = False

    def routes(self) -> list[BaseRoute]:
        return [Route(HEALTH, self._readiness), Route(f"{HEALTH}/live", self._liveness)]

    async def _liveness(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _readiness(self, request: Request) -> Response:
        if not self._session.is_open:
            return _unavailable({"status": "stopping"})
        if self.ready:
            return JSONResponse({"status": "ok"})
        loading = [
            {"phase": now.phase, "model": _name(now.subject), "done": now.done, "total": now.total}
            for now in self._session.statistics().activities
            if now.phase in ("downloading", "identifying", "loading")
        ]
        return _unavailable({"status": "loading", "loading": loading})


def _unavailable(content: Mapping[str, Any]) -> Response:
    return JSONResponse(content, 503, {"retry-after": "1"})


def _name(subject: str) -> str:
    # Where files lie on this machine is nobody's business.
    return PurePath(subject).name


def build_app(
    session: Session, served: Served, health: Health, collector: PrometheusCollector | None
) -> ASGIApp:
    """The application; it expects the server of `HttpServer`."""

    async def metrics(request: Request) -> Response:
        if collector is None:
            raise HTTPException(404, 'it needs pip install "asteady[prometheus]" on the server')
        return Response(await collector.text(), media_type=_METRICS)

    api = openai(
        session,
        models=served.models,
        max_body_bytes=served.max_body_bytes,
        max_messages=served.max_messages,
    )
    routes = [Mount(API, api), *health.routes(), Route("/metrics", metrics)]
    if served.dashboard:
        page = dashboard(session, show_prompts=served.show_prompts)
        routes += [Mount(_DASHBOARD, page), Route("/", _to_dashboard)]
    app: ASGIApp = Starlette(routes=routes, exception_handlers={HTTPException: _not_there})
    app = Guard(
        app,
        keys=served.keys,
        hosts=served.hosts,
        origins=served.origins,
        max_streams=served.max_streams,
    )
    if served.origins:
        app = CORSMiddleware(
            app,
            allow_origins=served.origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=_EXPOSED,
        )
    return app


async def _to_dashboard(request: Request) -> Response:
    return RedirectResponse(f"{_DASHBOARD}/")


async def _not_there(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    own = not_there(request.method, request.url.path, error, f"the API is at {API}")
    return JSONResponse({"error": own.body}, own.status, own.headers)
