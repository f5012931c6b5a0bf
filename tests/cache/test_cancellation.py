"""Callers that go away at any stage leave the cache as if they had stayed, or had never come."""

# ruff: noqa: ASYNC110  # it looks at files, and waits for what tells nobody

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from asteady._cache.manager import CacheManager
from asteady._cache.store import transaction as _transaction
from tests.cache.helpers import completion, key_of, opened, settings

pytestmark = pytest.mark.anyio


async def by_scope(call: Callable[[], Awaitable[Any]], steps: int) -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def cancel() -> None:
                for _ in range(steps):
                    await asyncio.sleep(0)
                scope.cancel()

            tasks.start_soon(cancel)
            await call()
            tasks.cancel_scope.cancel()


async def by_task(call: Callable[[], Awaitable[Any]], steps: int) -> None:
    task = asyncio.ensure_future(call())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def by_timeout(call: Callable[[], Awaitable[Any]], steps: int) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(call(), steps * 0.00005)


WAYS = [by_scope, by_task, by_timeout]


async def check(manager: CacheManager) -> None:
    """Totals are the sums of the rows, budgets hold, and both tiers hold the same."""
    cache = manager.generation
    await cache.delete("nothing")  # what was submitted before is committed after this
    entries = await cache.entries(limit=-1)
    statistics = await cache.statistics()
    assert statistics["size"] == len(entries) <= statistics["capacity"]
    assert statistics["total_size_bytes"] == sum(entry.size_bytes for entry in entries)
    for entry in entries:
        assert await cache.get(entry.key) is not None
    assert set(cache.memory.by_key) <= {entry.key for entry in entries}
    assert not cache._reads
    assert not cache._removed
    assert statistics["errors"] == 0


@pytest.mark.parametrize("way", WAYS)
async def test_put_get_delete_and_clear_can_be_cancelled_at_every_step(
    directory: Path, way: Callable[..., Awaitable[None]]
) -> None:
    async with opened(directory, generation_cache_capacity=4) as manager:
        cache = manager.generation
        for steps in range(25):
            for number in range(6):
                await cache.put(key_of(number), completion(str(number)))
            fresh = key_of(("fresh", steps))
            await way(lambda key=fresh: cache.put(key, completion("fresh"), alias=key), steps)
            await way(lambda key=fresh: cache.get(key, alias=key), steps)
            await way(lambda: cache.get(key_of("missing")), steps)
            await way(lambda key=fresh: cache.delete(key), steps)
            await check(manager)
            await way(cache.clear, steps)
            await way(cache.statistics, steps)
            await way(cache.keys, steps)
            await check(manager)


@pytest.mark.parametrize("way", WAYS)
async def test_a_lock_that_nobody_waits_for_is_not_held(
    manager: CacheManager, way: Callable[..., Awaitable[None]]
) -> None:
    cache = manager.generation

    async def compute() -> None:
        async with cache.computing("key"):
            await asyncio.sleep(0)

    for steps in range(25):
        await way(compute, steps)
        with anyio.fail_after(60):
            await compute()
    locks = cache._locks
    assert locks is not None
    assert not locks._held


