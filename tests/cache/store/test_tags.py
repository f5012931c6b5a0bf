"""Tags in group commits: they come and go with their entries, and never outlive them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, strategies as st

from asteady._base.requests import Completion, is_below
from asteady._cache.policy import POLICIES, Budget
from asteady._cache.store.api import Clear, Delete, Put, Tag, Touch, Untag
from asteady._cache.store.codec import CompletionCodec
from asteady._cache.store.schema import open_database
from asteady._cache.store.transaction import Tables, entry_bytes, tag_bytes
from tests.cache.helpers import completion

CODEC = CompletionCodec()
PATHS = ["emails", "emails/marketing", "emails/marketing/summer", "emails-old", "e", "docs"]

keys = st.sampled_from([f"k{number}" for number in range(10)])
paths = st.sampled_from(PATHS)
answers = st.sampled_from([1, 10, 300, 5000]).map(lambda n: completion("x" * n))
operations = st.one_of(
    st.builds(
        Put,
        keys,
        answers,
        st.sampled_from([0.5, 3.0]),
        st.just(()),
        st.lists(paths, max_size=2, unique=True).map(tuple),
    ),
    st.builds(Tag, keys, paths),
    st.builds(Untag, paths),
    st.builds(Delete, keys),
    st.builds(Touch, st.lists(st.tuples(keys, st.integers(1, 3)), max_size=3), st.just({})),
    st.just(Clear()),
)
groups = st.lists(st.lists(operations, max_size=20), max_size=6)
budgets = st.builds(Budget, st.integers(1, 6), st.sampled_from([3_000, 12_000, 10**6]))


@contextmanager
def database(directory: str, name: str, tables: Tables[Completion]) -> Iterator[sqlite3.Connection]:
    path = Path(directory) / name
    with closing(open_database(path, CODEC.columns, tables.budget.max_bytes)) as connection:
        tables.settle(connection)
        yield connection


def tags(connection: sqlite3.Connection, tables: Tables[Completion]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {key: set() for key in tables.keys(connection)}
    rows = connection.execute("SELECT key, namespace FROM entry JOIN tag USING (slot)").fetchall()
    for key, path in rows:
        found[key].add(path)
    (stored,) = connection.execute("SELECT count(*) FROM tag").fetchone()
    assert stored == len(rows), "a tag without its entry"
    return found


def after(before: dict[str, set[str]], op: Any, result: Any, live: set[str]) -> dict[str, set[str]]:
    """What one operation makes of the tags, naively; `live` are the keys left by it."""
    now = {key: set(held_by) for key, held_by in before.items()}
    match op:
        case Put() if result is True:
            now[op.key] = now.get(op.key, set()) | set(op.namespaces)
        case Tag() if result is True:
            now[op.key].add(op.namespace)
        case Untag():
            for key, held_by in before.items():
                now[key] = {path for path in held_by if not is_below(path, op.namespace)}
                assert (key in live) == (not held_by or bool(now[key]))
    return {key: held_by for key, held_by in now.items() if key in live}


@pytest.mark.parametrize("policy", POLICIES)
@given(groups=groups, budget=budgets)
def test_tags_follow_their_entries_alone_and_in_groups(
    policy: str, groups: list[list[Any]], budget: Budget
) -> None:
    tables: Tables[Completion] = Tables(POLICIES[policy], budget, CODEC, lambda: 1.0)
    with (
        TemporaryDirectory() as directory,
        database(directory, "alone.db", tables) as alone,
        database(directory, "grouped.db", tables) as grouped,
    ):
        sizes: dict[str, int] = {}
        for group in groups:
            results = []
            for op in group:
                before, removals = tags(alone, tables), tables.removals(alone)
                outcome = tables.commit(alone, [op])
                (result,) = outcome.results
                results.append(result)
                live = set(tables.keys(alone))
                expected = after(before, op, result, live)
                assert tags(alone, tables) == expected
                if isinstance(op, Put) and result is True:
                    sizes[op.key] = entry_bytes(op.key, CODEC.encode(op.answer))
                if isinstance(op, Untag):
                    assert result == len(before) - len(live) == len(outcome.gone)
                    assert tables.removals(alone) > removals
                for entry in tables.entries(alone, -1, "priority"):
                    assert entry.size_bytes == sizes[entry.key] + tag_bytes(expected[entry.key])
                totals = tables.totals(alone)
                assert totals["entries"] == len(live) <= budget.max_entries
                assert totals["size_bytes"] <= budget.max_bytes
            assert list(map(str, tables.commit(grouped, group).results)) == list(map(str, results))
            assert tags(grouped, tables) == tags(alone, tables)
        assert tables.entries(grouped, -1, "priority") == tables.entries(alone, -1, "priority")
        check_reading(grouped, tables)


def check_reading(connection: sqlite3.Connection, tables: Tables[Completion]) -> None:
    held_by = tags(connection, tables)
    sizes = {entry.key: entry.size_bytes for entry in tables.entries(connection, -1, "priority")}
    for path in PATHS:
        below = {key for key in held_by if any(is_below(tag, path) for tag in held_by[key])}
        assert tables.holding(connection, path).entries == len(below)
        assert tables.holding(connection, path).size_bytes == sum(sizes[key] for key in below)
        listed = tables.entries(connection, -1, "size", path)
        assert {entry.key for entry in listed} == below
        itself = {key for key in held_by if path in held_by[key]}
        own = tables.holdings(connection).get(path)
        assert (0 if own is None else own.entries) == len(itself)
        assert itself == {key for key in held_by if tables.tagged(connection, key, path)}


def test_an_entry_does_not_grow_beyond_the_budget_by_its_tags() -> None:
    tables: Tables[Completion] = Tables(POLICIES["tide"], Budget(9, 2_500), CODEC, lambda: 1.0)
    with TemporaryDirectory() as directory, database(directory, "x.db", tables) as connection:
        tables.commit(connection, [Put("k0", completion(), 9.0), Put("k1", completion(), 0.1)])
        group = [Tag("k0", f"{number:0100}") for number in range(9)]
        results = tables.commit(connection, group).results
        held = sum(results)
        assert 0 < held < 9
        assert results == [True] * held + [False] * (9 - held)
        assert tables.keys(connection) == ["k0"]
        assert tables.totals(connection)["size_bytes"] <= 2_500
        # The tags that fit are there already.
        assert tables.commit(connection, group).results == results
