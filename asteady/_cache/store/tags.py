"""Which namespaces hold an entry: their tags, within a transaction and for whoever reads.

A tag is the path of a namespace at the slot of an entry. It comes and goes with the entry, in the
same transaction, and what it takes of the file is part of the entry's size.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from asteady._base.requests import Key, is_below
from asteady._cache.policy import Row, forget, shrink
from asteady._cache.store.api import Holding, Tag, Untag

if TYPE_CHECKING:
    from asteady._cache.store.transaction import _Commit

# What a tag takes of a page besides its path, and pages are half full where tags come and go.
# Measured, see docs/performance.md.
TAG_BYTES = 8
FILL = 2

TABLE = """CREATE TABLE tag (
    slot INTEGER NOT NULL,
    namespace TEXT NOT NULL,
    PRIMARY KEY (slot, namespace)
) WITHOUT ROWID"""

# `is_below`, in SQL.
BELOW = "(namespace = :path OR substr(namespace, 1, length(:path) + 1) = :path || '/')"
HELD = f"slot IN (SELECT slot FROM tag WHERE {BELOW})"


def tag_bytes(namespaces: Iterable[str]) -> int:
    """What these tags of one entry take of the byte budget."""
    return sum(FILL * (TAG_BYTES + len(path.encode())) for path in namespaces)


class TagLedger:
    """The tags by slot, read when they are asked for; lives for one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._stored: dict[int, frozenset[str]] = {}
        self._now: dict[int, set[str]] = {}
        self._any: bool | None = None

    def of(self, slot: int) -> set[str]:
        """The namespaces that hold the entry at this slot; changes to it count."""
        found = self._now.get(slot)
        if found is None:
            stored: frozenset[str] = frozenset()
            if self._in_use():
                sql = "SELECT namespace FROM tag WHERE slot = ?"
                stored = frozenset(path for (path,) in self._connection.execute(sql, (slot,)))
            self._stored[slot] = stored
            found = self._now[slot] = set(stored)
        return found

    def bytes_with(self, row: Row | None, namespaces: Iterable[str]) -> int:
        """What the tags of this row's entry take, once these are among them."""
        if row is not None and row.live and (self._now or self._in_use()):
            return tag_bytes(self.of(row.slot).union(namespaces))
        return tag_bytes(namespaces)

    def vacated(self, slot: int) -> None:
        """The entry at this slot has gone."""
        # Nearly all caches have no tags at all, and pay for one look in a transaction.
        if self._now or self._in_use():
            self.of(slot).clear()

    def flush(self) -> None:
        """Write what has changed."""
        if not self._now:
            return
        stored, now = self._stored, self._now
        self._connection.executemany(
            "DELETE FROM tag WHERE slot = ? AND namespace = ?",
            [(slot, path) for slot in now for path in stored[slot] - now[slot]],
        )
        self._connection.executemany(
            "INSERT INTO tag (slot, namespace) VALUES (?, ?)",
            [(slot, path) for slot in now for path in now[slot] - stored[slot]],
        )
        stored.clear()
        now.clear()
        self._any = None

    def _in_use(self) -> bool:
        if self._any is None:
            sql = "SELECT EXISTS (SELECT 1 FROM tag)"
            self._any = bool(self._connection.execute(sql).fetchone()[0])
        return self._any


# -- operations within a transaction --------------------------------------------------------------


def add_tag(commit: _Commit[Any], op: Tag) -> bool:
    """Do the operation within the transaction that `commit` is."""
    row = commit.ledger.find(op.key)
    if row is None or not row.live:
        return False
    add_tags(commit, row, (op.namespace,))
    tables = commit.tables
    commit.dropped(shrink(tables.policy, commit.ledger, commit.state, tables.budget))
    return op.namespace in commit.tags.of(row.slot)


def add_tags(commit: _Commit[Any], row: Row, namespaces: Collection[str]) -> None:
    """Have these hold a live entry, unless that made it larger than the whole budget; the cache may
    be larger than its budget then."""
    if not namespaces:
        return
    held_by = commit.tags.of(row.slot)
    new = set(namespaces) - held_by
    more_bytes = tag_bytes(new)
    if row.size_bytes + more_bytes <= commit.tables.budget.max_bytes:
        held_by |= new
        _resize(commit, row, more_bytes)


def remove_tags(commit: _Commit[Any], op: Untag) -> int:
    """Do the operation within the transaction that `commit` is."""
    commit.ledger.flush()
    commit.tags.flush()
    found = commit.connection.execute(
        f"SELECT key FROM entry WHERE {HELD} ORDER BY key", {"path": op.namespace}
    ).fetchall()
    removed = 0
    for (key,) in found:
        row = commit.ledger.find(key)
        assert row is not None
        held_by = commit.tags.of(row.slot)
        going = {path for path in held_by if is_below(path, op.namespace)}
        if going == held_by:
            forget(commit.ledger, commit.state, key)
            commit.vacate(row)
            removed += 1
        else:
            held_by -= going
            _resize(commit, row, -tag_bytes(going))
    # Also when no entry went: other processes know some as held that are so no more.
    commit.removals += 1
    return removed


def _resize(commit: _Commit[Any], row: Row, more_bytes: int) -> None:
    row.size_bytes += more_bytes
    commit.state.size_bytes += more_bytes
    commit.ledger.save(row)


# -- reading --------------------------------------------------------------------------------------


def tagged(connection: sqlite3.Connection, key: Key, namespace: str) -> bool:
    """Whether this very namespace holds the entry."""
    sql = "SELECT 1 FROM entry CROSS JOIN tag USING (slot) WHERE key = ? AND namespace = ?"
    return connection.execute(sql, (key, namespace)).fetchone() is not None


def holding(connection: sqlite3.Connection, path: str) -> Holding:
    """What the namespace and all below it hold, each entry counted once."""
    sql = f"SELECT count(*), coalesce(sum(size_bytes), 0) FROM entry WHERE {HELD}"
    return Holding(*connection.execute(sql, {"path": path}).fetchone())


def holdings(connection: sqlite3.Connection) -> dict[str, Holding]:
    """What each namespace holds itself, in the order of their paths."""
    rows = connection.execute(
        "SELECT namespace, count(*), sum(size_bytes) FROM entry CROSS JOIN tag USING (slot)"
        " GROUP BY namespace ORDER BY namespace"
    )
    return {path: Holding(entries, size_bytes) for path, entries, size_bytes in rows}
