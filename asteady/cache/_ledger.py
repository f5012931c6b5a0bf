"""The policy's ledger in SQLite, read and written in bunches within one transaction.

Rows that were found or changed are kept until `flush`; candidates for eviction are fetched some
dozens at a time, in the order of the index. What the policy sees is exactly the table with its
changes applied.
"""

from __future__ import annotations

import heapq
import math
import sqlite3
from collections.abc import Iterable, Sequence

from asteady._requests import Key
from asteady.cache._frecency import Row

# Candidates fetched at once: a group commit evicts about as many entries as it stores. At least 2:
# the row that a policy is at work on may come first, and is none.
FETCH = 64
FEW = 4

COLUMNS = "key, size_bytes, cost_s, touches, priority, turn, live, slot, created_s, used_s"
_FIND = f"SELECT {COLUMNS} FROM entry WHERE key = ?"
_EXPECT = f"SELECT {COLUMNS} FROM entry WHERE key IN ({', '.join('?' * FETCH)})"
_SAVE = f"INSERT OR REPLACE INTO entry ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_REMOVE = "DELETE FROM entry WHERE key = ?"
_LOWEST = f"SELECT {COLUMNS} FROM entry WHERE live = 1 ORDER BY priority, key LIMIT ?"
_BY_USE = f"SELECT {COLUMNS} FROM entry WHERE live = 1 ORDER BY used_s, key"
_GHOSTS = f"SELECT {COLUMNS} FROM entry WHERE live = 0 ORDER BY turn, key LIMIT ?"


def row_of(values: tuple[object, ...]) -> Row:
    # `live` stays the 0 or 1 that it is in SQLite.
    return Row(*values)  # type: ignore[arg-type]  # the columns are in the order of its fields


class SqlLedger:
    """A `Ledger` over the table `entry`; lives for one transaction."""

    def __init__(self, connection: sqlite3.Connection, fetch: int = FETCH) -> None:
        self._connection = connection
        self._rows: dict[Key, Row | None] = {}
        self._changed: dict[Key, Row | None] = {}
        self._live = _Queue(self, _LOWEST, fetch, live=True)
        self._ghosts = _Queue(self, _GHOSTS, fetch, live=False)

    def find(self, key: Key) -> Row | None:
        try:
            return self._rows[key]
        except KeyError:
            values = self._connection.execute(_FIND, (key,)).fetchone()
            row = self._rows[key] = None if values is None else row_of(values)
            return row

    def expect(self, keys: Sequence[Key]) -> None:
        """Read the rows of these keys in one go; each will be asked for."""
        if len(keys) < FEW:
            return
        for start in range(0, len(keys), FETCH):
            some = keys[start : start + FETCH]
            # Always as many marks, so that the statement is compiled once.
            marks = [*some, *[some[0]] * (FETCH - len(some))]
            self._rows.update(dict.fromkeys(some))
            for values in self._connection.execute(_EXPECT, marks):
                row = row_of(values)
                self._rows[row.key] = row

    def save(self, row: Row) -> None:
        self._rows[row.key] = self._changed[row.key] = row
        (self._live if row.live else self._ghosts).offer(row)

    def remove(self, row: Row) -> None:
        self._rows[row.key] = self._changed[row.key] = None

    def lowest(self) -> Row | None:
        return self._live.first()

    def oldest_ghost(self) -> Row | None:
        return self._ghosts.first()

    def by_use(self) -> list[Row]:
        """All live rows, the one used longest ago first."""
        return [row_of(values) for values in self._connection.execute(_BY_USE)]

    def flush(self) -> None:
        """Write what has changed."""
        changed, self._changed = self._changed, {}
        self._connection.executemany(
            _REMOVE, [(key,) for key, row in changed.items() if row is None]
        )
        self._connection.executemany(
            _SAVE,
            [
                (
                    row.key,
                    row.size_bytes,
                    row.cost_s,
                    row.touches,
                    row.priority,
                    row.turn,
                    row.live,
                    row.slot,
                    row.created_s,
                    row.used_s,
                )
                for row in changed.values()
                if row is not None
            ],
        )

    def fetch(self, sql: str, limit: int) -> Iterable[Row]:
        """Rows from the table, after a flush."""
        self.flush()
        for values in self._connection.execute(sql, (limit,)).fetchall():
            row = self._rows.get(values[0])
            if row is None:
                row = self._rows[values[0]] = row_of(values)
            yield row


class _Queue:
    """The rows of one kind in their order: a heap of those at or below the last one fetched."""

    def __init__(self, ledger: SqlLedger, sql: str, fetch: int, *, live: bool) -> None:
        self._ledger = ledger
        self._sql = sql
        self._fetch = fetch
        self._wanted = live
        self._heap: list[tuple[float, Key]] = []
        # Rows above the horizon are in the table only.
        self._horizon: tuple[float, Key] = (-math.inf, "")

    def _rank(self, row: Row) -> float:
        return row.priority if self._wanted else row.turn

    def offer(self, row: Row) -> None:
        rank = self._rank(row)
        if (rank, row.key) <= self._horizon:
            heapq.heappush(self._heap, (rank, row.key))

    def first(self) -> Row | None:
        found = self._in_heap()
        while found is None and self._horizon[0] != math.inf:
            self._refill()
            found = self._in_heap()
        return found

    def _in_heap(self) -> Row | None:
        heap, rows = self._heap, self._ledger._rows
        while heap:
            rank, key = heap[0]
            row = rows.get(key)
            # A row that has changed since was offered again at its new place.
            if row is not None and row.live == self._wanted and self._rank(row) == rank:
                return row
            heapq.heappop(heap)
        return None

    def _refill(self) -> None:
        rows = list(self._ledger.fetch(self._sql, self._fetch))
        self._heap = [(self._rank(row), row.key) for row in rows]
        heapq.heapify(self._heap)
        self._horizon = max(self._heap) if len(rows) == self._fetch else (math.inf, "")
