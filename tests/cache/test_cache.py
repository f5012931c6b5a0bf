"""Two tiers as one cache: what is found, what is counted, what is listed."""

# ruff: noqa: ASYNC110  # it looks at files, and waits for what tells nobody

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.to_thread
import attrs
import pytest

from asteady._base.requests import Completion
from asteady._cache import cache as _cache
from asteady._cache.cache import Cache
from asteady._cache.manager import CacheManager
from asteady._cache.store.transaction import Tables
from tests.cache.helpers import completion, embedding, key_of, opened, settings

pytestmark = pytest.mark.anyio

KEY = key_of("a request")
ALIAS = ("a request", 42)


async def counts(cache: Cache[Completion]) -> tuple[int, int, int]:
    statistics = await cache.statistics()
    return statistics["hits"], statistics["misses"], statistics["coalesced"]


async def test_an_answer_is_remembered_by_key_and_by_alias(manager: CacheManager) -> None:
    cache = manager.generation
    answer = completion()
    assert cache.recall(ALIAS) is None
    assert cache.recall_key(KEY) is None
    assert await cache.put(KEY, answer, alias=ALIAS)
    expected = attrs.evolve(answer, cached=True)
    assert cache.recall(ALIAS) == expected
    assert cache.recall_key(KEY) == expected
    assert await cache.get(KEY) == expected
    assert await counts(cache) == (3, 0, 0)


