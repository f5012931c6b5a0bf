"""Clearing namespaces, also by another process, and the life of tags."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from asteady import Session
from asteady._base.errors import InvalidRequestError
from asteady._cache.cache import TAGS_PER_ENTRY
from asteady.testing import FakeEngine
from tests.cache.helpers import Process
from tests.operate.helpers import tagged_entries, writes

pytestmark = pytest.mark.anyio


async def test_clear_removes_only_entries_without_another_tag(
    session: Session, engine: FakeEngine
) -> None:
    for path, prompt in (
        ("emails", "one"),
        ("emails/marketing", "two"),
        ("emails-old", "three"),
        ("docs", "two"),
    ):
        await session.namespace(path).generate(prompt)
    await session.generate("one")
    await session.generate("four")
    await session.namespace("emails").embed("one")
    assert await session.namespace("emails").clear() == 2
    assert await tagged_entries(session, "emails") == 0
    assert await tagged_entries(session, "emails-old") == await tagged_entries(session, "docs") == 1
    cached = [p for p in ("one", "two", "three", "four") if await session.is_cached(p)]
    assert cached == ["two", "three", "four"]
    assert await session.namespace("docs").clear() == 1
    assert not await session.is_cached("two")
    computed = len(engine.computed)
    await session.generate("one")
    assert len(engine.computed) == computed + 1


async def test_memory_does_not_serve_a_cleared_entry(session: Session, engine: FakeEngine) -> None:
    emails = session.namespace("emails")
    await emails.generate("hello")
    await emails.generate("hello")
    await emails.clear()
    assert not await session.is_cached("hello")
    await emails.generate("hello")
    assert len(engine.computed) == 2
    assert await tagged_entries(session, "emails") == 1


async def test_a_cleared_namespace_tags_an_entry_again_that_others_kept(
    session: Session, engine: FakeEngine
) -> None:
    emails, docs = session.namespace("emails"), session.namespace("docs")
    await emails.generate("hello")
    await docs.generate("hello")
    assert await emails.clear() == 0
    assert await tagged_entries(session, "emails") == 0
    await emails.generate("hello")
    assert await tagged_entries(session, "emails") == 1
    assert await docs.clear() == 0
    assert await session.is_cached("hello")
    assert len(engine.computed) == 1


async def test_clear_takes_the_full_path_of_a_namespace_above_or_below_only(
    session: Session,
) -> None:
    summer = session.namespace("emails/marketing/summer")
    await summer.generate("one")
    await session.namespace("emails").generate("two")
    emails = session.namespace("emails/marketing")
    with pytest.raises(InvalidRequestError, match="'emails/marketing/summer'"):
        await emails.clear("summer")
    assert await emails.clear("emails/marketing/summer") == 1
    assert await emails.clear("emails") == 1
    assert await tagged_entries(session, "emails") == 0


async def test_a_clear_right_after_the_tag_was_read_is_not_lost(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = session.cache.generation
    emails, docs = session.namespace("emails"), session.namespace("docs")
    for namespace in (emails, docs):
        await namespace.generate("hello")
    cache.forget_tags()  # as after a removal by another process
    tagged = (await cache.ready()).tagged

    async def late(key: str, namespace: str) -> bool:
        found = await tagged(key, namespace)
        await emails.clear()
        return found

    monkeypatch.setattr(await cache.ready(), "tagged", late)
    await emails.generate("hello")
    monkeypatch.undo()
    assert await tagged_entries(session, "emails") == 0
    await emails.generate("hello")
    assert await tagged_entries(session, "emails") == 1


async def test_a_tag_survives_a_restart_and_is_not_written_again(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Session(engine=engine) as session:
        await session.namespace("emails").generate("hello")
    async with Session(engine=FakeEngine()) as session:
        assert await tagged_entries(session, "emails") == 1
        submitted = await writes(session.cache.generation, monkeypatch)
        assert await session.namespace("emails").generate("hello", cache="only")
        assert not submitted
        counts = (await session.namespace("emails").statistics()).generation
        assert (counts.hits, counts.misses) == (1, 0)
        assert await session.namespace("emails").clear() == 1


async def test_an_evicted_entry_loses_its_tags_and_is_tagged_when_computed_again(
    engine: FakeEngine,
) -> None:
    async with Session(engine=engine, generation_cache_capacity=2) as session:
        emails = session.namespace("emails")
        await emails.generate("one")
        for number in range(6):
            await session.generate(f"a longer and longer prompt, number {number}")
        assert not await session.is_cached("one")
        assert await tagged_entries(session, "emails") == 0
        await emails.generate("one")
        assert await tagged_entries(session, "emails") == 1


async def test_an_entry_has_more_tags_in_the_store_than_memory_remembers(
    session: Session, engine: FakeEngine
) -> None:
    paths = [f"user/{number}" for number in range(3 * TAGS_PER_ENTRY)]
    for _ in range(2):
        for path in paths:
            await session.namespace(path).generate("hello")
    (entry,) = session.cache.generation.memory.by_key.values()
    assert len(entry.tags) == TAGS_PER_ENTRY
    assert len(await session.cache.namespaces("user")) == len(paths)
    assert len(engine.computed) == 1


async def test_tags_count_for_the_byte_budget(engine: FakeEngine) -> None:
    async with Session(engine=engine, generation_cache_max_size_mb=0.01) as session:
        await session.generate("another")
        for number in range(400):
            await session.namespace(f"user/{number}").generate("hello")
        statistics = (await session.cache.get_cache_stats())["generation"]
        assert statistics["total_size_bytes"] <= statistics["max_size_bytes"]
        assert statistics["evictions"]
        assert 0 < len(await session.cache.namespaces("user")) < 400


@pytest.fixture
def directory() -> Path:
    return Path(os.environ["ASTEADY_CACHE_DIR"])


async def test_an_entry_that_another_process_cleared_is_dropped_from_memory(
    session: Session, engine: FakeEngine, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, compared = await session.cache.generation.ready(), anyio.Event()
    missing = store.missing

    async def observed(keys: Sequence[str]) -> tuple[int, list[str]]:
        found = await missing(keys)
        if found[1]:
            compared.set()
        return found

    monkeypatch.setattr(store, "missing", observed)
    emails, docs = session.namespace("emails"), session.namespace("docs")
    await emails.generate("one")
    await emails.generate("two")
    await docs.generate("two")
    body = """
