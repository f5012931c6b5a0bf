"""The policies, on naive rows and on SQLite's: they must do the same, and hold their budgets."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing

import attrs
import pytest
from hypothesis import given, strategies as st

from asteady._cache.policy import (
    POLICIES,
    Budget,
    EvictionIndex,
    Policy,
    Row,
    State,
    adopt,
    forget,
    remember,
    shrink,
    touch,
)
from asteady._cache.store.eviction_index import SqliteEvictionIndex
from asteady._cache.store.schema import TABLES
from tests.cache.naive import NaiveEvictionIndex, NaiveTide

TIDE = POLICIES["tide"]
KEYS = [f"k{number}" for number in range(12)]
keys = st.sampled_from(KEYS)
operations = st.lists(
    st.one_of(
        st.tuples(
            st.just("remember"), keys, st.integers(1, 40), st.sampled_from([0.0, 0.1, 1.0, 7.5])
        ),
        st.tuples(st.just("touch"), keys, st.integers(1, 3), st.just(0.0)),
        st.tuples(st.just("forget"), keys, st.just(0), st.just(0.0)),
        st.tuples(st.just("flush"), keys, st.integers(0, 12), st.just(0.0)),
    ),
    max_size=60,
)
budgets = st.builds(Budget, st.integers(1, 6), st.integers(40, 120))


def run(policy: Policy, index: EvictionIndex, budget: Budget, ops: object) -> Iterator[object]:
    state = State()
    for what, key, number, cost_s in ops:  # type: ignore[attr-defined]  # see `operations`
        if what == "remember":
            row, evicted = remember(policy, index, state, budget, key, number, cost_s)
            yield key, row.live, [other.key for other in evicted]
        elif what == "touch":
            yield touch(policy, index, state, budget, key, number)
        elif what == "forget":
            yield forget(index, state, key) is not None
        elif isinstance(index, SqliteEvictionIndex):
            index.flush()
            index.expect(KEYS[:number])
        yield attrs.astuple(state)


def remembered(rows: Iterable[Row]) -> list[tuple[object, ...]]:
    """What a index has to remember of its rows."""
    return sorted(
        attrs.astuple(attrs.evolve(row, turn=0.0)) if row.live else (row.key, row.touches, row.turn)
        for row in rows
    )


@pytest.mark.parametrize("policy", POLICIES.values(), ids=list(POLICIES))
@given(budget=budgets, ops=operations)
def test_budgets_hold_and_totals_are_right_after_every_operation(
    policy: Policy, budget: Budget, ops: object
) -> None:
    index = NaiveEvictionIndex()
    for _ in run(policy, index, budget, ops):
        pass
    state = State()
    index = NaiveEvictionIndex()
    for what, key, number, cost_s in ops:  # type: ignore[attr-defined]  # see `operations`
        if what == "remember":
            row, evicted = remember(policy, index, state, budget, key, number, cost_s)
            assert row.live or all(other.live for other in index.rows.values() if other.live)
            assert not any(other.live for other in evicted)
        elif what == "touch":
            touch(policy, index, state, budget, key, number)
        elif what == "forget":
            forget(index, state, key)
        live = [row for row in index.rows.values() if row.live]
        ghosts = [row for row in index.rows.values() if not row.live]
        assert state.entries == len(live) <= budget.max_entries
        assert state.size_bytes == sum(row.size_bytes for row in live) <= budget.max_bytes
        assert state.ghosts_once == sum(row.touches == 1 for row in ghosts)
        assert state.ghosts_more == sum(row.touches != 1 for row in ghosts)
        assert state.ghosts <= policy.ghosts_per_entry * budget.max_entries
        assert 0.1 <= state.phi <= 4.0


@pytest.mark.parametrize("policy", POLICIES.values(), ids=list(POLICIES))
@given(budget=budgets, ops=operations, fetch=st.sampled_from([2, 3, 64]))
def test_the_index_in_sqlite_does_what_the_naive_one_does(
    policy: Policy, budget: Budget, ops: object, fetch: int
) -> None:
    with closing(database()) as connection:
        index, naive = SqliteEvictionIndex(connection, fetch), NaiveEvictionIndex()
        for ours, theirs in zip(
            run(policy, index, budget, ops), run(policy, naive, budget, ops), strict=True
        ):
            assert ours == theirs
        index.flush()
        fresh = SqliteEvictionIndex(connection, fetch)
        found = [fresh.find(key) for key in naive.rows]
        assert remembered(row for row in found if row) == remembered(naive.rows.values())
        counts = [
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("entry", "ghost")
        ]
        live = sum(row.live for row in naive.rows.values())
        assert counts == [live, len(naive.rows) - live]


@pytest.mark.parametrize("expected", [[], KEYS[:4]])
def test_a_ghost_dropped_in_this_transaction_does_not_return_in_it(expected: list[str]) -> None:
    state, budget = State(), Budget(1, 100)
    with closing(database()) as connection:
        index = SqliteEvictionIndex(connection)
        for key in ("k0", "gone", "older", "old", "new"):
            remember(TIDE, index, state, budget, key, 1, 1.0)
        index.flush()
        index.expect([*expected, "gone"])
        remember(TIDE, index, state, budget, "newer", 1, 1.0)
        row, _ = remember(TIDE, index, state, budget, "gone", 1, 1.0)
    assert row.touches == 1


@given(
    capacity=st.integers(1, 5),
    accesses=st.lists(st.tuples(keys, st.sampled_from([0.5, 1.0, 4.0])), max_size=120),
)
def test_tide_follows_its_definition(capacity: int, accesses: list[tuple[str, float]]) -> None:
    costs: dict[str, float] = {}
    naive, state, index = NaiveTide(capacity), State(), NaiveEvictionIndex()
    budget = Budget(capacity, 10**9)
    for key, cost_s in accesses:
        cost_s = costs.setdefault(key, cost_s)
        hit = touch(TIDE, index, state, budget, key, 1)
        if not hit:
            remember(TIDE, index, state, budget, key, 1, cost_s)
        assert hit == naive.access(key, cost_s)
        assert {row.key for row in index.rows.values() if row.live} == set(naive.live)
        assert {row.key for row in index.rows.values() if not row.live} == set(naive.ghosts)
        assert state.phi == pytest.approx(naive.phi)
        assert state.level == pytest.approx(naive.level)


def test_the_cheap_and_large_go_before_the_dear_and_small() -> None:
    state, index, budget = State(), NaiveEvictionIndex(), Budget(10, 100)
    for key, size_bytes, cost_s in (("dear", 30, 9.0), ("cheap", 30, 1.0), ("large", 40, 1.2)):
        remember(TIDE, index, state, budget, key, size_bytes, cost_s)
    _, evicted = remember(TIDE, index, state, budget, "new", 35, 5.0)
    assert [row.key for row in evicted] == ["large"]


def test_a_newcomer_that_ranks_below_several_it_would_displace_is_declined() -> None:
    state, index, budget = State(), NaiveEvictionIndex(), Budget(10, 100)
    for number in range(10):
        remember(TIDE, index, state, budget, f"k{number}", 10, 1.0)
    row, evicted = remember(TIDE, index, state, budget, "large", 60, 1.0)
    assert not row.live
    assert evicted == []
    assert state.entries == 10
    assert state.ghosts == 1


def test_a_newcomer_of_usual_size_is_taken_in_however_low_it_ranks() -> None:
    state, index, budget = State(), NaiveEvictionIndex(), Budget(3, 1000)
    for number in range(3):
        remember(TIDE, index, state, budget, f"k{number}", 10, 9.0)
        touch(TIDE, index, state, budget, f"k{number}", 5)
    row, evicted = remember(TIDE, index, state, budget, "cheap", 10, 0.001)
    assert row.live
    assert [other.key for other in evicted] == ["k0"]
    assert state.level == 0.0  # the tide rises for what was worth least, not for this


def test_what_costs_nothing_is_still_ranked_by_its_use() -> None:
    state, index, budget = State(), NaiveEvictionIndex(), Budget(2, 1000)
    remember(TIDE, index, state, budget, "a", 10, 0.0)
    remember(TIDE, index, state, budget, "b", 10, 0.0)
    touch(TIDE, index, state, budget, "a", 1)
    _, evicted = remember(TIDE, index, state, budget, "c", 10, 0.0)
    assert [row.key for row in evicted] == ["b"]


def test_lru_and_lfu_evict_what_their_names_say() -> None:
    for name, victim in (("lru", "often"), ("lfu", "late")):
        state, index, budget = State(), NaiveEvictionIndex(), Budget(2, 1000)
        remember(POLICIES[name], index, state, budget, "often", 10, 1.0)
        touch(POLICIES[name], index, state, budget, "often", 3)
        remember(POLICIES[name], index, state, budget, "late", 10, 1.0)
        _, evicted = remember(POLICIES[name], index, state, budget, "new", 10, 1.0)
        assert [row.key for row in evicted] == [victim]
        assert state.ghosts == 0


@pytest.mark.parametrize(
    ("size_bytes", "cost_s", "message"),
    [(101, 1.0, "more than the budget"), (1, float("nan"), "finite"), (1, -1.0, "finite")],
)
def test_what_cannot_be_ranked_is_refused(size_bytes: int, cost_s: float, message: str) -> None:
    state, index = State(), NaiveEvictionIndex()
    with pytest.raises(ValueError, match=message):
        remember(TIDE, index, state, Budget(10, 100), "key", size_bytes, cost_s)
    assert state == State()


def test_a_smaller_budget_is_held_by_evicting_no_more_than_it_takes() -> None:
    state, index = State(), NaiveEvictionIndex()
    for number in range(10):
        remember(TIDE, index, state, Budget(10, 1000), f"k{number}", 10, 1.0 + number)
    assert [row.key for row in shrink(TIDE, index, state, Budget(7, 1000))] == ["k0", "k1", "k2"]
    assert [row.key for row in shrink(TIDE, index, state, Budget(7, 59))] == ["k3", "k4"]


@pytest.mark.parametrize(("name", "first"), [("tide", "k1"), ("lru", "k2"), ("lfu", "k1")])
def test_rows_of_another_policy_are_ranked_anew(name: str, first: str) -> None:
    index, budget = NaiveEvictionIndex(), Budget(10, 1000)
    rows = [
        Row("k2", 10, 1.0, touches=5, priority=1e9, live=True),
        Row("k1", 10, 1.0, touches=1, priority=2e9, live=True),
    ]
    state = adopt(POLICIES[name], index, budget, rows)
    lowest = index.lowest()
    assert lowest is not None
    assert lowest.key == first
    assert (state.entries, state.size_bytes) == (2, 20)


def test_totals_that_promise_more_rows_than_there_are_end_no_loop() -> None:
    state = State(entries=5, size_bytes=500, ghosts_once=99)
    budget, index = Budget(2, 100), NaiveEvictionIndex()
    row, evicted = remember(TIDE, index, state, budget, "key", 10, 1.0)
    assert row.live
    assert evicted == []
    assert forget(index, state, "key") is row
    assert shrink(TIDE, index, state, budget) == []


def database() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(TABLES.format(columns="model TEXT"))
    return connection
