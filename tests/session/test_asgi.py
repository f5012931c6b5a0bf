"""The web apps of the examples, served by a real server, with many clients at once."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

import asteady
from asteady.testing import FakeEngine
from tests.serving import serving

pytestmark = pytest.mark.anyio

APPS = ["asgi_app", "fastapi_app"]


class Client(httpx.AsyncClient):
    """Asks the apps for the same things, each in its own way."""

    posts: bool

    def ask(self, path: str, prompt: str) -> httpx.Request:
        if self.posts:
            return self.build_request("POST", path, json={"prompt": prompt})
        return self.build_request("GET", path, params={"prompt": prompt})

    async def reply(self, path: str, prompt: str) -> httpx.Response:
        return await self.send(self.ask(path, prompt))

    def text(self, reply: httpx.Response) -> str:
        return str(reply.json()["text"]) if self.posts and is_json(reply) else reply.text


def is_json(reply: httpx.Response) -> bool:
    return reply.headers["content-type"] == "application/json"


@asynccontextmanager
async def served(app: Any, **options: Any) -> AsyncIterator[Client]:
    """The app behind uvicorn on the loopback interface, and a client of it."""
    async with serving(app, **options) as address, Client(base_url=address, timeout=60) as client:
        client.posts = type(app).__name__ == "FastAPI"
        yield client


@pytest.fixture(params=APPS)
def example(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(f"examples.{request.param}")


@pytest.fixture
async def client(example: Any) -> AsyncIterator[Client]:
    async with served(example.app) as client:
        yield client


@pytest.fixture
def opened(
    example: Any, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> list[asteady.Session]:
    """The sessions that the app opens, all on the fake engine."""
    sessions = []

    def open_session(**settings: Any) -> asteady.Session:
        sessions.append(asteady.Session(engine=engine, workers=1, max_pending=1))
        return sessions[-1]

    monkeypatch.setattr(
        example, "asteady", SimpleNamespace(**{**vars(asteady), "Session": open_session})
    )
    return sessions


@pytest.fixture
async def held(
    example: Any,
    engine: FakeEngine,
    opened: list[asteady.Session],
    caplog: pytest.LogCaptureFixture,
) -> AsyncIterator[Client]:
    """The app on a fake engine, which is held once the app is warm. The server logs no errors."""
    async with served(example.app) as client:
        engine.computed.clear()
        engine.hold()
        try:
            yield client
        finally:
            engine.resume()
    assert [record.message for record in caplog.records if record.name.startswith("uvicorn")] == []


async def test_an_app_is_warm_and_well_from_the_start(example: Any, client: Client) -> None:
    async with asteady.Session() as session:
        for prompt in example.COMMON:
            assert await session.is_cached(prompt, max_new_tokens=example.LENGTH)
            expected = await session.generate(prompt, max_new_tokens=example.LENGTH)
            assert client.text(await client.reply("/generate", prompt)) == expected
            assert client.text(await client.reply("/stream", prompt)) == expected
    health = await client.get("/health")
    assert health.status_code == 200
    assert health.json()["healthy"] is True
    assert health.json()["warnings"] == []


async def test_fifty_concurrent_clients(client: Client) -> None:
    prompts = [f"Write a haiku about number {n % 10}" for n in range(50)]
    replies = await asyncio.gather(
        *(
            client.reply("/stream" if n % 3 == 0 else "/generate", prompt)
            for n, prompt in enumerate(prompts)
        )
    )
    assert {reply.status_code for reply in replies} == {200}
    for prompt in set(prompts):
        same = {
            client.text(reply)
            for reply, asked in zip(replies, prompts, strict=True)
            if asked == prompt
        }
        assert len(same) == 1


async def test_what_cannot_be_served_is_refused(client: Client) -> None:
    for path in ("/generate", "/stream"):
        for prompt, status, reason in (("", 400, "prompt"), ("word " * 5000, 413, "tokens")):
            reply = await client.reply(path, prompt)
            assert reply.status_code == status
            assert reason in reply.text


@pytest.mark.parametrize("path", ["/generate", "/stream"])
async def test_a_full_queue_is_said_with_a_time_to_come_again(
    held: Client, engine: FakeEngine, opened: list[asteady.Session], path: str
) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(held.reply("/generate", "computing"))
        await engine.wait_computed(1)
        waiting = group.create_task(held.reply("/generate", "waiting"))
        while opened[0].statistics().pools["generation:builtin"].pending < 1:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.01)
        refused = await asyncio.wait_for(held.reply(path, "one too many"), 60)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        engine.resume()
    assert waiting.result().status_code == 200


@pytest.mark.parametrize("path", ["/generate", "/stream"])
async def test_hanging_up_before_the_first_chunk_frees_the_worker(
    held: Client, engine: FakeEngine, path: str
) -> None:
    asking = asyncio.create_task(held.reply(path, "hi"))
    await engine.wait_computed(1)
    asking.cancel()
    await released(engine)


async def test_hanging_up_within_a_stream_frees_the_worker(
    held: Client, engine: FakeEngine
) -> None:
    sending = asyncio.create_task(held.send(held.ask("/stream", "hi"), stream=True))
    await engine.wait_computed(1)
    engine.step()
    reply = await sending
    assert await anext(reply.aiter_text()) == "You "
    await reply.aclose()
    await released(engine)


async def released(engine: FakeEngine) -> None:
    """The computation was given up; not waited for without end, as it is held."""
    async with asyncio.timeout(60):
        await engine.wait_released(1)


async def test_a_client_that_hangs_up_does_not_hurt_the_others(
    held: Client, engine: FakeEngine, opened: list[asteady.Session]
) -> None:
    leaving = asyncio.create_task(held.send(held.ask("/stream", "hi"), stream=True))
    staying = asyncio.create_task(held.reply("/generate", "hi"))
    # Both are there: else the computation would end with the one that leaves.
    while [flight.waiters for flight in opened[0].flights()] != [2]:  # noqa: ASYNC110  # no event tells
        await asyncio.sleep(0.01)
    engine.step()
    await (await leaving).aclose()
    engine.resume()
    assert held.text(await staying) == "You said: hi"
    assert engine.released == []
    assert held.text(await held.reply("/generate", "hi")) == "You said: hi"


async def test_the_session_of_the_fastapi_app_can_be_another(session: asteady.Session) -> None:
    example = importlib.import_module("examples.fastapi_app")
    example.app.dependency_overrides[asteady.server.get_session] = lambda: session
    try:
        async with served(example.app, lifespan="off") as client:
            reply = await client.post("/generate", json={"prompt": "hi"})
            assert reply.json() == {"text": "You said: hi", "cached": False}
    finally:
        example.app.dependency_overrides.clear()
