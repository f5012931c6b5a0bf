"""Access streams: written and read, and replayed as the store's policy decides."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import attrs
import pytest
from hypothesis import given, strategies as st

from asteady import InvalidRequestError, Session
from asteady._cache.policy import POLICIES, Budget, State, remember, touch
from asteady.operate import Access, AccessLog
from asteady.operate._accesses import read_accesses, replay, write_accesses
from tests.cache.naive import NaiveEvictionIndex

pytestmark = pytest.mark.anyio

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
    log = AccessLog("embedding", limit=2)
    with log.recording(session):
        await session.embed(["a", "b", "c"])
        await session.generate("another cache's")
    await session.embed("later")
    recorded = list(log.accesses)
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
