"""A web app with Starlette: one session for its lifetime, warmed at the start, streams, health.

Serve it with any ASGI server, for example ``uvicorn examples.asgi_app:app``. Run as a program it
asks itself some questions and prints the replies.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypedDict, TypeVar

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

import asteady
from asteady.operate import ProductionCacheMonitor

T = TypeVar("T")

COMMON = ["Write a haiku about caching", "Explain recursion in one sentence"]
LENGTH = 60  # another length is another answer, so what is warmed must have the one that is asked


class State(TypedDict):
    asteady: asteady.Session
    monitor: ProductionCacheMonitor


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[State]:
    async with asteady.Session() as session:
        await session.warm(COMMON, max_new_tokens=LENGTH, budget_s=30)
        yield {"asteady": session, "monitor": ProductionCacheMonitor(session)}


async def while_connected(request: Request, asked: Awaitable[T]) -> T:
    """Await `asked`; when the client hangs up, cancel it, which frees its worker."""

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    asking, leaving = asyncio.ensure_future(asked), asyncio.create_task(hung_up())
    try:
        await asyncio.wait((asking, leaving), return_when=asyncio.FIRST_COMPLETED)
        if asking.done():
            return asking.result()
        raise HTTPException(499)  # nobody is there to read it
    finally:
        asking.cancel()
        leaving.cancel()


async def generate(request: Request) -> Response:
    session: asteady.Session = request.state.asteady
    prompt = request.query_params.get("prompt", "")
    text = await while_connected(request, session.generate(prompt, max_new_tokens=LENGTH))
    return PlainTextResponse(text)


async def stream(request: Request) -> Response:
    session: asteady.Session = request.state.asteady
    prompt = request.query_params.get("prompt", "")

    async def chunks() -> AsyncIterator[str]:
        async with session.stream(prompt, max_new_tokens=LENGTH) as reading:
            async for chunk in reading:
                yield chunk

    # A refusal comes in place of the first chunk, and must be known when the status is sent.
    rest = chunks()
    first = await while_connected(request, anext(rest, ""))

    async def body() -> AsyncIterator[str]:
        yield first
        async for chunk in rest:
            yield chunk

    # From here on Starlette itself ends the reading when the client hangs up.
    return StreamingResponse(body(), media_type="text/plain; charset=utf-8")


async def health(request: Request) -> Response:
    # A cache that seldom has the answer is no reason to restart the app: 200, and the body tells.
    return JSONResponse((await request.state.monitor.check_cache_health()).as_dict())


async def refused(request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), status_code=400)


async def busy(request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), status_code=503, headers={"Retry-After": "5"})


app = Starlette(
    routes=[Route("/generate", generate), Route("/stream", stream), Route("/health", health)],
    exception_handlers={asteady.InvalidRequestError: refused, asteady.QueueFullError: busy},
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


def with_state(state: State) -> Any:
    """What a server does with a lifespan's state: put it into each request's scope."""

    async def serve(scope, receive, send):  # type: ignore[no-untyped-def]  # an ASGI app
        await app({**scope, "state": dict(state)}, receive, send)

    return serve


if __name__ == "__main__":
    asyncio.run(main())
