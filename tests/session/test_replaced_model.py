"""A model file that is replaced: every answer is stored under the key of what computed it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from asteady import EngineError, ModelChangedError, Session
from asteady._base.requests import Kind
from asteady._engine.api import Engine
from asteady._session.generation import context_of
from asteady._session.models import engine_source_override
from asteady.testing import FakeEngine
from tests.gguf_files import write_bert, write_llama
from tests.session.test_idle import IDLE_S, loaded
from tests.waiting import until

pytestmark = pytest.mark.anyio

PROMPTS = [f"prompt {number}" for number in range(3)]
TOKENS = 12


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models of one size."""
    folder = tmp_path_factory.mktemp("two")
    one = write_llama(folder / "one.gguf", seed=1)
    other = write_llama(folder / "other.gguf", seed=2)
    assert one.stat().st_size == other.stat().st_size
    return one, other


@pytest.fixture
async def truth(files: tuple[Path, Path], tmp_path: Path) -> dict[str, tuple[str, str]]:
    """What the two models answer to each prompt, each alone in its own cache."""
    answers = []
    for number, file in enumerate(files):
        async with new_session(file, cache_dir=tmp_path / f"truth {number}") as session:
            answers.append([await session.generate(prompt, **OPTIONS) for prompt in PROMPTS])
    found = dict(zip(PROMPTS, zip(*answers, strict=True), strict=True))
    assert all(one != other for one, other in found.values())
    return found


OPTIONS: dict[str, Any] = {"max_new_tokens": TOKENS}


def new_session(path: Path, **settings: Any) -> Session:
    return Session(generation_model=str(path), probe=False, workers=1, **settings)


