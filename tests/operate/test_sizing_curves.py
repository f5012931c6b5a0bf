"""The curves: exact against a plain LRU while all keys are tracked, near it when they are not."""

from __future__ import annotations

import itertools
import json
import random

import pytest
from hypothesis import given, strategies as st

from asteady.operate import Access, Curve
from asteady.operate._sizing import ReuseDistances, rounded_up

streams = st.lists(
    st.tuples(st.sampled_from([f"k{n}" for n in range(10)]), st.integers(0, 5)), max_size=60
).map(
    # A key keeps its size; the first has none.
    lambda pairs: [
        Access(key=key, size_bytes=int(key[1:]) * 7, cost_s=float(cost)) for key, cost in pairs
    ]
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


def distances_of(accesses: list[Access], max_keys: int = 8192) -> ReuseDistances:
    distances = ReuseDistances(max_keys)
    for access in accesses:
        distances.add(access)
    return distances


@given(streams)
def test_it_is_exact_while_all_keys_are_tracked(accesses: list[Access]) -> None:
    distances = distances_of(accesses)
    for capacity in range(1, 12):
        hits, saved = plain(accesses, capacity, in_bytes=False)
        assert distances.curve("entries").hit_rate(capacity) == pytest.approx(hits)
        assert distances.curve("entries").saved_rate(capacity) == pytest.approx(saved)
    for capacity in range(0, 400, 13):
        hits, saved = plain(accesses, capacity, in_bytes=True)
        assert distances.curve("bytes").hit_rate(capacity) == pytest.approx(hits)
        assert distances.curve("bytes").saved_rate(capacity) == pytest.approx(saved)
    assert distances.unique == len({access.key for access in accesses})


@given(streams, st.integers(0, 60))
def test_it_continues_from_its_state(accesses: list[Access], cut: int) -> None:
    distances = distances_of(accesses[:cut], 6)
    again = ReuseDistances.restored(json.loads(json.dumps(distances.state())))
    for access in accesses[cut:]:
        distances.add(access)
        again.add(access)
    assert again.state() == distances.state()
    assert again.curve("entries") == distances.curve("entries")
    assert again.curve("bytes") == distances.curve("bytes")


def zipf(keys: int, count: int) -> list[Access]:
    chance = random.Random(7)
    weights = list(itertools.accumulate(1 / (rank + 10) ** 0.8 for rank in range(keys)))
    numbers = chance.choices(range(keys), cum_weights=weights, k=count)
    return [Access(key=f"key {n}", size_bytes=100 + n % 900, cost_s=0.1 + n % 7) for n in numbers]


def test_it_is_near_when_keys_are_sampled() -> None:
    accesses = zipf(20_000, 60_000)
    exact, sampled = distances_of(accesses, 10**9), distances_of(accesses, 4000)
    assert len(sampled.state()["sample"]) <= 4000
    assert 0.1 < sampled.rate < 0.5
    assert sampled.unique == pytest.approx(exact.unique, rel=0.05)
    for capacity in (50, 200, 800, 3000, 10_000):
        for one, other in (
            (
                exact.curve("entries").hit_rate(capacity),
                sampled.curve("entries").hit_rate(capacity),
            ),
            (
                exact.curve("entries").saved_rate(capacity),
                sampled.curve("entries").saved_rate(capacity),
            ),
            (
                exact.curve("bytes").hit_rate(capacity * 550),
                sampled.curve("bytes").hit_rate(capacity * 550),
            ),
        ):
            assert abs(one - other) < 0.02


def test_memory_is_bounded() -> None:
    distances = distances_of(
        [Access(key=f"key {n}", size_bytes=n, cost_s=1.0) for n in range(5000)] * 2, 50
    )
    assert distances.tracked <= 50 + 6
    state = distances.state()
    assert len(state["sample"]) <= 50
    assert len(state["recent"]) <= 6
    assert len(json.dumps(state)) < 20_000


@given(st.integers(1, 10**12))
def test_a_distance_is_rounded_up_by_at_most_one_part_in_256(distance: int) -> None:
    largest = rounded_up(distance)
    assert distance <= largest <= distance * (1 + 1 / 256)
    assert rounded_up(largest) == largest
    assert rounded_up(largest + 1) > largest


def test_an_empty_curve_has_rates_of_zero() -> None:
    curve = ReuseDistances().curve("entries")
    assert curve.hit_rate(100) == curve.saved_rate(100) == 0.0
    assert curve.smallest(0.95, curve.hits) == 0
    assert (
        Curve(capacities=(1, 4, 9), hits=(0.1, 0.2, 0.4), saved=(0.0, 0.0, 0.0)).smallest(
            0.5, (0.1, 0.2, 0.4)
        )
        == 4
    )
    assert Curve(capacities=(1,), hits=(0.0,), saved=(0.0,)).smallest(0.5, (0.0,)) == 0
