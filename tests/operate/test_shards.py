"""The curves: exact against a plain LRU while all keys are tracked, near it when they are not."""

from __future__ import annotations

import itertools
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asteady.operate import Access
from asteady.operate._shards import Curve, Shards, _bin, _capacity

streams = st.lists(
    st.tuples(st.sampled_from([f"k{n}" for n in range(10)]), st.integers(0, 5)), max_size=60
).map(
    # A key keeps its size.
    lambda pairs: [Access(key, 3 + int(key[1:]) * 7, float(cost)) for key, cost in pairs]
)


def plain(accesses: list[Access], capacity: int, *, in_bytes: bool) -> tuple[float, float]:
    """Hits and seconds saved of an LRU cache, as shares: a list, searched every time."""
    recent: list[Access] = []
    hits = saved_s = 0.0
    for access in accesses:
        keys = [other.key for other in recent]
        if access.key in keys:
            at = keys.index(access.key)
            need = sum(other.size_bytes for other in recent[: at + 1]) if in_bytes else at + 1
            if need <= capacity:
                hits += 1
                saved_s += access.cost_s
            del recent[at]
        recent.insert(0, access)
    total_s = sum(access.cost_s for access in accesses)
    return (hits / len(accesses) if accesses else 0.0), (saved_s / total_s if total_s else 0.0)


def taken(accesses: list[Access], max_keys: int = 8192) -> Shards:
    shards = Shards(max_keys)
    for access in accesses:
        shards.add(access)
    return shards


@given(streams)
def test_it_is_exact_while_all_keys_are_tracked(accesses: list[Access]) -> None:
    shards = taken(accesses)
    for capacity in range(1, 12):
        hits, saved = plain(accesses, capacity, in_bytes=False)
        assert shards.by_entries().hit_rate(capacity) == pytest.approx(hits)
        assert shards.by_entries().saved_rate(capacity) == pytest.approx(saved)
    for capacity in range(0, 400, 13):
        hits, saved = plain(accesses, capacity, in_bytes=True)
        assert shards.by_bytes().hit_rate(capacity) == pytest.approx(hits)
        assert shards.by_bytes().saved_rate(capacity) == pytest.approx(saved)
    assert shards.unique == len({access.key for access in accesses})


@given(streams, st.integers(0, 60))
def test_it_goes_on_from_its_state(accesses: list[Access], cut: int) -> None:
    shards = taken(accesses[:cut], 6)
    again = Shards.restored(json.loads(json.dumps(shards.state())))
    for access in accesses[cut:]:
        shards.add(access)
        again.add(access)
    assert again.state() == shards.state()
    assert again.by_entries() == shards.by_entries()
    assert again.by_bytes() == shards.by_bytes()


def zipf(keys: int, count: int) -> list[Access]:
    chance = random.Random(7)
    weights = list(itertools.accumulate(1 / (rank + 10) ** 0.8 for rank in range(keys)))
    numbers = chance.choices(range(keys), cum_weights=weights, k=count)
    return [Access(f"key {n}", 100 + n % 900, 0.1 + n % 7) for n in numbers]


def test_it_is_near_when_keys_are_sampled() -> None:
    accesses = zipf(20_000, 60_000)
    exact, sampled = taken(accesses, 10**9), taken(accesses, 4000)
    assert len(sampled._sampled) <= 4000
    assert 0.1 < sampled.rate < 0.5
    assert sampled.unique == pytest.approx(exact.unique, rel=0.05)
    for capacity in (50, 200, 800, 3000, 10_000):
        for one, other in (
            (exact.by_entries().hit_rate(capacity), sampled.by_entries().hit_rate(capacity)),
            (exact.by_entries().saved_rate(capacity), sampled.by_entries().saved_rate(capacity)),
            (
                exact.by_bytes().hit_rate(capacity * 550),
                sampled.by_bytes().hit_rate(capacity * 550),
            ),
        ):
            assert abs(one - other) < 0.02


def test_memory_is_bounded() -> None:
    shards = taken([Access(f"key {n}", n, 1.0) for n in range(5000)] * 2, 50)
    assert len(shards._sampled) <= 50
    assert len(shards._recent) <= 6
    assert len(shards._by_hash) == len(shards._sampled)
    assert len(shards._sampled._places._counts) <= 1025


@given(st.integers(1, 10**12))
def test_a_bin_holds_its_distance_to_one_part_in_256(distance: int) -> None:
    at = _bin(distance)
    assert distance <= _capacity(at) <= distance * (1 + 1 / 256)
    assert _bin(_capacity(at)) == at
    assert _bin(_capacity(at) + 1) == at + 1


def test_an_empty_curve_gives_nothing() -> None:
    curve = Shards().by_entries()
    assert curve.hit_rate(100) == curve.saved_rate(100) == 0.0
    assert curve.smallest(0.95, curve.hits) == 0
    assert Curve((1, 4, 9), (0.1, 0.2, 0.4), (0.0, 0.0, 0.0)).smallest(0.5, (0.1, 0.2, 0.4)) == 4
    assert Curve((1,), (0.0,), (0.0,)).smallest(0.5, (0.0,)) == 0
