"""Merges among other operations: rows, answers, ghosts and totals agree, and the best stay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, strategies as st

from asteady._base.requests import Completion
from asteady._cache.policy import POLICIES, Budget
from asteady._cache.store import transaction as _transaction
from asteady._cache.store.api import Clear, Delete, Incoming, Merge, Merged, Put, Touch
from asteady._cache.store.codec import CompletionCodec, checksum
from asteady._cache.store.schema import open_database
from asteady._cache.store.transaction import Tables, entry_bytes
from tests.cache.helpers import completion

CODEC = CompletionCodec()


def incoming(key: str, length: int, touches: int, priority: float, used_s: float) -> Incoming:
    return Incoming(
        key=key,
        size_bytes=entry_bytes(key, CODEC.encode(completion("m" * length))),
        cost_s=0.5,
        touches=touches,
        relative_priority=priority,
        created_s=1.0,
        used_s=used_s,
    )


def merge_of(entries: Sequence[Incoming]) -> Merge:
    lengths = {}
    for entry in entries:
        lengths[entry.key] = next(
            n
            for n in (1, 10, 300, 5000)
            if entry_bytes(entry.key, CODEC.encode(completion("m" * n))) == entry.size_bytes
        )

    def values(key: str) -> tuple[Any, ...]:
        made = CODEC.encode(completion("m" * lengths[key]))
        return (checksum(key, 0.5, made), *made, None)

    return Merge(entries, values)


keys = st.sampled_from([f"k{number}" for number in range(12)])
lengths = st.sampled_from([1, 10, 300, 5000])
merges = st.lists(
    st.builds(incoming, keys, lengths, st.integers(1, 9), st.floats(-1, 12), st.floats(0, 1e9)),
    max_size=12,
    unique_by=lambda entry: entry.key,
).map(merge_of)
operations = st.one_of(
    merges,
    st.builds(Put, keys, lengths.map(lambda n: completion("p" * n)), st.sampled_from([0.5, 3.0])),
    st.builds(Delete, keys),
    st.builds(
        Touch, st.lists(st.tuples(keys, st.integers(1, 3)), max_size=3), st.just({"hits": 1})
    ),
    st.just(Clear()),
)
groups = st.lists(st.lists(operations, max_size=10), max_size=6)
budgets = st.builds(Budget, st.integers(1, 5), st.sampled_from([2_000, 10_000, 10**6]))


@pytest.mark.parametrize("policy", POLICIES)
@given(groups=groups, budget=budgets, buffer_bytes=st.sampled_from([0, 1000, 10**9]))
def test_rows_answers_and_totals_agree_after_every_commit(
    policy: str, groups: list[list[Any]], budget: Budget, buffer_bytes: int
) -> None:
    tables: Tables[Completion] = Tables(POLICIES[policy], budget, CODEC)
    with (
        TemporaryDirectory() as directory,
        mock.patch.object(_transaction, "MERGE_BUFFER_BYTES", buffer_bytes),
    ):
        connection = open_database(Path(directory) / "x.db", CODEC.columns, budget.max_bytes)
        tables.settle(connection)
        for group in groups:
            known = set(tables.keys(connection))
            removals = tables.removals(connection)
            result = tables.commit(connection, group)
            live = set(tables.keys(connection))
            assert known - live <= result.gone
            assert result.removals - removals >= len(known - live)
            for key in live:
                reading = tables.read(connection, key)
                assert not reading.damaged
                assert reading.answer is not None
            entries = tables.entries(connection, -1, "priority")
            totals = tables.totals(connection)
            assert totals["entries"] == len(entries) <= budget.max_entries
            size_bytes = sum(entry.size_bytes for entry in entries)
            assert totals["size_bytes"] == size_bytes <= budget.max_bytes
            ghosts = connection.execute(
                "SELECT count(*) FROM ghost WHERE touches = 1"
                " UNION ALL SELECT count(*) FROM ghost WHERE touches != 1"
            ).fetchall()
            assert ghosts == [(totals["ghosts_once"],), (totals["ghosts_more"],)]
            (answers,) = connection.execute("SELECT count(*) FROM answer").fetchone()
            assert answers == len(live)
            for op, merged in zip(group, result.results, strict=True):
                if isinstance(op, Merge):
                    assert isinstance(merged, Merged)
                    assert merged.entries == len(op.entries)
                    parts = (merged.known, merged.added, merged.declined, merged.oversized)
                    assert sum(parts) == merged.entries
        connection.close()


def test_what_was_never_here_is_not_evicted(tmp_path: Path) -> None:
    tables: Tables[Completion] = Tables(POLICIES["tide"], Budget(2, 10**6), CODEC)
    connection = open_database(tmp_path / "x.db", CODEC.columns, 10**6)
    merge = merge_of([incoming(f"k{n}", 10, 3, 3.0 + n, 5.0) for n in range(5)])
    result = tables.commit(connection, [merge])
    assert (result.evictions, result.gone) == (0, set())
    assert result.results[0].declined == 3
    assert tables.keys(connection) == ["k3", "k4"]
    connection.close()


def test_what_a_merge_raises_undoes_all_of_it(tmp_path: Path) -> None:
    tables: Tables[Completion] = Tables(POLICIES["tide"], Budget(5, 10**6), CODEC)
    connection = open_database(tmp_path / "x.db", CODEC.columns, 10**6)
    tables.commit(connection, [Put("k0", completion("p"), 0.5)])
    before = list(connection.iterdump())
    good = merge_of([incoming(f"k{n}", 10, 3, 3.0, 5.0) for n in range(5)])

    def broken(key: str) -> tuple[Any, ...]:
        if key == "k3":
            raise ArithmeticError(key)
        return good.values(key)

    with pytest.raises(ArithmeticError):
        tables.commit(connection, [Merge(good.entries, broken)])
    assert list(connection.iterdump()) == before
    connection.close()
