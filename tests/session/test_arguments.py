"""Arguments that are not plain: numbers of numpy, paths of models, messages in the wrong place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Coroutine
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import asteady
from asteady import InvalidRequestError, ModelFormatError, Session, SessionError
from asteady.testing import FakeEngine
from tests.gguf_files import write_bert, write_llama

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    write_llama(directory / "one.gguf")
    write_llama(directory / "two.gguf", seed=7)
    write_bert(directory / "bert.gguf")
    return directory


async def test_a_seed_of_numpy_finds_the_entry_of_the_plain_one(
    session: Session, engine: FakeEngine
) -> None:
    first = await session.complete("hi", seed=7, temperature=0.5)
    for seed in (np.int64(7), np.uint32(7)):
        again = await session.complete("hi", seed=seed, temperature=np.float64(0.5))
        assert again.cached
        assert again.text == first.text
    await session.complete("cold", seed=np.int64(3))
    assert await session.is_cached("cold", seed=3)
    assert len(engine.computed) == 2


async def test_numbers_of_other_types_and_none_are_the_plain_request(
    session: Session, engine: FakeEngine
) -> None:
    answer = await session.complete("hi", temperature=0.5, logit_bias={5: 0.25})
    same: list[dict[str, Any]] = [
        {"temperature": Decimal("0.5"), "logit_bias": {np.int64(5): Fraction(1, 4)}},
        {"temperature": np.array(0.5), "logit_bias": {"5": np.float16(0.25)}},
        {"temperature": np.float32(0.5), "logit_bias": {5: 0.25}, "top_k": np.array(0)},
        {"temperature": 0.5, "logit_bias": {5: 0.25}, "seed": None, "top_p": None, "stop": None},
        {"temperature": 0.5, "logit_bias": {5: 0.25}, "max_new_tokens": None, "raw": None},
    ]
    for options in same * 2:
        assert await session.is_cached("hi", **options)
        again = await session.complete("hi", **options)
        assert again.cached
        assert again.seed == 42
        assert again.text == answer.text
    assert len(engine.computed) == 1


async def test_numbers_with_the_same_bytes_are_no_warm_hits_of_each_other() -> None:
    engine = FakeEngine(lambda request: f"{request.temperature}")
    smallest: Any = np.float64(5e-324)
    one: Any = np.int64(1)
    assert smallest.tobytes() == one.tobytes()
    async with Session(engine=engine) as session:
        assert await session.generate("hi", temperature=one) == "1.0"
        assert await session.generate("hi", temperature=smallest) == "5e-324"
        assert await session.generate("hi", temperature=one) == "1.0"
        with pytest.raises(InvalidRequestError, match="temperature"):
            await session.generate("hi", temperature=one.tobytes())
        nested: Any = {"logit_bias": {np.int64(1): np.float64(2)}}
        await session.generate("hi", **nested)
        as_bytes: Any = {one.tobytes(): np.float64(2).tobytes()}
        with pytest.raises(InvalidRequestError, match="logit_bias"):
            await session.generate("hi", logit_bias=as_bytes)


async def test_a_path_is_a_model_in_settings_and_calls(models: Path) -> None:
    async with Session(
        generation_model=models / "one.gguf", embedding_model=models / "bert.gguf", probe=False
    ) as session:
        answer = await session.complete("hi", max_new_tokens=2)
        assert answer.model == str(models / "one.gguf")
        given = await session.complete("hi", max_new_tokens=2, model=models / "one.gguf")
        assert given.cached
        assert given.fingerprint == answer.fingerprint
        assert (await session.embed("hi", model=models / "bert.gguf")).shape
        async with session.stream("hi", max_new_tokens=2, model=models / "two.gguf") as stream:
            assert (await stream.read()).model == str(models / "two.gguf")
        assert await session.is_cached("hi", max_new_tokens=2, model=models / "two.gguf")
        report = await session.warm(["hi"], model=models / "two.gguf", max_new_tokens=2)
        assert report.already_cached == 1


async def test_a_relative_model_outlives_a_change_of_directory(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file of the same name elsewhere must not answer in its place.
    shutil.copy(models / "two.gguf", tmp_path / "one.gguf")
    monkeypatch.chdir(models)
    async with Session(generation_model="one.gguf", probe=False) as session:
        here = await session.complete("hi", max_new_tokens=2, model="one.gguf")
        monkeypatch.chdir(tmp_path)
        for model in (None, "one.gguf", Path("one.gguf"), str(models / "one.gguf")):
            answer = await session.complete("other", max_new_tokens=2, model=model)
            assert answer.fingerprint == here.fingerprint
        assert (await session.complete("hi", max_new_tokens=2, model="one.gguf")).cached


async def test_a_directory_that_is_gone_is_named(tmp_path: Path) -> None:
    before = os.getcwd()
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    try:
        gone.rmdir()
        async with Session(engine=FakeEngine()) as session:
            assert await session.generate("hi")
            with pytest.raises(InvalidRequestError, match="the current directory is gone"):
                await session.generate("hi", model="one.gguf")
            os.chdir(before)
            assert await session.generate("hi", model="one.gguf")
    finally:
        os.chdir(before)


@pytest.mark.parametrize("model", [b"one.gguf", 7, "", " ", "a\0b", "\ud800", "~nosuchuser/x"])
async def test_what_is_no_model_is_named(session: Session, model: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"model=.* is not allowed") as caught:
        await session.generate("hi", model=model)
    str(caught.value).encode()


async def test_the_root_directory_is_no_model() -> None:
    async with Session(probe=False) as session:
        for model in ("/", "//"):
            with pytest.raises(ModelFormatError, match=r"name a \.gguf file"):
                await session.generate("hi", model=model)


async def test_a_list_in_place_of_a_prompt_is_told_of_messages(session: Session) -> None:
    wrong: Any = [{"role": "user", "content": "hi"}]
    for call in (session.generate(wrong), session.complete(wrong), asteady.generate(wrong)):
        with pytest.raises(InvalidRequestError, match=r"messages=\[\.\.\.\]"):
            await call


def without_a_loop(call: Coroutine[Any, Any, object]) -> None:
    """As under Trio: a coroutine that runs, but not on an event loop of asyncio."""
    with pytest.raises(SessionError, match="needs asyncio"):
        call.send(None)
    call.close()


@pytest.mark.filterwarnings("error")
def test_where_no_loop_of_asyncio_runs_the_error_says_so() -> None:
    for call in (
        Session().open(),
        asteady.generate("hi"),
        asteady.embed("hi"),
        asteady.stream("hi").__aenter__(),
        asteady.aclose(),
    ):
        without_a_loop(call)
