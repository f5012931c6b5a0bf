"""The application: one page, its files, and the numbers as JSON."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from asteady._base.errors import SessionError, StoreError
from asteady._base.public import public
from asteady._base.requests import KINDS
from asteady._base.validation import flag, shorten
from asteady._session.generation import context_of
from asteady._session.session import Session
from asteady.operate._resolve_session import session_now
from asteady.server._dashboard.history import PERIOD_S, History
from asteady.server._web.trailing_slash import WithoutTrailingSlash

_PAGE = Path(__file__).parent / "page"
_FILES = {
    "": ("index.html", "text/html; charset=utf-8"),
    "style.css": ("style.css", "text/css; charset=utf-8"),
    "theme.js": ("theme.js", "text/javascript; charset=utf-8"),
    "charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "dashboard.js": ("dashboard.js", "text/javascript; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src"
        " 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_TOP_ENTRIES = 10
# Reading them sorts all entries, on the store's thread.
_ENTRIES_EVERY_S = 5.0
_PROMPT_CHARACTERS = 120


@public
def dashboard(session: Session, *, show_prompts: bool = False) -> Starlette:
    """An ASGI application with one page that shows what a session does::

        app = Starlette(lifespan=...)  # opens and closes the session
        app.mount("/dashboard", asteady.server.dashboard(session))

    The page is at ``/`` below the mount, its numbers as JSON at ``/data``. Whoever reaches the
    application sees it: put your own authentication in front of it, or mount it only where
    nobody else comes.

    From when the session opens until it closes, what it did is sampled every five seconds, and the
    past hour is kept. A warm hit gets no slower.

    Args:
        session: need not be open before the first request; it is not closed here.
        show_prompts: whether the page and the data have the beginnings of prompts.

    Raises:
        InvalidRequestError: `session` is no `asteady.Session`, or `show_prompts` no bool.
    """
    session = session_now(session)  # refuses what is none
    numbers = _Numbers(session, flag("show_prompts", show_prompts))
    context_of(session).tasks.spawn_when_open(numbers.history.run)

    async def data(request: Request) -> Response:
        try:
            since_s = float(request.query_params.get("since", "0"))
        except ValueError:
            return _json({"error": "since is a number of seconds since the epoch"}, 400)
        try:
            return _json(await numbers.now(since_s))
        except SessionError as exc:
            return _json({"error": str(exc)}, 503)

    routes = [Route("/data", data)]
    for path, (name, media_type) in _FILES.items():
        routes.append(Route(f"/{path}", _file(name, media_type)))
    return Starlette(routes=routes, middleware=[Middleware(WithoutTrailingSlash)])


def _file(name: str, media_type: str) -> Any:
    content = (_PAGE / name).read_bytes()

    async def send(request: Request) -> Response:
        asked = request.scope.get("raw_path") or b"/"
        if name == "index.html" and not asked.endswith(b"/"):
            # A framework that does not redirect by itself: its files are below it.
            return RedirectResponse(f"{asked.decode('latin-1').rpartition('/')[2]}/")
        return Response(content, media_type=media_type, headers=_HEADERS)

    return send


def _json(content: dict[str, Any], status: int = 200) -> Response:
    # ASCII: a path may have bytes that are no text.
    body = json.dumps(content, allow_nan=False)
    headers = {**_HEADERS, "cache-control": "no-store"}
    return Response(body, status, headers, "application/json")


class _Numbers:
    """What the page shows, of one session."""

    def __init__(self, session: Session, show_prompts: bool) -> None:
        self.history = History(session)
        self._session = session
        self._show_prompts = show_prompts
        self._entries: list[dict[str, Any]] = []
        self._entries_until_s = 0.0

    async def now(self, since_s: float) -> dict[str, Any]:
        """All of it, ready for JSON; of the history what is newer than `since_s`.

        Raises:
            SessionError: the session is not open.
        """
        session = self._session
        session.check_open()
        caches = await session.cache.get_cache_stats()
        entries = await self._top_entries()
        return {
            "now_s": time.time(),
            "opened_s": self.history.began_s,
            "show_prompts": self._show_prompts,
            "session": session.statistics().as_dict(),
            "caches": caches,
            "flights": [self._without_prompt(each.as_dict()) for each in session.flights()],
            "entries": entries,
            "curves": {
                kind: self.history.curves[kind].points(caches[kind]["capacity"]) for kind in KINDS
            },
            "history": {
                "period_s": PERIOD_S,
                "samples": self.history.since(since_s),
            },
        }

    async def _top_entries(self) -> list[dict[str, Any]]:
        if time.monotonic() < self._entries_until_s:
            return self._entries
        self._entries_until_s = time.monotonic() + _ENTRIES_EVERY_S
        found: list[dict[str, Any]] = []
        for kind in KINDS:
            cache = getattr(self._session.cache, kind)
            try:
                entries = await cache.entries(_TOP_ENTRIES, "saved")
            except StoreError:
                entries = []  # it is counted, and shown, as an error of the store
            for entry in entries:
                record = {"kind": kind, "saved_s": entry.saved_s, **entry.as_dict()}
                found.append(self._without_prompt(record))
        found.sort(key=lambda entry: -entry["saved_s"])
        self._entries = found[:_TOP_ENTRIES]
        return self._entries

    def _without_prompt(self, record: dict[str, Any]) -> dict[str, Any]:
        prompt = record.pop("prompt")
        if self._show_prompts:
            record["prompt"] = None if prompt is None else shorten(prompt, _PROMPT_CHARACTERS)
        return record
