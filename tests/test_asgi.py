"""An ASGI app with the session in its lifespan, hit by many clients at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from asteady import Session

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Session]]:
    async with Session() as session:
        yield {"asteady": session}


async def generate(request: Request) -> Response:
    session: Session = request.state.asteady
    prompt = request.query_params["prompt"]
    return PlainTextResponse(await session.generate(prompt, max_new_tokens=16))


async def stream(request: Request) -> Response:
    session: Session = request.state.asteady

    async def chunks() -> AsyncIterator[str]:
        async with session.stream(request.query_params["prompt"], max_new_tokens=16) as stream:
            async for chunk in stream:
                yield chunk

    return StreamingResponse(chunks(), media_type="text/plain; charset=utf-8")


async def stats(request: Request) -> Response:
    session: Session = request.state.asteady
    return JSONResponse(await session.cache.get_cache_stats())


class Server:
    """Runs an app's lifespan in a task of its own, as ASGI servers do."""

    def __init__(self, app: Starlette) -> None:
        self.app = app
        self.state: dict[str, object] = {}
        self._inbox: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self._outbox: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()

    async def start(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self.state}
        self._task = asyncio.create_task(self.app(scope, self._inbox.get, self._outbox.put))
        await self._tell("lifespan.startup")

    async def stop(self) -> None:
        await self._tell("lifespan.shutdown")
        await self._task

    async def _tell(self, message: str) -> None:
        await self._inbox.put({"type": message})
        assert (await self._outbox.get())["type"] == f"{message}.complete"

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]  # ASGI
        await self.app({**scope, "state": dict(self.state)}, receive, send)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    server = Server(
        Starlette(
            routes=[Route("/generate", generate), Route("/stream", stream), Route("/stats", stats)],
            lifespan=lifespan,
        )
    )
    await server.start()
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=server), base_url="http://app", timeout=60
    ) as client:
        yield client
    await server.stop()


async def test_fifty_concurrent_clients(client: httpx.AsyncClient) -> None:
    prompts = [f"Write a haiku about number {n % 10}" for n in range(50)]
    replies = await asyncio.gather(
        *(
            client.get("/stream" if n % 3 == 0 else "/generate", params={"prompt": prompt})
            for n, prompt in enumerate(prompts)
        )
    )
    assert {reply.status_code for reply in replies} == {200}
    for prompt in set(prompts):
        same = {r.text for r, asked in zip(replies, prompts, strict=True) if asked == prompt}
        assert len(same) == 1
    counted = (await client.get("/stats")).json()["generation"]
    assert counted["misses"] == 10
    assert counted["hits"] + counted["coalesced"] == 40


async def test_a_client_that_hangs_up_does_not_hurt_the_others(client: httpx.AsyncClient) -> None:
    leaving = asyncio.create_task(client.get("/generate", params={"prompt": "hi"}))
    staying = asyncio.create_task(client.get("/generate", params={"prompt": "hi"}))
    await asyncio.sleep(0)
    leaving.cancel()
    reply = await staying
    assert reply.status_code == 200
    again = await client.get("/generate", params={"prompt": "hi"})
    assert again.text == reply.text
