"""Entries go from one cache to another through a file, whole or not at all."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from asteady._base.errors import SessionNotOpenError, StoreError
from asteady._base.requests import TokenLogprob
from asteady._cache import transfer as _transfer
from asteady._cache.manager import CacheManager
from asteady._cache.store import transaction as _transaction
from tests.cache.helpers import (
    Process,
    change,
    completion,
    embedding,
    fill,
    key_of,
    opened,
    settings,
)

pytestmark = pytest.mark.anyio


# -- there and back --------------------------------------------------------------------------------


async def test_all_that_was_exported_is_there_after_the_import(
    manager: CacheManager, tmp_path: Path
) -> None:
    logprobs = (TokenLogprob(token_id=1, token=b"\xff", logprob=-0.1, top=((1, b"\xff", -0.1),)),)
    told = completion(
        "ünï\ncode",
        chunks=("ünï", "\n", "code"),
        reasoning="I séé",
        reasoning_chunks=("I", " séé"),
        reasoning_tokens=3,
        logprobs=logprobs,
    )
    path = tmp_path / "export.db"
    async with opened(tmp_path / "other") as other:
        await other.generation.put(key_of("told"), told)
        await other.generation.put(key_of("empty"), completion(""))
        await other.embedding.put(key_of("v"), embedding(0.6, 0.8))
        done = await other.export_entries(path)
    assert (done.generation, done.embedding, done.path) == (2, 1, path)
    assert done.size_bytes == path.stat().st_size
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(child.name for child in tmp_path.iterdir()) == ["caches", "export.db", "other"]

    merged = await manager.import_entries(path)
    assert (merged["generation"].entries, merged["generation"].added) == (2, 2)
    assert (merged["embedding"].entries, merged["embedding"].added) == (1, 1)
    found = await manager.generation.get(key_of("told"))
    assert found is not None
    assert found == attrs.evolve(told, cached=True)
    vector = await manager.embedding.get(key_of("v"))
    assert vector is not None
    assert vector.vector.tolist() == embedding(0.6, 0.8).vector.tolist()


async def test_an_import_is_still_there_after_a_restart(export: Path, directory: Path) -> None:
    async with opened(directory) as manager:
        await manager.import_entries(export)
    async with opened(directory) as manager:
        assert await manager.generation.keys() == sorted(key_of(n) for n in range(3))
        stats = await manager.get_cache_stats()
        assert stats["generation"]["size"] == 3
        # The total that the budgets are compared with is exact.
        sizes = [entry.size_bytes for entry in await manager.generation.entries(-1)]
        assert stats["generation"]["total_size_bytes"] == sum(sizes)


async def test_a_second_import_of_the_same_file_changes_no_answer(
    manager: CacheManager, export: Path
) -> None:
    await manager.import_entries(export)
    first = await manager.generation.entries(-1)
    again = await manager.import_entries(export)
    assert (again["generation"].known, again["generation"].added) == (3, 0)
    for one, other in zip(first, await manager.generation.entries(-1), strict=True):
        assert (one.key, one.touches) == (other.key, other.touches)
        assert other.priority == pytest.approx(one.priority)


async def test_an_export_is_made_while_another_process_writes(
    manager: CacheManager, tmp_path: Path
) -> None:
    body = """
async with opened(directory) as manager:
    n = 0
    while True:
        await manager.generation.put(key_of(n), completion(f"answer {n}"))
        n += 1
        if n == 10:
            say("writing")
"""
    path = tmp_path / "export.db"
    with Process(manager.directory, body) as other:
        assert other.hear() == "writing"
        counts = [(await manager.export_entries(path)).generation for _ in range(3)]
        other.kill()
    assert counts[0] >= 10
    async with opened(tmp_path / "third") as third:
        assert (await third.import_entries(path))["generation"].added == counts[-1]


async def test_an_import_is_seen_by_another_process(export: Path, manager: CacheManager) -> None:
    body = f"""
async with opened(directory) as manager:
    await manager.import_entries({str(export)!r})
    say("imported")
