"""Answers that another asteady computes are the same entries as its own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import attrs
import pytest
from starlette.applications import Starlette

import asteady
import asteady.server
from asteady.testing import FakeEngine
from tests.serving import serving

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


async def test_reasoning_and_its_log_probabilities_are_the_same(tmp_path: Path) -> None:
    def engine() -> FakeEngine:
        return FakeEngine(reasoning=lambda request: "I think so", tool_calls=calls)

    async with asteady.Session(engine=engine()) as here:
        app = Starlette()
        app.mount("/v1", asteady.server.openai(here))
        async with (
            serving(app) as address,
            asteady.Session(cache_dir=tmp_path / "there") as remote,
            asteady.Session(engine=engine(), cache_dir=tmp_path / "other") as own,
        ):
            for options in ({"logprobs": 1}, {"tools": [TOOL]}):
                other = await remote.complete("p", model=f"openai+{address}#builtin", **options)
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