async def test_a_read_does_not_wait_for_a_write_that_is_under_way(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(directory) as manager:
        await manager.generation.put(KEY, completion())
    began, go_on = threading.Event(), threading.Event()
    commit = Tables.commit

    def slow(self: Tables[Any], *arguments: Any) -> Any:
        began.set()
        assert go_on.wait(30)
        return commit(self, *arguments)

    async with opened(directory) as manager:
        cache = manager.generation
        monkeypatch.setattr(Tables, "commit", slow)
        writing = asyncio.create_task(cache.put(key_of("another"), completion()))
        try:
            assert await anyio.to_thread.run_sync(began.wait, 30)
            with anyio.fail_after(60):
                assert await cache.get(KEY) is not None
            assert not writing.done()
        finally:
            go_on.set()
        assert await writing


async def test_an_answer_outlives_its_process(directory: Path) -> None:
    answer = completion("é\U0001f600 text", chunks=("é", "\U0001f600 ", "text"))
    async with opened(directory) as manager:
        await manager.generation.put(KEY, answer)
    async with opened(directory) as manager:
        cache = manager.generation
        assert cache.recall(ALIAS) is None
        assert await cache.get(KEY, alias=ALIAS) == attrs.evolve(answer, cached=True)
        assert cache.recall(ALIAS) is not None
        assert await counts(cache) == (2, 0, 0)


async def test_embeddings_are_kept_apart_from_completions(manager: CacheManager) -> None:
    await manager.embedding.put(KEY, embedding(0.0, -1.0))
    assert await manager.generation.get(KEY) is None
    found = await manager.embedding.get(KEY)
    assert found is not None
    assert found.vector.tolist() == [0.0, -1.0]


async def test_every_lookup_is_counted_once(manager: CacheManager) -> None:
    cache = manager.generation
    assert await cache.get(KEY) is None
    await cache.put(KEY, completion(cost_s=2.0), alias=ALIAS)
    cache.recall(ALIAS)
    await cache.get(KEY)
    cache.counters.coalesced += 3
    cache.recall(("something else",))
    statistics = (await manager.get_cache_stats())["generation"]
    assert (statistics["hits"], statistics["misses"], statistics["coalesced"]) == (2, 1, 3)
    assert statistics["hit_rate"] == pytest.approx(2 / 3)
    assert statistics["recent_hit_rate"] == pytest.approx(2 / 3)
    assert statistics["seconds_saved"] == pytest.approx(4.0)
    assert statistics["errors"] == 0


async def test_the_recent_hit_rate_forgets(
    manager: CacheManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = manager.generation
    for number in range(5):
        await cache.get(key_of(number))
    await cache.put(KEY, completion())
    for _ in range(5):
        cache.recall_key(KEY)
    monkeypatch.setattr(_cache, "RECENT", 6)
    statistics = await cache.statistics()
    assert statistics["hit_rate"] == 0.5
    assert statistics["recent_hit_rate"] == pytest.approx(5 / 6)


async def test_statistics_of_an_untouched_cache_are_complete(manager: CacheManager) -> None:
    statistics = await manager.get_cache_stats()
    assert set(statistics) == {"generation", "embedding"}
    for values in statistics.values():
        assert values["size"] == values["hits"] == values["total_size_bytes"] == 0
        assert values["hit_rate"] == values["recent_hit_rate"] == 0.0
        assert values["policy"] == "tide"
    assert statistics["generation"]["capacity"] == 256
    assert statistics["embedding"]["max_size_bytes"] == 100 * 1024 * 1024


async def test_counts_are_summed_over_processes_and_runs(directory: Path) -> None:
    for run in (1, 2, 3):
        async with opened(directory) as manager:
            cache = manager.generation
            await cache.get(key_of("missing"))
            await cache.put(KEY, completion(cost_s=2.0))
            cache.recall_key(KEY)
            cache.counters.coalesced += 1
            statistics = await cache.statistics()
            assert (statistics["hits"], statistics["misses"]) == (1, 1)
            assert statistics["all_hits"] == run
            assert statistics["all_misses"] == run
            assert statistics["all_coalesced"] == run
            assert statistics["all_seconds_saved"] == pytest.approx(2.0 * run)


async def test_a_new_answer_of_a_key_takes_the_place_of_the_old(manager: CacheManager) -> None:
    cache = manager.generation
    await cache.put(KEY, completion("old"), alias=ALIAS)
    await cache.put(KEY, completion("the new one"))
    found = cache.recall(ALIAS)
    assert found is not None
    assert found.text == "the new one"
    statistics = await cache.statistics()
    assert statistics["size"] == 1
    (entry,) = await cache.entries()
    assert statistics["total_size_bytes"] == entry.size_bytes


async def test_delete_and_clear_reach_both_tiers(manager: CacheManager) -> None:
    cache = manager.generation
    for number in range(3):
        await cache.put(key_of(number), completion(), alias=(number,))
    assert await cache.delete(key_of(0))
    assert not await cache.delete(key_of(0))
    assert cache.recall((0,)) is None
    assert await cache.get(key_of(0)) is None
    assert sorted(await cache.keys()) == sorted([key_of(1), key_of(2)])
    assert await cache.clear() == 2
    assert await cache.keys() == []
    assert cache.recall((1,)) is None
    assert (await cache.statistics())["total_size_bytes"] == 0
    assert await cache.put(KEY, completion())


async def test_clear_all_caches_clears_both(manager: CacheManager) -> None:
    await manager.generation.put(KEY, completion())
    await manager.embedding.put(KEY, embedding())
    await manager.clear_all_caches()
    statistics = await manager.get_cache_stats()
    assert statistics["generation"]["size"] == statistics["embedding"]["size"] == 0


async def test_contains_neither_counts_nor_touches(manager: CacheManager) -> None:
    cache = manager.generation
    await cache.put(KEY, completion())
    assert await cache.contains(KEY)
    assert not await cache.contains(key_of("other"))
    assert await counts(cache) == (0, 0, 0)
    (entry,) = await cache.entries()
    assert entry.touches == 1


async def test_entries_are_listed_in_every_order(directory: Path) -> None:
    async with opened(directory) as manager:
        cache = manager.generation
        await cache.put("dear", completion("x", cost_s=9.0))
        await cache.put("used", completion("x", cost_s=1.0))
        await cache.put("large", completion("x" * 500, cost_s=0.1))
        for _ in range(4):
            cache.recall_key("used")
    async with opened(directory) as manager:
        cache = manager.generation

        async def first(order: str) -> str:
            return (await cache.entries(1, order))[0].key  # type: ignore[arg-type]

        assert await first("cost") == "dear"
        assert await first("size") == "large"
        assert await first("touches") == await first("last_used") == "used"
        assert await first("priority") == "used"
        entry = (await cache.entries(1, "touches"))[0]
        assert entry.touches == 5
        assert entry.model == "builtin"
        assert entry.created_s < entry.last_used_s
        assert len(await cache.entries(limit=-1)) == 3
        with pytest.raises(ValueError, match="order_by='age' is not allowed"):
            await first("age")


async def test_a_further_alias_can_be_remembered(manager: CacheManager) -> None:
    cache = manager.generation
    assert cache.recall_key(KEY, alias="early") is None
    await cache.put(KEY, completion())
    assert cache.recall_key(KEY, alias="late") is not None
    assert await cache.get(KEY, alias="got") is not None
    assert cache.recall("early") is None
    assert cache.recall("late") is not None
    assert cache.recall("got") is not None


async def test_touches_are_flushed_while_the_cache_is_open(directory: Path) -> None:
    async with opened(directory, tick_s=0.001) as manager:
        cache = manager.generation
        await cache.put(KEY, completion())
        for _ in range(3):
            assert await cache.get(KEY) is not None
        with anyio.fail_after(60):
            while (await cache.entries())[0].touches != 4:
                await anyio.sleep(0.001)


async def test_the_memory_tier_sleeps_when_nobody_uses_it_and_wakes_at_the_next_lookup(
    directory: Path,
) -> None:
    async with opened(directory, tick_s=0.001) as manager:
        cache = manager.generation
        await cache.put(KEY, completion(), alias=ALIAS)
        with anyio.fail_after(60):
            while cache.peek_alias(ALIAS) is not None:
                await anyio.sleep(0.001)
        assert await cache.get(KEY) is not None
        assert cache.recall(ALIAS) is not None


async def test_what_is_stored_and_looked_up_keeps_the_memory_tier_awake(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep, ticking = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def sleep(seconds: float) -> None:
        if seconds != 7.0:
            await anyio.sleep_forever()  # the other cache's
        asleep.release()
        await ticking.acquire()

    monkeypatch.setattr(_cache, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
    manager = CacheManager(settings(directory))
    cache = manager.generation
    cache._tick_s = 7.0
    await manager.open()
    with anyio.fail_after(60):
        assert await cache.put(KEY, completion(), alias=ALIAS)
        await asleep.acquire()
        assert await cache.put(key_of("another"), completion())
        ticking.release()
        await asleep.acquire()
        assert await cache.get(key_of("missing")) is None
        ticking.release()
        await asleep.acquire()
        assert cache.peek_alias(ALIAS) is not None
        while cache.peek_alias(ALIAS) is not None:
            ticking.release()
            await anyio.sleep(0.001)
    await manager.aclose()


async def test_computing_alone_waits_for_nobody(manager: CacheManager) -> None:
    async with manager.generation.computing(KEY) as waited:
        assert waited is False
    assert (await manager.generation.statistics())["coalesced_across_processes"] == 0


async def test_an_answer_that_cannot_be_stored_fails_alone(manager: CacheManager) -> None:
    cache = manager.generation
    wrong = completion("abc", chunks=("x",))
    huge = completion("abc", seed=2**70)
    results = await asyncio.gather(
        cache.put("a", completion()),
        cache.put("b", wrong),
        cache.put("c", huge),
        cache.put("d", completion(cost_s=float("nan"))),
        cache.put("e", completion()),
    )
    assert list(results) == [True, False, False, False, True]
    assert await cache.keys() == ["a", "e"]
    assert (await cache.statistics())["errors"] == 3


async def test_a_failure_that_repeats_is_logged_once(
    manager: CacheManager, caplog: pytest.LogCaptureFixture
) -> None:
    cache = manager.generation
    with caplog.at_level(logging.INFO, "asteady"):
        for _ in range(3):
            await cache.put(KEY, completion("abc", chunks=("x",)))
        assert len(caplog.records) == 1
        await cache.put(KEY, completion())
        assert "work again" in caplog.text
        await cache.put(KEY, completion("abc", chunks=("x",)))
    assert (await cache.statistics())["errors"] == 4
    assert len(caplog.records) == 3


async def test_live_state_is_in_the_repr(manager: CacheManager) -> None:
    await manager.generation.put(KEY, completion())
    manager.generation.recall_key(KEY)
    assert "<Cache generation: 1 in memory, 1 hits, 0 misses>" in repr(manager)