async with opened(directory) as manager:
    say(await manager.clear_namespace("emails"))
"""
    with Process(directory, body) as process:
        assert process.hear() == "1"
        assert process.finish() == 0
    with anyio.fail_after(60):
        await emails.generate("one")
        if len(engine.computed) == 2:
            # Still in memory; using it made the synchroniser compare the tiers at its next tick.
            await compared.wait()
            await emails.generate("one")
    assert len(engine.computed) == 3
    assert await session.cache.generation.contains(
        next(iter(session.cache.generation.memory.by_key))
    )
    await emails.generate("two")
    assert await tagged_entries(session, "emails") == 2
    assert len(engine.computed) == 3


async def test_a_tag_survives_a_kill_after_the_caller_was_answered(directory: Path) -> None:
    program = """
from asteady import Session
from asteady.testing import FakeEngine
async with Session(engine=FakeEngine(), cache_dir=directory) as session:
    for number in range(10_000):
        if number % 2:
            await session.generate(f"prompt {number}")
        await session.namespace("emails").generate(f"prompt {number}")
        say(number)
"""
    with Process(directory, program) as process:
        said = [int(process.hear()) for _ in range(41)]
        process.kill()
    database = directory / "generation_cache.db"
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    async with Session(engine=FakeEngine()) as session:
        entries = await session.namespace("emails").entries(limit=-1)
        assert len(entries) >= len(said)
        for number in said:
            assert await session.is_cached(f"prompt {number}")
        assert await session.namespace("emails").clear() == len(entries)
