"""A model whose digest is not known is loaded while its file is read for it."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asteady import ModelFormatError, ModelNotFoundError, Session, SessionClosedError
from asteady._engine import loader
from asteady._engine.llama import lib, weights
from asteady._engine.models import resolve
from tests.gguf_files import write_llama
from tests.session.test_replaced_model import by_a_link, by_renaming, in_place, with_the_old_times

pytestmark = pytest.mark.anyio

LIMIT_S = 60


class Gate:
    """Digests wait until it is opened; counts what is read, loaded and freed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = threading.Event()
        self.loaded = threading.Event()
        self.freed = threading.Event()
        self.reads = self.loads = self.frees = 0
        self.read_error: Exception | None = None
        self.load_error: Exception | None = None
        digest, load, free = resolve._digest, lib.load_model, weights.Weights.close

        def digest_behind(*given: Any) -> str:
            self.reads += 1
            assert self.opened.wait(LIMIT_S)
            if self.read_error is not None:
                raise self.read_error
            return digest(*given)

        def load_noted(*given: Any, **options: Any) -> Any:
            self.loads += 1
            try:
                if self.load_error is not None:
                    raise self.load_error
                return load(*given, **options)
            finally:
                self.loaded.set()

        def free_noted(freed: weights.Weights) -> None:
            free(freed)
            self.frees += 1
            self.freed.set()

        monkeypatch.setattr(resolve, "_digest", digest_behind)
        monkeypatch.setattr(weights, "load_model", load_noted)
        monkeypatch.setattr(weights.Weights, "close", free_noted)

    async def wait(self, event: threading.Event) -> None:
        assert await asyncio.to_thread(event.wait, LIMIT_S)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.opened.set()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "model.gguf", seed=1)


def new_session(path: Path, **settings: Any) -> Session:
    return Session(generation_model=str(path), probe=False, workers=1, **settings)


async def answer(session: Session) -> tuple[str, str]:
    found = await session.complete("hi", max_new_tokens=6)
    return found.text, found.fingerprint


async def test_the_weights_are_loaded_while_the_file_is_read(path: Path, gate: Gate) -> None:
    async with new_session(path) as session:
        asking = asyncio.create_task(answer(session))
        await gate.wait(gate.loaded)
        assert not asking.done()
        assert {activity.phase for activity in session.statistics().activities} == {
            "identifying",
            "loading",
        }
        gate.opened.set()
        found = await asking
        assert (gate.reads, gate.loads, gate.frees) == (1, 1, 0)
    async with new_session(path) as session:
        again = await session.complete("hi", max_new_tokens=6, cache="bypass")
    assert (again.text, again.fingerprint) == found


async def test_loading_by_hand_reads_the_file_meanwhile(path: Path, gate: Gate) -> None:
    async with new_session(path) as session:
        loading = asyncio.create_task(session.load("generation"))
        await gate.wait(gate.loaded)
        assert not loading.done()
        gate.opened.set()
        await loading
        await answer(session)
    assert (gate.reads, gate.loads) == (1, 1)


@pytest.mark.parametrize(
    "replace", [by_renaming, in_place, with_the_old_times], ids=lambda way: way.__name__
)
async def test_the_fingerprint_is_that_of_what_is_loaded(
    path: Path, gate: Gate, tmp_path: Path, replace: Callable[[Path, Path], None]
) -> None:
    other = write_llama(tmp_path / "other.gguf", seed=2)
    async with new_session(path) as session:
        asking = asyncio.create_task(answer(session))
        await gate.wait(gate.loaded)
        replace(path, other)
        gate.opened.set()
        found = await asking
        # The old file once, and the new one once.
        assert (gate.loads, gate.frees) == (2, 1)
        (entry,) = await session.cache.generation.entries()
    assert entry.fingerprint == found[1]
    async with new_session(other, cache_dir=tmp_path / "fresh") as session:
        assert await answer(session) == found


async def test_what_was_loaded_instead_of_what_was_read_is_freed(
    path: Path, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file changes: only the name leads to another one when the weights are loaded."""
    other = write_llama(tmp_path / "other.gguf", seed=2)
    link = tmp_path / "link.gguf"
    link.symlink_to(path)

    def find_after_a_switch(*given: Any, **options: Any) -> Any:
        if not gate.loads:
            by_a_link(link, other)
        return resolve.find_model(*given, **options)

    monkeypatch.setattr(loader, "find_model", find_after_a_switch)
    async with new_session(link) as session:
        asking = asyncio.create_task(answer(session))
        await gate.wait(gate.loaded)
        gate.opened.set()
        found = await asking
        assert (gate.reads, gate.loads, gate.frees) == (2, 2, 1)
        (entry,) = await session.cache.generation.entries()
    assert entry.fingerprint == found[1]
    async with new_session(other, cache_dir=tmp_path / "fresh") as session:
        assert await answer(session) == found


async def test_a_failed_load_is_the_error_of_the_request(path: Path, gate: Gate) -> None:
    gate.load_error = ModelFormatError("llama.cpp cannot load it")
    async with new_session(path) as session:
        asking = asyncio.create_task(answer(session))
        await gate.wait(gate.loaded)
        gate.opened.set()
        with pytest.raises(ModelFormatError, match=r"llama\.cpp cannot load it"):
            await asking
        gate.load_error = None
        await answer(session)
    assert gate.reads == 1


async def test_a_failed_read_frees_the_weights_and_is_tried_again(path: Path, gate: Gate) -> None:
    gate.read_error = OSError("disk error")
    async with new_session(path) as session:
        asking = asyncio.create_task(answer(session))
        await gate.wait(gate.loaded)
        gate.opened.set()
        with pytest.raises(ModelNotFoundError, match="disk error"):
            await asking
        await gate.wait(gate.freed)
        gate.read_error = None
        await answer(session)
    assert gate.frees == gate.loads


async def test_a_session_may_be_closed_meanwhile(path: Path, gate: Gate) -> None:
    async with new_session(path) as session:
        asking = asyncio.create_task(answer(session))
        await gate.wait(gate.loaded)
    with pytest.raises(SessionClosedError):
        await asking
    assert gate.frees == 0
    gate.opened.set()
    await gate.wait(gate.freed)
    assert (gate.loads, gate.frees) == (1, 1)


async def test_what_is_in_the_cache_loads_nothing_once_the_digest_is_known(
    path: Path, gate: Gate
) -> None:
    gate.opened.set()
    async with new_session(path) as session:
        found = await answer(session)
    assert gate.loads == 1
    async with new_session(path) as session:
        assert await answer(session) == found
    assert (gate.reads, gate.loads) == (1, 1)


async def test_what_computes_nothing_loads_nothing(path: Path, gate: Gate, tmp_path: Path) -> None:
    gate.opened.set()
    async with new_session(path) as session:
        found = await answer(session)
        (tmp_path / "again").mkdir()
    same = Path(shutil.copy(path, tmp_path / "again" / "model.gguf"))
    async with new_session(same) as session:
        assert await session.is_cached("hi", max_new_tokens=6)
        assert await session.generate("hi", max_new_tokens=6, cache="only") == found[0]
    other = Path(shutil.copy(path, tmp_path / "again" / "other.gguf"))
    async with new_session(other) as session:
        assert await session.generate("hi", max_new_tokens=6, cache="only") == found[0]
    assert (gate.reads, gate.loads) == (3, 1)
