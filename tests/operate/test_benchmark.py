"""Times cold and warm, access streams in files, and capacities compared by replay."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import attrs
import pytest
from hypothesis import given, strategies as st

from asteady import InvalidRequestError, Session
from asteady._cache.policy import POLICIES, Budget, State, remember, touch
from asteady.operate import Access, CacheBenchmark
from asteady.operate._benchmark import read_accesses, replay, write_accesses
from asteady.testing import FakeEngine
from tests.cache.naive import NaiveEvictionIndex
from tests.cli.test_cli import run

pytestmark = pytest.mark.anyio


async def test_the_replay_is_what_the_cache_does(engine: FakeEngine) -> None:
    """The same prompts through a real session: as many hits as the replay says."""
    order = random.Random(1)
    prompts = [f"prompt {min(int(order.expovariate(0.15)), 30)}" for _ in range(150)]
    async with Session(engine=engine, generation_cache_capacity=8) as session:
        benchmark = CacheBenchmark(session)
        with benchmark.recording():
            for prompt in prompts:
                await session.generate(prompt)
            await session.embed("another cache's")
        hits = session.cache.generation.counters.hits
        stored = {entry.key: entry for entry in await session.cache.generation.entries(-1)}
        result = (await benchmark.benchmark_cache_sizes(None, [8, 1000]))[8]
    assert len(benchmark.accesses) == 150
    # Uses reach the store in bunches, so its order of touches is not quite this one.
    assert abs(result.hits - hits) <= 15
    for access in benchmark.accesses:
        if access.key in stored:
            assert access.size_bytes == stored[access.key].size_bytes
            assert access.cost_s == stored[access.key].cost_s


async def test_a_prompt_is_timed_cold_and_warm(session: Session, engine: FakeEngine) -> None:
    await session.generate("kept")
    benchmark = CacheBenchmark(session)
    for _ in range(2):
        timing = await benchmark.benchmark_single_prompt("x" * 60, iterations=5, seed=7)
    assert timing.prompt == "x" * 47 + "..."
    # Not the mean: one of few warm calls may wait for a busy machine.
    assert timing.cold_time_s > timing.warm_min_s > 0
    assert timing.warm_avg_s >= timing.warm_min_s
    assert timing.speedup == timing.cold_time_s / timing.warm_avg_s
    assert len(engine.computed) == 3
    assert await session.is_cached("kept")
    assert (await benchmark.benchmark_single_prompt("p", iterations=2)).warm_std_s == 0.0
    with pytest.raises(InvalidRequestError, match="iterations=1"):
        await benchmark.benchmark_single_prompt("p", iterations=1)


async def test_sizes_are_compared_by_replay(session: Session, engine: FakeEngine) -> None:
    benchmark = CacheBenchmark(session)
    results = await benchmark.benchmark_cache_sizes(["a", "b", "c"] * 10, [1, 3], policy="lru")
    assert results[1].hit_rate == 0.0
    assert results[3].hit_rate == 90.0
    assert results[3].saved_rate == pytest.approx(90.0)
    assert results[3].compute_s == 3.0
    assert engine.computed == []
    with pytest.raises(InvalidRequestError, match=r"cache_sizes\[0\]=0"):
        await benchmark.benchmark_cache_sizes(["a"], [0])


async def test_the_smallest_capacity_that_is_enough_is_found(session: Session) -> None:
    benchmark = CacheBenchmark(session)
    loop = [f"p{n}" for n in range(20)] * 5
    assert await benchmark.find_optimal_cache_size(loop, policy="lru") == 20
    assert await benchmark.find_optimal_cache_size(["a", "b", "c"]) == 1
    with pytest.raises(InvalidRequestError, match="target=0"):
        await benchmark.find_optimal_cache_size(loop, target=0)


async def test_recorded_accesses_are_saved_for_the_command(
    session: Session, tmp_path: Path
) -> None:
    benchmark = CacheBenchmark(session)
    with benchmark.recording():
        for prompt in ("secret one", "two", "secret one"):
            await session.generate(prompt)
    path = await benchmark.save_accesses(tmp_path / "accesses.tsv")
    assert read_accesses(path) == benchmark.accesses
    assert len(benchmark.accesses) == 3
    assert b"secret" not in path.read_bytes()


def test_the_command_times_a_prompt() -> None:
    shown = run("bench", "hi", "--max-new-tokens", "5", "--iterations", "3")
    assert shown.returncode == 0, shown.stderr
    assert "cold" in shown.stdout
    result = json.loads(run("bench", "hi", "--max-new-tokens", "5", "--json").stdout)
    assert result["cold_time_s"] > result["warm_min_s"]
    assert result["speedup"] == result["cold_time_s"] / result["warm_avg_s"]


def test_the_command_replays(tmp_path: Path) -> None:
    file = tmp_path / "accesses.tsv"
    file.write_bytes(
        write_accesses([Access(key=key, size_bytes=10, cost_s=1.0) for key in "abcabcabc"])
    )
    shown = run("bench", "--accesses", str(file), "--sizes", "1", "3", "--policy", "lru").stdout
    assert shown.splitlines()[1].split() == ["1", "0.00", "0.00", "9.0"]
    assert shown.splitlines()[2].split() == ["3", "66.67", "66.67", "3.0"]
    result = json.loads(run("bench", "--accesses", str(file), "--sizes", "3", "--json").stdout)
    assert result[0]["hits"] == 6
    file.write_bytes(b"")
    for arguments in (("--accesses", str(file)), ("--sizes", "3"), ("--policy", "lru")):
        refused = run("bench", *arguments)
        assert refused.returncode == 1
        assert refused.stderr.count("\n") == 1


# -- access streams, and replays ------------------------------------------------------------------

accesses = st.lists(
    st.builds(
        Access,
        key=st.sampled_from([f"k{n}" for n in range(12)]),
        size_bytes=st.integers(1, 40),
        cost_s=st.sampled_from([0.0, 0.1, 1.0, 7.5]),
    ),
    max_size=80,
)


def plain_hits(recorded: list[Access], budget: Budget, policy: str) -> int:
    """The same policy over a list that is searched every time."""
    rules, index, state, hits = POLICIES[policy], NaiveEvictionIndex(), State(), 0
    for access in recorded:
        if touch(rules, index, state, budget, access.key, 1):
            hits += 1
        elif access.size_bytes <= budget.max_bytes:
            remember(rules, index, state, budget, access.key, access.size_bytes, access.cost_s)
    return hits


@given(accesses, st.integers(1, 6), st.integers(20, 120), st.sampled_from(sorted(POLICIES)))
def test_a_replay_decides_as_the_policy_over_a_plain_list(
    recorded: list[Access], entries: int, size_bytes: int, policy: str
) -> None:
    budget = Budget(entries, size_bytes)
    result = replay(recorded, budget, policy)
    assert (result.hits, result.accesses) == (plain_hits(recorded, budget, policy), len(recorded))
    assert result.compute_s <= sum(access.cost_s for access in recorded) + 1e-9


@pytest.mark.parametrize("entries", [3, 8, 20])
def test_ghosts_that_come_and_go_are_the_same(entries: int) -> None:
    order = random.Random(entries)
    numbers = [min(int(order.paretovariate(0.7)), 90) for _ in range(3000)]
    recorded = [Access(key=f"k{n}", size_bytes=1, cost_s=0.1 + n % 5) for n in numbers]
    budget = Budget(entries, 10**6)
    assert replay(recorded, budget).hits == plain_hits(recorded, budget, "tide")


def test_a_long_replay_keeps_its_heap_small() -> None:
    result = replay([Access(key="k", size_bytes=1, cost_s=1.0)] * 1000, Budget(4, 100))
    assert (result.hits, result.hit_rate, result.compute_s) == (999, 99.9, 1.0)
    assert replay([], Budget(4, 100)).hit_rate == 0.0


async def test_accesses_are_written_and_read(session: Session, tmp_path: Path) -> None:
    log = CacheBenchmark(session, cache_type="embedding", limit=2)
    with log.recording():
        await session.embed(["a", "b", "c"])
        await session.generate("another cache's")
    await session.embed("later")
    recorded = log.accesses
    assert len(recorded) == 2
    plain, zipped = tmp_path / "a.tsv", tmp_path / "a.tsv.gz"
    plain.write_bytes(write_accesses(recorded))
    zipped.write_bytes(gzip.compress(write_accesses(log.accesses)))
    assert read_accesses(plain) == read_accesses(zipped) == recorded
    for line in ("k\t1", "k\tx\t1", "k\t-1\t1", "k\t1\tnan"):
        plain.write_text(f"k\t1\t1.0\n{line}\n")
        with pytest.raises(InvalidRequestError, match="line 2"):
            read_accesses(plain)


def test_an_access_is_a_record() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Access(key="k", size_bytes=1, cost_s=1.0).cost_s = 2.0  # type: ignore[misc]  # it is frozen
