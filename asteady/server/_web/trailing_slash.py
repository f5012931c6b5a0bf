"""Paths that end with a slash."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class WithoutTrailingSlash:
    """Takes ``/data/`` for ``/data``: Litestar adds a slash to each path below a mount, and
    whoever writes one more should be answered too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        if path.endswith("/") and path.removeprefix(scope.get("root_path", "")) != "/":
            scope = {**scope, "path": path.rstrip("/")}
        await self._app(scope, receive, send)
