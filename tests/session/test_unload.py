"""Loading and unloading models by hand."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import asteady.blocking
from asteady import InvalidRequestError, ModelNotFoundError, Session, SessionClosedError
from asteady.testing import FakeEngine
from tests.gguf_files import write_llama
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def test_an_unloaded_model_is_gone_and_loaded_again_when_it_is_needed() -> None:
    async with Session() as session:
        first = await session.complete("hello", max_new_tokens=3, cache="bypass")
        await session.embed("hello")
        assert len(session.statistics().pools) == 2
        await session.unload("builtin")
        await session.unload("builtin")
        assert session.statistics().pools == {}
        assert await session.generate("hello", max_new_tokens=3, cache="bypass") == first.text
        assert list(session.statistics().pools) == ["generation:builtin"]


async def test_one_of_two_models(tmp_path: Path) -> None:
    other = write_llama(tmp_path / "other.gguf")
    async with Session() as session:
        await session.load("generation")
        await session.load("generation", model=other)
        await session.unload(other)
        assert list(session.statistics().pools) == ["generation:builtin"]
        await session.unload("smollm2")  # never loaded
        await session.unload()
        assert not session.statistics().pools


async def test_what_is_being_computed_is_finished_first() -> None:
    async with Session() as session:
        async with session.stream("Tell me a story", cache="bypass", max_new_tokens=40) as stream:
            chunk = await anext(stream)
            unloading = asyncio.create_task(session.unload())
            answer = await stream.read()
            assert answer.text.startswith(chunk)
            await unloading
        assert not session.statistics().pools
        same = await session.complete("Tell me a story", cache="bypass", max_new_tokens=40)
        assert same.text == answer.text


async def test_what_is_asked_for_meanwhile_is_answered() -> None:
    async with Session() as session:
        alone = await session.generate("hello", max_new_tokens=20, cache="bypass")
        async with session.stream("Tell me a story", cache="bypass", max_new_tokens=200) as stream:
            await anext(stream)
            unloading = asyncio.create_task(session.unload())
            await asyncio.sleep(0)
            assert await session.generate("hello", max_new_tokens=20, cache="bypass") == alone
        await unloading


async def test_closing_does_not_wait_for_what_unloading_waits_for() -> None:
    engine = FakeEngine()
    engine.hold()
    session = await Session(engine=engine).open()
    answering = asyncio.create_task(session.generate("never ends"))
    await engine.wait_computed(1)
    unloading = asyncio.create_task(session.unload())
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await session.aclose()
    for task in (answering, unloading):
        with pytest.raises(SessionClosedError):
            await task
    assert engine.closed


async def test_closing_at_once_frees_what_was_about_to_be_unloaded() -> None:
    engine = FakeEngine()
    session = await Session(engine=engine).open()
    await session.load("generation")
    unloading = asyncio.create_task(session.unload())
    await asyncio.sleep(0)  # it has begun, and the task that frees the model has not
    await session.aclose()
    assert engine.closed
    with pytest.raises(SessionClosedError):
        await unloading


async def test_a_caller_who_leaves_does_not_stop_it() -> None:
    engine = FakeEngine()
    engine.hold()
    async with Session(engine=engine) as session:
        answering = asyncio.create_task(session.generate("held"))
        await engine.wait_computed(1)
        unloading = asyncio.create_task(session.unload())
        await asyncio.sleep(0)
        unloading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await unloading
        engine.resume()
        assert await answering == "You said: held"
        # The session itself waits for it.
        await until(lambda: engine.closed)


async def test_wrong_arguments(tmp_path: Path) -> None:
    async with Session() as session:
        with pytest.raises(InvalidRequestError, match="needs its kind"):
            await session.load(model="builtin")
        with pytest.raises(ModelNotFoundError):
            await session.load("generation", model=tmp_path / "none.gguf")
        with pytest.raises(InvalidRequestError, match="model=''"):
            await session.unload("")
        with pytest.raises(ModelNotFoundError, match=r"no model file .*/smollm; known references"):
            await session.unload("smollm")
        with pytest.raises(ModelNotFoundError, match="hf:owner"):
            await session.unload("hf:nothing")
        await session.unload("hf:owner/repo:Q8_0")  # which is not downloaded to be unloaded


async def test_a_model_whose_file_is_gone_may_be_unloaded_again(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "model.gguf")
    async with Session() as session:
        await session.load("generation", model=path)
        path.unlink()
        await session.unload(path)
        await session.unload(path)
        assert not session.statistics().pools


def test_without_await() -> None:
    with asteady.blocking.Session() as session:
        session.load("generation")
        session.unload()
        assert not session.statistics().pools
