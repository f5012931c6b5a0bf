"""A web app with Starlette: one session for its lifetime, warmed at the start, streams, health.

Serve it with any ASGI server, for example ``uvicorn examples.asgi_app:app``. Run as a program it
asks itself some questions and prints the replies.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

import asteady
from asteady.operate import ProductionCacheMonitor
from asteady.server import TextStreamResponse, exception_handlers, get_session, while_connected

COMMON = ["Write a haiku about caching", "Explain recursion in one sentence"]
LENGTH = 80  # another length is another answer, so what is warmed must have the one that is asked


@asynccontextmanager
async def monitored(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    yield {"monitor": ProductionCacheMonitor(app.state.asteady)}


lifespan = asteady.server.lifespan(
    lambda: asteady.Session(max_pending=100),
    warm=COMMON,
    warm_options={"max_new_tokens": LENGTH},
    inner=monitored,
)


async def generate(request: Request) -> Response:
    session = await get_session(request)
    prompt = request.query_params.get("prompt", "")
    text = await while_connected(request, session.generate(prompt, max_new_tokens=LENGTH))
    return PlainTextResponse(text)


async def stream(request: Request) -> Response:
    session = await get_session(request)
    prompt = request.query_params.get("prompt", "")
    return TextStreamResponse(session.stream(prompt, max_new_tokens=LENGTH))


async def health(request: Request) -> Response:
    # A cache that seldom has the answer is no reason to restart the app: 200, and the body tells.
    return JSONResponse((await request.state.monitor.check_cache_health()).as_dict())


app = Starlette(
    routes=[Route("/generate", generate), Route("/stream", stream), Route("/health", health)],
    exception_handlers=exception_handlers,
    lifespan=lifespan,
)


async def main() -> None:
    async with (
        lifespan(app) as state,
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=with_state(state)), base_url="http://app"
        ) as client,
    ):
        print((await client.get("/generate", params={"prompt": COMMON[0]})).text)
        print((await client.get("/stream", params={"prompt": COMMON[1]})).text)
        print((await client.get("/generate")).text)
        print((await client.get("/health")).json())


def with_state(state: Mapping[str, Any] | None) -> Any:
    """What a server does with a lifespan's state: put it into each request's scope."""

    async def serve(scope, receive, send):  # type: ignore[no-untyped-def]  # an ASGI app
        await app({**scope, "state": dict(state or {})}, receive, send)

    return serve


if __name__ == "__main__":
    asyncio.run(main())
