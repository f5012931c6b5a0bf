"""A web app with FastAPI: the session by dependency injection, warm-up, streams, health.

Serve it with any ASGI server, for example ``uvicorn examples.fastapi_app:app``. Run as a program it
asks itself some questions and prints the replies.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field

import asteady
from asteady.operate import ProductionCacheMonitor
from asteady.server import SessionDep, TextStreamResponse, exception_handlers, while_connected

COMMON = ["Write a haiku about caching", "Explain recursion in one sentence"]
LENGTH = 80  # another length is another answer, so what is warmed must have the one that is asked


@asynccontextmanager
async def monitored(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    yield {"monitor": ProductionCacheMonitor(app.state.asteady)}


lifespan = asteady.server.lifespan(
    lambda: asteady.Session(max_pending=100),
    warm=COMMON,
    warm_options={"max_new_tokens": LENGTH},
    inner=monitored,
)
app = FastAPI(title="asteady", lifespan=lifespan, exception_handlers=exception_handlers)


class Question(BaseModel):
    prompt: str
    seed: int = 42
    max_new_tokens: int = Field(default=LENGTH, ge=1, le=500)


class Answer(BaseModel):
    text: str
    cached: bool


@app.post("/generate")
async def generate(question: Question, session: SessionDep, request: Request) -> Answer:
    completion = await while_connected(request, session.complete(**question.model_dump()))
    return Answer(text=completion.text, cached=completion.cached)


@app.post("/stream")
async def stream(question: Question, session: SessionDep) -> Response:
    return TextStreamResponse(session.stream(**question.model_dump()))


@app.get("/health")
async def health(request: Request) -> dict[str, Any]:
    # A cache that seldom has the answer is no reason to restart the app: 200, and the body tells.
    monitor: ProductionCacheMonitor = request.state.monitor
    return (await monitor.check_cache_health()).as_dict()


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


def with_state(state: Mapping[str, Any] | None) -> Any:
    """What a server does with a lifespan's state: put it into each request's scope."""

    async def serve(scope, receive, send):  # type: ignore[no-untyped-def]  # an ASGI app
        await app({**scope, "state": dict(state or {})}, receive, send)

    return serve


if __name__ == "__main__":
    asyncio.run(main())
