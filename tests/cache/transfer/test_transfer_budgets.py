"""What an import leaves of both caches: the better frecency of each entry, within the budgets."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from asteady._cache.manager import CacheManager
from asteady._cache.policy import POLICIES, Budget, Row, State
from asteady._cache.store.api import Incoming
from asteady._cache.store.transaction import raise_frecency, relative_priority
from tests.cache.helpers import completion, fill, key_of, opened

pytestmark = pytest.mark.anyio


async def flushed(manager: CacheManager) -> None:
    """Tell the store of all uses, and wait until it knows."""
    manager.generation.flush()
    await manager.generation.delete("none")


async def touches_of(manager: CacheManager) -> dict[str, int]:
    return {entry.key: entry.touches for entry in await manager.generation.entries(-1)}


@pytest.mark.parametrize("policy", ["tide", "lru", "lfu"])
async def test_the_better_frecency_is_kept(policy: str, tmp_path: Path) -> None:
    path = tmp_path / "export.db"
    async with opened(tmp_path / "other", cache_policy=policy) as other:
        await fill(other, range(2))
        for _ in range(4):
            await other.generation.get(key_of(0))
        await flushed(other)
        await other.export_entries(path)
    async with opened(tmp_path / "caches", cache_policy=policy) as manager:
        await fill(manager, range(2))
        for _ in range(7):
            await manager.generation.get(key_of(1))
        await flushed(manager)
        before = {entry.key: entry for entry in await manager.generation.entries(-1)}
        merged = (await manager.import_entries(path))["generation"]
        after = {entry.key: entry for entry in await manager.generation.entries(-1)}
    assert (merged.known, merged.added) == (2, 0)
    assert [after[key_of(n)].touches for n in range(2)] == [5, 8]
    assert after[key_of(0)].priority > before[key_of(0)].priority
    assert after[key_of(1)].priority == before[key_of(1)].priority


@pytest.mark.parametrize("policy", ["tide", "lru", "lfu"])
async def test_the_budgets_hold_and_the_best_of_both_stay(policy: str, tmp_path: Path) -> None:
    path = tmp_path / "export.db"
    async with opened(tmp_path / "other") as other:
        await fill(other, range(10))
        for n in (0, 1):
            for _ in range(9):
                await other.generation.get(key_of(n))
        await flushed(other)
        await other.export_entries(path)
    changes: dict[str, Any] = {"generation_cache_capacity": 4, "cache_policy": policy}
    async with opened(tmp_path / "caches", **changes) as manager:
        await fill(manager, range(20, 24))
        for _ in range(9):
            await manager.generation.get(key_of(20))
        await flushed(manager)
        merged = (await manager.import_entries(path))["generation"]
        stats = await manager.generation.statistics()
        touches = await touches_of(manager)
        for key in touches:
            assert await manager.generation.get(key) is not None
    assert merged.entries == merged.added + merged.declined == 10
    assert stats["size"] == len(touches) == 4
    assert merged.evicted == 4 - sum(key in touches for key in map(key_of, range(20, 24)))
    if policy != "lru":
        assert {key_of(0), key_of(1), key_of(20)} <= set(touches)
    with closing(sqlite3.connect(tmp_path / "caches" / "generation_cache.db")) as connection:
        assert connection.execute("SELECT count(*) FROM answer").fetchone() == (4,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_what_went_for_an_import_is_gone_from_memory_too(
    tmp_path: Path, export: Path
) -> None:
    async with opened(tmp_path / "caches", generation_cache_capacity=3) as manager:
        await fill(manager, range(20, 23), cost_s=0.001)
        merged = (await manager.import_entries(export))["generation"]
        assert (merged.added, merged.evicted) == (3, 3)
        assert not any(manager.generation.recall_key(key_of(n)) for n in range(20, 23))


async def test_an_entry_that_is_larger_than_the_whole_budget_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "export.db"
    async with opened(tmp_path / "other") as other:
        await other.generation.put(
            key_of("large"), completion("x" * 60_000, chunks=("x" * 60_000,))
        )
        await fill(other, range(2))
        await other.export_entries(path)
    async with opened(tmp_path / "caches", generation_cache_max_size_mb=0.05) as manager:
        merged = (await manager.import_entries(path))["generation"]
        assert (merged.entries, merged.oversized, merged.added) == (3, 1, 2)
        assert not await manager.generation.contains(key_of("large"))


async def test_an_entry_that_was_evicted_here_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "export.db"
    async with opened(tmp_path / "caches", generation_cache_capacity=2) as manager:
        await fill(manager, range(2))
        await manager.export_entries(path)
        await fill(manager, range(2, 4), cost_s=5.0)
        assert (await manager.generation.statistics())["ghosts"] == 2
        await manager.generation.clear()
        await fill(manager, range(2), cost_s=0.001)
        await fill(manager, range(2, 4), cost_s=5.0)
        await manager.generation.delete(key_of(2))
        await manager.generation.delete(key_of(3))
        ghosts = (await manager.generation.statistics())["ghosts"]
        merged = (await manager.import_entries(path))["generation"]
        assert merged.added == 2
        assert ghosts == 2
        assert (await manager.generation.statistics())["ghosts"] == 0


@given(
    touches=st.integers(1, 1000),
    cost_s=st.floats(0, 1000),
    level=st.floats(0, 1e6),
    size_bytes=st.integers(1, 10_000),
)
def test_relative_priority_is_what_it_was_in_a_cache_of_another_size(
    touches: int, cost_s: float, level: float, size_bytes: int
) -> None:
    tide, here, there = POLICIES["tide"], Budget(10, 10_000), Budget(500, 10_000_000)
    row = Row("k", size_bytes, cost_s)
    tide.touch(State(level=level), row, here, touches)
    above = relative_priority(tide, level, row, here)
    assert 0 <= above <= touches
    # Doubles at a high level do not hold a small difference.
    if tide.value(row, here) > 1e-6 * (level + 1):  # type: ignore[attr-defined]  # tide has one
        assert above == pytest.approx(touches, rel=1e-3)
    there_row = Row("k", size_bytes, cost_s)
    entry = Incoming(
        key="k",
        size_bytes=size_bytes,
        cost_s=cost_s,
        touches=touches,
        relative_priority=above,
        created_s=0.0,
        used_s=0.0,
    )
    raise_frecency(tide, State(level=3.0), there, there_row, entry)
    assert there_row.touches == touches
    assert there_row.priority >= 3.0
