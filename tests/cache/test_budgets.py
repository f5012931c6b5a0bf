"""The budgets of a cache hold in both tiers, under every policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cache.helpers import completion, key_of, opened

pytestmark = pytest.mark.anyio

KEY = key_of("a request")
ALIAS = ("a request", 42)


async def test_both_budgets_are_enforced_in_both_tiers(directory: Path) -> None:
    async with opened(directory, generation_cache_capacity=3) as manager:
        cache = manager.generation
        for number in range(10):
            assert await cache.put(key_of(number), completion(str(number)), alias=(number,))
            statistics = await cache.statistics()
            assert statistics["size"] == statistics["memory_size"] == min(number + 1, 3)
        assert statistics["evictions"] == statistics["all_evictions"] == 7
        assert statistics["ghosts"] == 7
        held = [number for number in range(10) if cache.recall((number,)) is not None]
        stored = [number for number in range(10) if await cache.contains(key_of(number))]
        assert held == stored
        assert len(held) == 3


async def test_the_byte_budget_holds(directory: Path) -> None:
    async with opened(directory, generation_cache_max_size_mb=0.01) as manager:
        cache = manager.generation
        for number in range(30):
            await cache.put(key_of(number), completion(str(number) * 500))
            statistics = await cache.statistics()
            assert statistics["total_size_bytes"] <= statistics["max_size_bytes"] == 10485
        assert 1 <= statistics["size"] < 10


async def test_an_answer_larger_than_the_budget_is_not_stored_and_removes_nothing(
    directory: Path,
) -> None:
    async with opened(directory, generation_cache_max_size_mb=0.01) as manager:
        cache = manager.generation
        await cache.put(KEY, completion())
        assert not await cache.put(key_of("large"), completion("x" * 20000))
        statistics = await cache.statistics()
        assert statistics["oversized"] == 1
        assert statistics["size"] == 1
        assert statistics["errors"] == 0
        assert await cache.get(key_of("large")) is None


async def test_an_answer_that_is_worth_less_than_what_it_displaces_is_declined(
    directory: Path,
) -> None:
    async with opened(directory, generation_cache_max_size_mb=0.05) as manager:
        cache = manager.generation
        for number in range(60):
            await cache.put(key_of(number), completion(str(number)))
        size = (await cache.statistics())["size"]
        assert not await cache.put(KEY, completion("x" * 8000, cost_s=0.01), alias=ALIAS)
        assert cache.recall(ALIAS) is None
        statistics = await cache.statistics()
        assert statistics["declined"] == 1
        assert statistics["size"] == size


async def test_an_answer_too_large_for_memory_is_served_and_touched_from_the_store(
    directory: Path,
) -> None:
    async with opened(directory, memory_max_size_mb=0.001) as manager:
        cache = manager.generation
        await cache.put(KEY, completion("x" * 2000), alias=ALIAS)
        assert cache.recall(ALIAS) is None
        assert await cache.get(KEY) is not None
        assert (await cache.statistics())["memory_size"] == 0
    async with opened(directory) as manager:
        (entry,) = await manager.generation.entries()
        assert entry.touches == 2


async def test_policies_can_be_chosen_and_changed(directory: Path) -> None:
    async with opened(directory, generation_cache_capacity=3, cache_policy="lru") as manager:
        for name in "abc":
            await manager.generation.put(name, completion())
        manager.generation.recall_key("a")
    for policy in ("tide", "lfu"):
        async with opened(directory, generation_cache_capacity=3, cache_policy=policy) as manager:
            statistics = await manager.generation.statistics()
            assert statistics["policy"] == policy
            assert statistics["size"] == 3
    async with opened(directory, generation_cache_capacity=3, cache_policy="lru") as manager:
        await manager.generation.put("d", completion())
        assert await manager.generation.keys() == ["a", "c", "d"]


async def test_a_smaller_budget_is_held_from_the_start(directory: Path) -> None:
    async with opened(directory) as manager:
        for number in range(10):
            await manager.generation.put(key_of(number), completion(cost_s=1.0 + number))
    async with opened(directory, generation_cache_capacity=4) as manager:
        assert (await manager.generation.statistics())["size"] == 4
        assert sorted(await manager.generation.keys()) == sorted(map(key_of, range(6, 10)))
