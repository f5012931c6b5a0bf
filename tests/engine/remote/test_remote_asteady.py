"""Answers that another asteady computes are the same entries as its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from starlette.applications import Starlette

import asteady
import asteady.server
from asteady.testing import FakeEngine
from tests.redis_server import RedisServer
from tests.serving import reserved_port, serving

pytestmark = pytest.mark.anyio

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOL = {"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}
# What two machines may differ in.
_OWN = ("model", "cost_s", "cached", "reused_tokens", "value")


def same(one: asteady.Completion, other: asteady.Completion) -> bool:
    names = [field.name for field in attrs.fields(type(one)) if field.name not in _OWN]
    return all(getattr(one, name) == getattr(other, name) for name in names)


def calls(request: asteady.GenerateRequest) -> list[tuple[str, dict[str, Any]]]:
    return [("weather", {"city": "Köln"}), ("weather", {"city": "Bonn"})]


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": "a prompt"},
        {"prompt": "of a text", "raw": True, "logprobs": 2},
        {"messages": [{"role": "system", "content": "be"}, {"role": "user", "content": "é😀"}]},
        {"prompt": "cut", "max_new_tokens": 2, "logprobs": 0},
        {"prompt": "stopped", "stop": ["said", "x"], "temperature": 0.7, "seed": 3, "top_p": 0.5},
        {"prompt": "p", "top_k": 3, "min_p": 0.1, "typical_p": 0.9, "repeat_penalty": 1.1},
        {"prompt": "p", "presence_penalty": 1, "frequency_penalty": 1, "logit_bias": {5: -100}},
        {"prompt": "p", "date": "2026-01-02", "chat_template_kwargs": {"thinking": False}},
        {"prompt": "a form", "schema": SCHEMA},
        {"prompt": "a form", "choices": ["no", "yes"], "raw": True},
        {"prompt": "a form", "regex": "[a-f]{3}"},
        {"prompt": "a form", "grammar": 'start: "a" | "b"'},
        {"prompt": "a tool", "tools": [TOOL], "tool_choice": "weather"},
        {"prompt": "a tool", "tools": [TOOL], "tool_choice": "required"},
    ],
    ids=str,
)
async def test_an_answer_is_the_same_entry(
    arguments: dict[str, Any], remote: asteady.Session
) -> None:
    async with asteady.Session(engine=FakeEngine()) as here:
        own, other = await here.complete(**arguments), await remote.complete(**arguments)
        assert same(own, other)
        async with (
            here.stream(**arguments, cache="only") as one,
            remote.stream(**arguments, cache="only") as another,
        ):
            assert one.key == another.key


async def events_of(session: asteady.Session, **arguments: Any) -> list[asteady.StreamEvent]:
    async with session.stream(**arguments) as stream:
        return [event async for event in stream.events()]


async def test_reasoning_and_its_log_probabilities_are_the_same(tmp_path: Path) -> None:
    def engine() -> FakeEngine:
        return FakeEngine(reasoning=lambda request: "I think so", tool_calls=calls)

    async with (
        asteady_of(engine(), tmp_path / "there") as address,
        asteady.Session(generation_model=f"openai+{address}#builtin") as remote,
        asteady.Session(engine=engine(), cache_dir=tmp_path / "other") as own,
    ):
        for options in ({"logprobs": 1}, {"tools": [TOOL]}):
            events = await events_of(remote, prompt="p", **options)
            assert events == await events_of(own, prompt="p", **options)
            other = await remote.complete("p", **options)
            assert same(await own.complete("p", **options), other)
        assert other.reasoning_chunks
        assert len(other.tool_calls) == 2


async def test_a_vector_has_the_same_bytes(remote: asteady.Session) -> None:
    async with asteady.Session(engine=FakeEngine()) as here:
        for options in ({}, {"dimensions": 3}, {"mode": "query"}, {"truncate": True}):
            own = await here.embedding("a text", **options)
            other = await remote.embedding("a text", **options)
            assert bytes(own.vector) == bytes(other.vector)
            assert (own.tokens, own.fingerprint) == (other.tokens, other.fingerprint)


async def test_a_stream_has_the_chunks_of_the_server_as_they_come(
    remote: asteady.Session, engine: FakeEngine
) -> None:
    await remote.generate("first")
    engine.hold()
    async with remote.stream("one two") as stream:
        engine.step(1)
        assert await anext(stream) == "You "
        engine.step(1)
        assert await anext(stream) == "said: "
        engine.resume()
        assert [chunk async for chunk in stream] == ["one ", "two"]


async def test_a_caller_that_leaves_frees_the_place_on_the_server(
    remote: asteady.Session, engine: FakeEngine
) -> None:
    await remote.generate("first")
    engine.hold()
    task = asyncio.create_task(remote.generate("never answered"))
    await engine.wait_computed(2)
    task.cancel()
    await engine.wait_released(1)
    with pytest.raises(asyncio.CancelledError):
        await task
    engine.resume()
    assert await remote.generate("next") == "You said: next"


async def test_at_most_workers_answers_are_asked_for_at_once(tmp_path: Path) -> None:
    engine = FakeEngine()
    async with asteady.Session(engine=engine, workers=8) as there:
        app = Starlette()
        app.mount("/v1", asteady.server.openai(there))
        async with (
            serving(app) as address,
            asteady.Session(
                generation_model=f"openai+{address}", cache_dir=tmp_path / "here", workers=3
            ) as remote,
        ):
            engine.hold()
            asking = [asyncio.create_task(remote.generate(f"prompt {n}")) for n in range(12)]
            await engine.wait_computed(3)
            engine.resume()
            await asyncio.gather(*asking)
            assert engine.peak == 3


async def test_a_cut_form_is_the_same_error(remote: asteady.Session) -> None:
    async with asteady.Session(engine=FakeEngine(lambda request: "1 2 3")) as here:
        for session in (here, remote):
            with pytest.raises(asteady.IncompleteAnswerError) as caught:
                await session.complete("p", schema={"type": "array"}, max_new_tokens=1)
            assert caught.value.completion_tokens == 1


@asynccontextmanager
async def asteady_of(
    engine: FakeEngine, directory: Path, *, port: int = 0, wrap: Any = None
) -> AsyncIterator[str]:
    """The address of a server on this engine."""
    async with asteady.Session(engine=engine, cache_dir=directory) as there:
        app = Starlette()
        app.mount("/v1", asteady.server.openai(there))
        async with serving(app if wrap is None else wrap(app), port=port) as address:
            yield address
            engine.resume()


@pytest.mark.parametrize("model", ["builtin", "builtin@1"])
async def test_a_server_with_the_same_cache_does_not_wait_for_who_asks_it(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    # Any two keys have the same lock, as one in a thousand has.
    monkeypatch.setattr("asteady._cache.store.locks.SHARDS", 1)
    monkeypatch.setenv("ASTEADY_SHARED_CACHE", redis_server.url)
    monkeypatch.setenv("ASTEADY_SHARED_CACHE_TIMEOUT_S", "60")
    engine = FakeEngine()
    async with asteady_of(engine, tmp_path) as address:
        reference = f"openai+{address}#{model}"
        async with asteady.Session(
            generation_model=reference, embedding_model=reference, cache_dir=tmp_path
        ) as remote:
            with anyio.fail_after(100):
                await remote.generate("a prompt")
                await remote.generate("of a text", raw=True)
                await remote.generate(messages=[{"role": "user", "content": "of a message"}])
                await remote.embed([f"text {number}" for number in range(20)])
    assert len(engine.computed) == 23


async def test_a_server_that_understands_another_request_is_refused(tmp_path: Path) -> None:
    def wrap(app: Any) -> Any:
        async def other(scope: Any, receive: Any, send: Any) -> None:
            async def send_other(message: Any) -> None:
                headers = message.get("headers", [])
                message["headers"] = [
                    (name, b"0" * 64 if name == b"x-asteady-key" else value)
                    for name, value in headers
                ]
                await send(message)

            await app(scope, receive, send_other if scope["type"] == "http" else send)

        return other

    async with (
        asteady_of(FakeEngine(), tmp_path / "there", wrap=wrap) as address,
        asteady.Session() as session,
    ):
        for call in (session.generate, session.embed):
            with pytest.raises(asteady.EngineError, match="another version of asteady"):
                await call("p", model=f"openai+{address}#builtin")
        # With a revision its answers have keys of their own.
        model = f"openai+{address}#builtin@1"
        assert await session.generate("p", model=model) == "You said: p"


async def test_a_server_with_another_model_is_not_asked(tmp_path: Path) -> None:
    right, wrong = FakeEngine(), FakeEngine(fingerprint="other")
    async with (
        asteady_of(right, tmp_path / "right") as first,
        asteady_of(wrong, tmp_path / "wrong") as second,
        asteady.Session(generation_model=f"openai+{first},{second}#builtin", workers=2) as session,
    ):
        right.hold()
        one = asyncio.create_task(session.generate("one"))
        await right.wait_computed(1)
        # The other server is less busy.
        two = asyncio.create_task(session.generate("two"))
        await right.wait_computed(2)
        right.resume()
        assert (await one, await two) == ("You said: one", "You said: two")
    assert not wrong.computed


async def test_a_model_that_is_replaced_has_other_keys(tmp_path: Path) -> None:
    with reserved_port() as port:
        async with AsyncExitStack() as stack:
            old = asteady_of(FakeEngine(), tmp_path / "a", port=port)
            address = await stack.enter_async_context(old)
            async with asteady.Session(generation_model=f"openai+{address}") as session:
                before = await session.complete("p")
                await stack.aclose()
                async with asteady_of(FakeEngine(fingerprint="new"), tmp_path / "b", port=port):
                    after = await session.complete("q")
                    assert (before.fingerprint, after.fingerprint) == ("fake-1", "new")
                    assert (await session.complete("p")).fingerprint == "new"


async def test_a_request_of_an_isolated_namespace_is_answered(remote: asteady.Session) -> None:
    isolated = remote.namespace("tenant", isolated=True)
    assert await isolated.generate("p") == "You said: p"
    assert not await remote.is_cached("p")


async def test_tokens_are_counted_through_a_chain_of_servers(
    remote: asteady.Session, tmp_path: Path
) -> None:
    app = Starlette()
    app.mount(
        "/v1", asteady.server.openai(remote, models={"far": remote.settings.generation_model})
    )
    async with (
        serving(app) as address,
        asteady.Session(
            generation_model=f"openai+{address}#far", cache_dir=tmp_path / "far"
        ) as session,
        asteady.Session(engine=FakeEngine()) as here,
    ):
        texts = ["one", "one two three"]
        assert await session.count_tokens(texts) == await here.count_tokens(texts)
        with pytest.raises(asteady.ModelCapabilityError, match="count_tokens"):
            await session.tokenize("one")
