"""A web app: one session for its lifetime, warmed at the start, with streams and a health page.

Serve it with any ASGI server, for example ``uvicorn examples.asgi_app:app``. Run as a program it
asks itself three questions and prints the replies.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

import asteady

COMMON = ["Write a haiku about caching", "Explain recursion in one sentence"]


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, asteady.Session]]:
    async with asteady.Session() as session:
        async with asyncio.TaskGroup() as group:
            for prompt in COMMON:
                group.create_task(session.generate(prompt))
        yield {"asteady": session}


async def generate(request: Request) -> Response:
    session: asteady.Session = request.state.asteady
    try:
        text = await session.generate(request.query_params.get("prompt", ""))
    except asteady.InvalidRequestError as exc:
        return PlainTextResponse(str(exc), status_code=400)
    except asteady.QueueFullError as exc:
        return PlainTextResponse(str(exc), status_code=503, headers={"Retry-After": "5"})
    return PlainTextResponse(text)


async def stream(request: Request) -> Response:
    session: asteady.Session = request.state.asteady

    async def chunks() -> AsyncIterator[str]:
        async with session.stream(request.query_params["prompt"]) as reading:
            async for chunk in reading:
                yield chunk

    return StreamingResponse(chunks(), media_type="text/plain; charset=utf-8")


async def health(request: Request) -> Response:
    session: asteady.Session = request.state.asteady
    return JSONResponse(await session.cache.get_cache_stats())


app = Starlette(
    routes=[Route("/generate", generate), Route("/stream", stream), Route("/health", health)],
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
        print((await client.get("/generate")).status_code)
        print((await client.get("/health")).json()["generation"]["hits"], "hits")


def with_state(state: dict[str, asteady.Session]):  # type: ignore[no-untyped-def]  # an ASGI app
    """What a server does with a lifespan's state: put it into each request's scope."""

    async def serve(scope, receive, send):  # type: ignore[no-untyped-def]  # ASGI
        await app({**scope, "state": dict(state)}, receive, send)

    return serve


if __name__ == "__main__":
    asyncio.run(main())
