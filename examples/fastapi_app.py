"""A web app with FastAPI: the session by dependency injection, warm-up, streams, health.

Serve it with any ASGI server, for example ``uvicorn examples.fastapi_app:app``. Run as a program it
asks itself some questions and prints the replies.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict, TypeVar

import httpx
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

import asteady
from asteady.operate import ProductionCacheMonitor

T = TypeVar("T")

COMMON = ["Write a haiku about caching", "Explain recursion in one sentence"]
LENGTH = 60  # another length is another answer, so what is warmed must have the one that is asked


class State(TypedDict):
    asteady: asteady.Session
    monitor: ProductionCacheMonitor


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[State]:
    async with asteady.Session() as session:
        await session.warm(COMMON, max_new_tokens=LENGTH, budget_s=30)
        yield {"asteady": session, "monitor": ProductionCacheMonitor(session)}


app = FastAPI(title="asteady", lifespan=lifespan)


class Question(BaseModel):
    prompt: str
    seed: int = 42
    max_new_tokens: int = Field(default=LENGTH, ge=1, le=500)


class Answer(BaseModel):
    text: str
    cached: bool


# What depends on this can be tested without a model: docs/web.md.
async def get_session(request: Request) -> asteady.Session:
    session: asteady.Session = request.state.asteady
    return session


Session = Annotated[asteady.Session, Depends(get_session)]


# Left after the response was sent, or the client hung up, whichever is first.
async def open_stream(question: Question, session: Session) -> AsyncIterator[asteady.Stream]:
    async with session.stream(**question.model_dump()) as stream:
        yield stream


@app.post("/generate")
async def generate(question: Question, session: Session, request: Request) -> Answer:
    completion = await while_connected(request, session.complete(**question.model_dump()))
    return Answer(text=completion.text, cached=completion.cached)


@app.post("/stream")
async def stream(
    reading: Annotated[asteady.Stream, Depends(open_stream)], request: Request
) -> StreamingResponse:
    # A refusal comes in place of the first chunk, and must be known when the status is sent.
    first = await while_connected(request, anext(reading, ""))

    async def body() -> AsyncIterator[str]:
        yield first
        async for chunk in reading:
            yield chunk

    # From here on FastAPI itself ends the reading when the client hangs up.
    return StreamingResponse(body(), media_type="text/plain; charset=utf-8")


@app.get("/health")
async def health(request: Request) -> dict[str, Any]:
    # A cache that seldom has the answer is no reason to restart the app: 200, and the body tells.
    monitor: ProductionCacheMonitor = request.state.monitor
    return (await monitor.check_cache_health()).as_dict()


@app.exception_handler(asteady.InvalidRequestError)
async def refused(request: Request, error: asteady.InvalidRequestError) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=400)


@app.exception_handler(asteady.QueueFullError)
async def busy(request: Request, error: asteady.QueueFullError) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=503, headers={"Retry-After": "5"})


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


async def main() -> None:
    async with (
        lifespan(app) as state,
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=with_state(state)), base_url="http://app"
        ) as client,
    ):
        print((await client.post("/generate", json={"prompt": COMMON[0]})).json())
        print((await client.post("/stream", json={"prompt": COMMON[1]})).text)
        print((await client.post("/generate", json={"prompt": ""})).json())
        print((await client.get("/health")).json())


def with_state(state: State) -> Any:
    """What a server does with a lifespan's state: put it into each request's scope."""

    async def serve(scope, receive, send):  # type: ignore[no-untyped-def]  # an ASGI app
        await app({**scope, "state": dict(state)}, receive, send)

    return serve


if __name__ == "__main__":
    asyncio.run(main())