def by_renaming(path: Path, new: Path) -> None:
    shutil.copy(new, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def by_a_link(path: Path, new: Path) -> None:
    link = path.with_suffix(".link")
    link.symlink_to(new)
    os.replace(link, path)


def in_place(path: Path, new: Path) -> None:
    """As ``dd conv=notrunc`` does."""
    if path.is_symlink():
        by_renaming(path, new)
        return
    with path.open("r+b") as stream:
        stream.write(new.read_bytes())


def by_truncating(path: Path, new: Path) -> None:
    """As ``cp`` does."""
    shutil.copyfile(new, path)


def with_the_old_times(path: Path, new: Path) -> None:
    """As an image whose files all have one time, or ``rsync --inplace --times``."""
    before = path.stat()
    in_place(path, new)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


Replace = Callable[[Path, Path], None]
WAYS = [by_renaming, by_a_link, in_place, by_truncating, with_the_old_times]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def replace(request: pytest.FixtureRequest) -> Replace:
    way: Replace = request.param
    return way


@pytest.fixture
def model(files: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(files[0], tmp_path / "model.gguf"))


async def stored(path: Path) -> dict[str, str | None]:
    """What a new session finds in the cache for this file, by prompt."""
    async with new_session(path) as session:
        return {
            prompt: await session.generate(prompt, **OPTIONS, cache="only")
            if await session.is_cached(prompt, **OPTIONS)
            else None
            for prompt in PROMPTS
        }


async def test_what_is_computed_after_the_file_was_identified_is_stored_as_what_it_is(
    model: Path,
    files: tuple[Path, Path],
    truth: dict[str, tuple[str, str]],
    replace: Replace,
) -> None:
    async with new_session(model) as session:
        assert not await session.is_cached(PROMPTS[0], **OPTIONS)  # identified, and not loaded
        replace(model, files[1])
        for prompt in PROMPTS:
            assert await session.generate(prompt, **OPTIONS) == truth[prompt][1]
            assert await session.is_cached(prompt, **OPTIONS)
    assert await stored(files[1]) == {prompt: truth[prompt][1] for prompt in PROMPTS}
    assert await stored(files[0]) == dict.fromkeys(PROMPTS)


async def test_a_file_of_the_same_size_and_times_is_another_model(
    files: tuple[Path, Path], tmp_path: Path, truth: dict[str, tuple[str, str]]
) -> None:
    path = tmp_path / "model.gguf"
    for number, file in enumerate(files):
        by_renaming(path, Path(file))
        os.utime(path, ns=(1, 1))
        async with new_session(path) as session:
            for prompt in PROMPTS:
                assert await session.generate(prompt, **OPTIONS) == truth[prompt][number]


@pytest.mark.parametrize("way", [by_renaming, by_a_link], ids=lambda way: way.__name__)
async def test_a_loaded_model_outlives_its_name(
    model: Path, files: tuple[Path, Path], truth: dict[str, tuple[str, str]], way: Replace
) -> None:
    async with new_session(model) as session:
        assert await session.generate(PROMPTS[0], **OPTIONS) == truth[PROMPTS[0]][0]
        way(model, files[1])
        assert await session.generate(PROMPTS[1], **OPTIONS) == truth[PROMPTS[1]][0]
    assert (await stored(files[0]))[PROMPTS[1]] == truth[PROMPTS[1]][0]
    assert await stored(files[1]) == dict.fromkeys(PROMPTS)


@pytest.mark.parametrize(
    "way", [in_place, with_the_old_times, by_truncating], ids=lambda way: way.__name__
)
async def test_a_loaded_model_that_was_written_to_is_loaded_anew(
    model: Path,
    files: tuple[Path, Path],
    truth: dict[str, tuple[str, str]],
    way: Replace,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with new_session(model) as session:
        assert await session.generate(PROMPTS[0], **OPTIONS) == truth[PROMPTS[0]][0]
        way(model, files[1])
        assert await session.generate(PROMPTS[1], **OPTIONS) == truth[PROMPTS[1]][1]
        # Not what is in memory under these arguments.
        assert await session.generate(PROMPTS[0], **OPTIONS) == truth[PROMPTS[0]][1]
        assert "was written to while the model was in use" in caplog.text
        assert len(loaded(session)) == 1
    assert await stored(files[1]) == {
        **{prompt: truth[prompt][1] for prompt in PROMPTS[:2]},
        PROMPTS[2]: None,
    }
    assert await stored(files[0]) == {
        PROMPTS[0]: truth[PROMPTS[0]][0],
        **dict.fromkeys(PROMPTS[1:]),
    }


async def test_a_model_that_is_loaded_again_may_be_another_one(
    model: Path, files: tuple[Path, Path], truth: dict[str, tuple[str, str]], replace: Replace
) -> None:
    async with new_session(model, idle_unload_s=IDLE_S) as session:
        assert await session.generate(PROMPTS[0], **OPTIONS) == truth[PROMPTS[0]][0]
        await until(lambda: not loaded(session))
        replace(model, files[1])
        for prompt in (*PROMPTS[1:], PROMPTS[0]):
            assert await session.generate(prompt, **OPTIONS) == truth[prompt][1]
        await until(lambda: not loaded(session))
        replace(model, files[0])
        # A second time, and back.
        assert (
            await session.generate(PROMPTS[1], **OPTIONS, cache="refresh") == truth[PROMPTS[1]][0]
        )
        for prompt in PROMPTS:
            assert await session.generate(prompt, **OPTIONS) == truth[prompt][0]
    assert await stored(files[0]) == {prompt: truth[prompt][0] for prompt in PROMPTS}
    assert await stored(files[1]) == {prompt: truth[prompt][1] for prompt in PROMPTS}


async def test_streams_and_namespaces_follow_the_model(
    model: Path, files: tuple[Path, Path], truth: dict[str, tuple[str, str]]
) -> None:
    async with new_session(model) as session:
        namespace = session.namespace("notes")
        assert not await namespace.is_cached(PROMPTS[0], **OPTIONS)
        by_renaming(model, files[1])
        async with namespace.stream(PROMPTS[0], **OPTIONS) as stream:
            assert "".join([chunk async for chunk in stream]) == truth[PROMPTS[0]][1]
        assert [entry.key for entry in await session.cache.generation.entries()] == [
            entry.key for entry in await session.cache.generation.entries(namespace="notes")
        ]


async def test_embeddings_are_computed_again_without_an_error(tmp_path: Path) -> None:
    path = write_bert(tmp_path / "model.gguf", seed=1)
    other = write_bert(tmp_path / "other.gguf", seed=2)
    async with Session(embedding_model=str(other)) as session:
        expected = bytes(await session.embed("text"))
    async with Session(embedding_model=str(path)) as session:
        await session.embed("another")
        in_place(path, other)
        assert bytes(await session.embed("text")) == expected


# -- on fake engines, at every moment --------------------------------------------------------------


class Reloading:
    """A source that gives the next engine at each load, and identifies the last one given."""

    def __init__(self, *engines: FakeEngine) -> None:
        self.engines = list(engines)
        self.given: list[FakeEngine] = []

    def fingerprint(self, kind: Kind, reference: str) -> str:
        return self.engines[0].fingerprint

    def load(self, kind: Kind, reference: str) -> Engine:
        self.given.append(self.engines.pop(0))
        return self.given[-1]


def written_to(_: object) -> str:
    raise ModelChangedError("model.gguf was written to while the model was in use")


@pytest.fixture
async def reloading() -> AsyncIterator[tuple[Session, Reloading]]:
    source = Reloading(
        FakeEngine(written_to, fingerprint="one"), FakeEngine(lambda _: "ok", fingerprint="two")
    )
    with engine_source_override(lambda _: source):
        session = Session(workers=2)
    async with session:
        yield session, source


async def test_what_was_computed_while_the_file_was_written_to_is_dropped(
    reloading: tuple[Session, Reloading],
) -> None:
    session, source = reloading
    answer = await session.complete("hi")
    assert (answer.text, answer.fingerprint) == ("ok", "two")
    await until(lambda: source.given[0].closed)
    assert [entry.fingerprint for entry in await session.cache.generation.entries()] == ["two"]
    assert context_of(session).models.statistics()["generation:builtin"].failed == 0


async def test_a_model_is_given_up_in_the_middle_of_an_answer() -> None:
    engine = FakeEngine(lambda _: "a b c", fingerprint="one")
    source = Reloading(engine, FakeEngine(lambda _: "ok", fingerprint="two"))
    with engine_source_override(lambda _: source):
        session = Session(workers=1)
    engine.hold()
    async with session, session.stream("read") as stream:
        engine.step()
        assert await anext(aiter(stream)) == "a "
        waiting = asyncio.create_task(session.generate("not read"))
        await until(lambda: session.statistics().pools["generation:builtin"].pending == 1)
        models = context_of(session).models
        models._give_up(("generation", "builtin"), models._pools["generation", "builtin"])
        # Chunks that were read cannot be taken back.
        with pytest.raises(EngineError, match="written to while it was in use: call again"):
            await stream.read()
        assert await waiting == "ok"
        assert await session.generate("read") == "ok"
        engine.resume()


async def test_chunks_that_nobody_read_are_computed_again() -> None:
    engine = FakeEngine(lambda _: "a b c", fingerprint="one")
    source = Reloading(engine, FakeEngine(lambda _: "ok", fingerprint="two"))
    with engine_source_override(lambda _: source):
        session = Session(workers=1)
    engine.hold()
    async with session, session.stream("hi") as watching:
        engine.step()
        assert await anext(aiter(watching)) == "a "
        models = context_of(session).models
        (flight,) = context_of(session).flights._by_key.values()
        flight._read = False  # as if it had only been waited for
        models._give_up(("generation", "builtin"), models._pools["generation", "builtin"])
        assert await session.generate("hi") == "ok"
        assert flight.chunks == ["ok"]
        engine.resume()


async def test_a_file_that_is_written_to_all_the_time_is_an_error(tmp_path: Path) -> None:
    source = Reloading(*(FakeEngine(written_to, fingerprint=str(n)) for n in range(9)))
    with engine_source_override(lambda _: source):
        session = Session()
    async with session:
        with pytest.raises(ModelChangedError, match=r"model\.gguf was written to"):
            await session.generate("hi")
        assert len(source.given) == 3
        assert await session.cache.generation.keys() == []
