"""What goes is decided by every hit before it, whichever tier answered, under every policy."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import example, given, settings, strategies as st

import asteady.blocking
from asteady._cache.manager import CacheManager
from asteady.testing import FakeEngine
from tests.cache.helpers import Process, completion, key_of, opened
from tests.cache.naive import NaiveTide

# Together with it, a memory tier of this size holds two or three answers.
TINY_MB = 0.003
NAMES = range(7)


class Model(Protocol):
    live: dict[str, list[float]]

    def access(self, key: str, cost_s: float) -> bool: ...


class NaiveOrder:
    """LRU or LFU: by key, the number of uses and the time of the last one."""

    def __init__(self, capacity: int, *, counted: bool) -> None:
        self.capacity = capacity
        self.counted = counted
        self.time = 0
        self.live: dict[str, list[float]] = {}

    def access(self, key: str, cost_s: float) -> bool:
        self.time += 1
        hit = key in self.live
        if not hit and len(self.live) == self.capacity:
            del self.live[min(self.live, key=self._rank)]
        uses = self.live[key][0] if hit else 0
        self.live[key] = [uses + 1, self.time]
        return hit

    def _rank(self, key: str) -> list[float]:
        return self.live[key] if self.counted else self.live[key][1:]


def model_of(policy: str, capacity: int) -> Model:
    if policy == "tide":
        return NaiveTide(capacity)
    return NaiveOrder(capacity, counted=policy == "lfu")


# A number is a request for that answer; "forget" empties the memory tier, as other entries do.
steps = st.lists(
    st.one_of(*[st.sampled_from(NAMES)] * 6, st.sampled_from(["flush", "forget", "reopen"])),
    max_size=40,
)


@pytest.mark.parametrize("policy", ["lru", "lfu", "tide"])
@example(capacity=2, steps=[0, 1, 0, 2], tiny=False)
@given(capacity=st.integers(1, 4), steps=steps, tiny=st.booleans())
@settings(max_examples=20)
def test_any_sequence_of_hits_and_puts_evicts_what_the_policy_says(
    policy: str, capacity: int, steps: list[int | str], tiny: bool
) -> None:
    asyncio.run(follow(model_of(policy, capacity), policy, capacity, steps, tiny))


async def follow(
    model: Model, policy: str, capacity: int, steps: list[int | str], tiny: bool
) -> None:
    changes = {"memory_max_size_mb": TINY_MB} if tiny else {}
    with tempfile.TemporaryDirectory() as directory:

        async def some(steps: list[int | str]) -> None:
            async with opened(
                Path(directory),
                generation_cache_capacity=capacity,
                cache_policy=policy,
                **changes,
            ) as manager:
                while steps:
                    step = steps.pop()
                    if step == "reopen":
                        return
                    await take(manager, step)

        async def take(manager: CacheManager, step: int | str) -> None:
            cache = manager.generation
            if step == "flush":
                cache.flush()
            elif step == "forget":
                cache.memory.clear()
            else:
                key = key_of(step)
                hit = await cache.get(key) is not None
                if not hit:
                    # Awaited, as by a flight: the next request comes after it.
                    assert await cache.put(key, completion("x", cost_s=1.0))
                assert model.access(key, 1.0) == hit
                assert await cache.keys() == sorted(model.live)

        steps = steps[::-1]
        while steps:
            await some(steps)


@pytest.mark.anyio
@pytest.mark.parametrize("policy", ["lru", "lfu"])
async def test_hits_while_a_put_waits_for_its_commit_count_too(
    policy: str, directory: Path
) -> None:
    async with opened(directory, generation_cache_capacity=3, cache_policy=policy) as manager:
        cache = manager.generation
        for name in "abc":
            await cache.put(name, completion(), alias=name)
        putting = [asyncio.ensure_future(cache.put(name, completion())) for name in "de"]
        await asyncio.sleep(0)  # both are submitted
        assert cache.recall("a") is not None
        await asyncio.gather(*putting)
        assert await cache.keys() == ["a", "d", "e"]


@pytest.mark.anyio
async def test_a_tag_and_an_import_evict_by_every_hit_before_them(
    directory: Path, export: Path
) -> None:
    changes: dict[str, Any] = {"cache_policy": "lru", "generation_cache_max_size_mb": 0.0025}
    async with opened(directory, **changes) as manager:
        cache = manager.generation
        for name in "abc":
            assert await cache.put(key_of(name), completion())
        assert await cache.get(key_of("a")) is not None
        await cache.tag(key_of("a"), "x" * 200)
        assert await cache.keys() == sorted(map(key_of, "ac"))
    async with opened(directory, generation_cache_capacity=4, cache_policy="lru") as manager:
        cache = manager.generation
        assert await cache.get(key_of("a")) is not None
        await manager.import_entries(export)
        assert key_of("c") not in await cache.keys()


def test_hits_on_other_threads_count_too(directory: Path) -> None:
    engine = FakeEngine()
    with asteady.blocking.Session(
        engine=engine, cache_dir=directory, generation_cache_capacity=3, cache_policy="lru"
    ) as session:
        for prompt in ("a", "b", "c"):
            session.generate(prompt)
        session.generate("a")
        session.generate("d")
        computed = len(engine.computed)
        session.generate("a")
        assert len(engine.computed) == computed
        session.generate("b")
        assert len(engine.computed) == computed + 1


@pytest.mark.anyio
async def test_hits_of_another_process_count_once_it_has_written_them(directory: Path) -> None:
    changes: dict[str, Any] = {"generation_cache_capacity": 3, "cache_policy": "lru"}
    async with opened(directory, **changes) as manager:
        cache = manager.generation
        for name in "abc":
            await cache.put(key_of(name), completion())
        body = f"""
async with opened(directory, **{changes}) as manager:
    await manager.generation.get(key_of("a"))
say("written")
"""
        with Process(directory, body) as other:
            assert await asyncio.to_thread(other.hear) == "written"
        await cache.put(key_of("d"), completion())
        assert await cache.keys() == sorted(map(key_of, "acd"))