async def test_a_put_whose_caller_has_gone_is_committed(
    manager: CacheManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = manager.generation
    entered, gate = threading.Event(), threading.Event()
    commit = _transaction.Tables.commit

    def held_up(*args: Any) -> Any:
        entered.set()
        gate.wait(60)
        return commit(*args)

    monkeypatch.setattr(_transaction.Tables, "commit", held_up)
    task = asyncio.ensure_future(cache.put("key", completion(), alias="alias"))
    await asyncio.to_thread(entered.wait, 60)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert cache.recall("alias") is None
    gate.set()
    assert await cache.put("next", completion())
    assert cache.recall("alias") is not None
    assert await cache.contains("key")


async def test_reads_are_not_held_up_by_a_write(
    manager: CacheManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = manager.generation
    await cache.put("key", completion())
    cache.memory.clear()
    entered, gate = threading.Event(), threading.Event()

    def held_up(*args: Any) -> Any:
        entered.set()
        gate.wait(60)
        raise ValueError("never mind")

    monkeypatch.setattr(_transaction.Tables, "commit", held_up)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(cache.put("other", completion()))
        await asyncio.to_thread(entered.wait, 60)
        assert await cache.get("key") is not None
        gate.set()


async def test_an_entry_that_goes_while_it_is_read_does_not_come_back_to_memory(
    manager: CacheManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = manager.generation
    await cache.put("key", completion())
    cache.memory.clear()
    read, entered, gate = _transaction.Tables.read, threading.Event(), threading.Event()

    def held_up(*args: Any) -> Any:
        reading = read(*args)
        entered.set()
        gate.wait(60)
        return reading

    monkeypatch.setattr(_transaction.Tables, "read", held_up)
    getting = asyncio.ensure_future(cache.get("key", alias="alias"))
    await asyncio.to_thread(entered.wait, 60)
    assert await cache.delete("key")
    gate.set()
    assert await getting is not None  # it was there when it was asked for
    assert cache.recall("alias") is None
    assert cache.recall_key("key") is None
    assert not await cache.contains("key")
    assert not cache._removed


async def test_what_is_submitted_during_a_commit_goes_into_one_more(
    manager: CacheManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[int] = []
    commit = _transaction.Tables.commit

    def counted(tables: Any, connection: Any, operations: Any, room: Any) -> Any:
        commits.append(len(operations))
        return commit(tables, connection, operations, room)

    monkeypatch.setattr(_transaction.Tables, "commit", counted)
    async with asyncio.TaskGroup() as tasks:
        for number in range(100):
            tasks.create_task(manager.generation.put(key_of(number), completion()))
    assert sum(commits) == 100
    assert len(commits) <= 3


@pytest.mark.parametrize("steps", range(0, 30, 2))
async def test_opening_can_be_cancelled_at_every_step(directory: Path, steps: int) -> None:
    before = sqlite_threads()
    manager = CacheManager(settings(directory))
    await by_task(manager.open, steps)
    await manager.aclose()
    async with opened(directory) as manager:
        assert await manager.generation.put("key", completion())
    await threads_end(before)


@pytest.mark.parametrize("steps", range(0, 20, 2))
async def test_closing_can_be_cancelled_at_every_step(directory: Path, steps: int) -> None:
    before = sqlite_threads()
    manager = CacheManager(settings(directory))
    await manager.open()
    putting = asyncio.ensure_future(manager.generation.put("key", completion()))
    await asyncio.sleep(0)
    await by_task(manager.aclose, steps)
    with anyio.fail_after(60):
        await manager.aclose()
        assert await putting in (True, False)
    await threads_end(before)


def sqlite_threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if "_connection_worker_thread" in t.name}


async def threads_end(before: set[threading.Thread]) -> None:
    """Wait until the threads have ended that were not there before."""
    with anyio.fail_after(60):
        while sqlite_threads() - before:
            await anyio.sleep(0.01)


async def test_a_store_that_does_not_answer_keeps_nobody_and_memory_goes_on(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()
    read = _transaction.Tables.read

    def held_up(*args: Any, **kwargs: Any) -> Any:
        gate.wait(60)
        return read(*args, **kwargs)

    async with opened(directory) as manager:
        cache = manager.generation
        await cache.put("known", completion())
        store: Any = await cache.ready()
        store._timeout_s = 0.1
        monkeypatch.setattr(_transaction.Tables, "read", held_up)
        try:
            with anyio.fail_after(60):
                for _ in range(1000):  # only the first one waits
                    assert await cache.get("unknown") is None
                assert await cache.get("known") is not None
                async with cache.computing("unknown") as waited:
                    assert not waited
                assert await cache.put("unknown", completion())
                assert await cache.get("unknown") is not None
                assert (await cache.statistics())["misses"] == 1000
            assert len(caplog.records) == 1
            assert "did not answer within 0.1 s" in caplog.text
        finally:
            gate.set()
        with anyio.fail_after(60):
            while True:
                cache.memory.clear()
                if await cache.get("unknown") is not None:
                    break
                await anyio.sleep(0.01)