"""
    assert await manager.generation.get(key_of(1)) is None
    with Process(manager.directory, body) as other:
        assert other.hear() == "imported"
        assert other.finish() == 0
    found = await manager.generation.get(key_of(1))
    assert found is not None
    assert found.text == "answer 1"


async def test_answers_of_any_size_are_written_as_they_come(
    manager: CacheManager, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_transaction, "MERGE_BUFFER_BYTES", 0)
    await manager.import_entries(export)
    for n in range(3):
        found = await manager.generation.get(key_of(n))
        assert found is not None
        assert found.text == f"answer {n}"


# -- exports ---------------------------------------------------------------------------------------


async def test_a_damaged_entry_is_left_out_of_an_export(
    manager: CacheManager, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(manager, range(4))
    database = manager.directory / "generation_cache.db"
    change(database, "UPDATE answer SET text = x'00' WHERE slot = 1")
    change(database, "DELETE FROM answer WHERE slot = 2")
    change(database, "UPDATE answer SET model = CAST(x'ff' AS TEXT) WHERE slot = 3")
    path = tmp_path / "export.db"
    assert (await manager.export_entries(path)).generation == 1
    assert caplog.text.count("is not exported") == 3
    async with opened(tmp_path / "third") as third:
        assert (await third.import_entries(path))["generation"].added == 1


async def test_an_older_export_is_replaced_and_nothing_else(
    manager: CacheManager, export: Path, tmp_path: Path
) -> None:
    await fill(manager, range(7))
    assert (await manager.export_entries(export)).generation == 7
    precious = tmp_path / "thesis.txt"
    precious.write_text("years")
    with pytest.raises(StoreError, match="is not overwritten"):
        await manager.export_entries(precious)
    with pytest.raises(StoreError, match="is not overwritten"):
        await manager.export_entries(manager.directory / "generation_cache.db")
    assert precious.read_text() == "years"
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "other"):
        with pytest.raises(StoreError, match="is not overwritten"):
            await manager.export_entries(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        await manager.export_entries(tmp_path / "missing" / "export.db")


async def test_a_database_that_cannot_be_read_leaves_no_file(
    manager: CacheManager, tmp_path: Path
) -> None:
    await fill(manager, range(3))
    (manager.directory / "embedding_cache.db").unlink()
    with pytest.raises(StoreError, match=r"embedding_cache\.db cannot be read"):
        await manager.export_entries(tmp_path / "export.db")
    assert [child.name for child in tmp_path.iterdir()] == ["caches"]


async def test_a_disabled_or_closed_cache_moves_nothing(tmp_path: Path, export: Path) -> None:
    async with opened(tmp_path / "caches", disable_cache=True) as manager:
        for move in (manager.export_entries, manager.import_entries):
            with pytest.raises(StoreError, match="disabled"):
                await move(export)
    unopened = CacheManager(settings(tmp_path / "caches"))
    with pytest.raises(SessionNotOpenError):
        await unopened.export_entries(tmp_path / "new.db")


# -- cancelling ------------------------------------------------------------------------------------


async def cancelled(call: Callable[[], Any], started: asyncio.Event) -> None:
    task = asyncio.ensure_future(call())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelled_export_leaves_no_file(
    manager: CacheManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    await fill(manager, range(3))
    loop, started, ended = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    go_on = threading.Event()
    write = _transfer.write_export

    def held(*arguments: Any) -> Any:
        loop.call_soon_threadsafe(started.set)
        assert go_on.wait(30)
        try:
            return write(*arguments)
        finally:
            loop.call_soon_threadsafe(ended.set)

    monkeypatch.setattr(_transfer, "write_export", held)
    await cancelled(lambda: manager.export_entries(tmp_path / "export.db"), started)
    go_on.set()
    await ended.wait()
    assert [child.name for child in tmp_path.iterdir()] == ["caches"]


async def test_an_import_that_is_cancelled_while_it_merges_is_done_all_the_same(
    manager: CacheManager, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge, started, merging = _transfer._merge, asyncio.Event(), asyncio.Event()

    async def told(*args: Any) -> Any:
        started.set()
        try:
            return await merge(*args)
        finally:
            merging.set()

    monkeypatch.setattr(_transfer, "_merge", told)
    await cancelled(lambda: manager.import_entries(export), started)
    await merging.wait()
    assert len(await manager.generation.keys()) == 3
    assert len(await manager.embedding.keys()) == 1
