"""Group commits against a dictionary: whatever the order, rows, answers and totals agree."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, strategies as st

from asteady._base.requests import Completion
from asteady._cache.policy import POLICIES, Budget
from asteady._cache.store.api import Clear, Delete, OversizedError, Put, Touch
from asteady._cache.store.codec import CompletionCodec
from asteady._cache.store.schema import open_database
from asteady._cache.store.transaction import Tables
from tests.cache.helpers import completion

keys = st.sampled_from([f"k{number}" for number in range(15)])
lengths = st.sampled_from([1, 10, 300, 5000])
operations = st.one_of(
    st.builds(Put, keys, lengths.map(lambda n: completion("x" * n)), st.sampled_from([0.5, 3.0])),
    st.builds(Put, keys, lengths.map(lambda n: completion("y" * n)), st.just(0.5)),
    st.builds(Delete, keys, st.booleans()),
    st.builds(
        Touch, st.lists(st.tuples(keys, st.integers(1, 3)), max_size=3), st.just({"hits": 1})
    ),
    st.just(Clear()),
)
groups = st.lists(st.lists(operations, max_size=30), max_size=8)
budgets = st.builds(Budget, st.integers(1, 5), st.sampled_from([2_000, 10_000, 10**6]))


@pytest.mark.parametrize("policy", POLICIES)
@given(groups=groups, budget=budgets)
def test_rows_answers_and_totals_agree_after_every_commit(
    policy: str, groups: list[list[Any]], budget: Budget
) -> None:
    codec = CompletionCodec()
    tables: Tables[Completion] = Tables(POLICIES[policy], budget, codec)
    texts: dict[str, str] = {}
    with TemporaryDirectory() as directory:
        connection = open_database(Path(directory) / "x.db", codec.columns, budget.max_bytes)
        tables.settle(connection)
        for group in groups:
            before = tables.removals(connection)
            known = set(tables.keys(connection))
            outcome = tables.commit(connection, group)
            for op, result in zip(group, outcome.results, strict=True):
                if isinstance(op, Put):
                    assert isinstance(result, bool | OversizedError)
                    if result is True:
                        texts[op.key] = op.answer.text
            live = set(tables.keys(connection))
            assert outcome.before == before
            assert outcome.removals == tables.removals(connection)
            assert not outcome.gone & live
            assert outcome.stored <= live
            assert live - known <= outcome.stored
            assert known - live <= outcome.gone
            for key in live:
                reading = tables.read(connection, key)
                assert not reading.damaged
                assert reading.answer is not None
                assert reading.answer.text == texts[key]
            entries = tables.entries(connection, -1, "priority")
            totals = tables.totals(connection)
            assert totals["entries"] == len(entries) == len(live) <= budget.max_entries
            size_bytes = sum(entry.size_bytes for entry in entries)
            assert totals["size_bytes"] == size_bytes <= budget.max_bytes
            (answers,) = connection.execute("SELECT count(*) FROM answer").fetchone()
            assert answers == len(live)
            (ghosts,) = connection.execute("SELECT count(*) FROM ghost").fetchone()
            assert ghosts == totals["ghosts_once"] + totals["ghosts_more"]
        connection.close()


def test_a_cleared_database_gives_its_pages_back(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    codec = CompletionCodec()
    tables: Tables[Completion] = Tables(POLICIES["tide"], Budget(1000, 10**8), codec)
    connection = open_database(path, codec.columns, 10**8)
    text = completion("x" * 5000, chunks=("x" * 5000,))
    for number in range(10):
        tables.commit(
            connection,
            [Put(f"{number} {n}", text, 1.0) for n in range(50)],
        )
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    tables.commit(connection, [Clear()])
    (left,) = connection.execute("PRAGMA page_count").fetchone()
    assert pages > 300
    assert left < 20
    connection.close()


def test_removing_many_gives_pages_back_by_and_by(tmp_path: Path) -> None:
    codec = CompletionCodec()
    tables: Tables[Completion] = Tables(POLICIES["tide"], Budget(1000, 10**8), codec)
    connection = open_database(tmp_path / "x.db", codec.columns, 10**8)
    names = [f"k{number}" for number in range(300)]
    text = completion("x" * 9000, chunks=("x" * 9000,))
    tables.commit(connection, [Put(name, text, 1.0) for name in names])
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    for name in names:
        tables.commit(connection, [Delete(name)])
    (left,) = connection.execute("PRAGMA page_count").fetchone()
    assert pages > 300
    assert left < 40
    connection.close()
