"""The eviction index in SQLite, read and written in batches within one transaction.

Rows that were found or changed stay in memory until `flush`; candidates for eviction and the oldest
ghosts are fetched some dozens at a time, in order. The policy sees exactly the tables with its
changes applied.

Ghosts have a table of their own, with a digest instead of the key: there are three for each entry,
every put at full budget adds one and drops one, and each page that such small changes touch is
written whole (docs/performance.md).
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from sqlite3 import Connection
from typing import Any

from asteady._base.requests import Key
from asteady._cache.policy import Row

# Candidates fetched at once: a group commit evicts about as many entries as it stores. At least 2:
# the first one may be the row that the policy is changing, which is not a candidate.
FETCH = 64
FEW = 4

COLUMNS = "key, size_bytes, cost_s, touches, priority, slot, created_s, used_s"
_values_of = attrgetter(*COLUMNS.split(", "))
_MARKS = ", ".join("?" * FETCH)
_FIND = f"SELECT {COLUMNS} FROM entry WHERE key = ?"
_EXPECT = f"SELECT {COLUMNS} FROM entry WHERE key IN ({_MARKS})"
_SAVE = f"INSERT OR REPLACE INTO entry ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_REMOVE = "DELETE FROM entry WHERE key = ?"
_LOWEST = f"SELECT {COLUMNS} FROM entry ORDER BY priority, key LIMIT ?"
_BY_USE = f"SELECT {COLUMNS} FROM entry ORDER BY used_s, key"
_FIND_GHOST = "SELECT mark, seq, touches, turn FROM ghost WHERE mark = ?"
_EXPECT_GHOSTS = f"SELECT mark, seq, touches, turn FROM ghost WHERE mark IN ({_MARKS})"
_OLDEST = "SELECT seq, touches FROM ghost WHERE seq > ? ORDER BY seq LIMIT ?"
_SAVE_GHOST = "INSERT INTO ghost (mark, touches, turn) VALUES (?, ?, ?)"
_DROP_UP_TO = "DELETE FROM ghost WHERE seq <= ?"
_REMOVE_GHOST = "DELETE FROM ghost WHERE seq = ?"


def mark_of(key: Key) -> int:
    """60 bits that identify a ghost; two keys that share them count as one."""
    # The key of a request is a digest already: its last digits are enough.
    if len(key) == 64:
        try:
            return int(key[49:], 16)
        except ValueError:
            pass
    return int(hashlib.sha256(key.encode()).hexdigest()[49:], 16)


def row_of(values: tuple[Any, ...]) -> Row:
    """The live row with these values of `COLUMNS`."""
    key, size_bytes, cost_s, touches, priority, slot, created_s, used_s = values
    return Row(key, size_bytes, cost_s, touches, priority, 0.0, True, slot, created_s, used_s)


class SqliteEvictionIndex:
    """An `EvictionIndex` over the tables `entry` and `ghost`; lives for one transaction."""

    def __init__(self, connection: Connection, fetch: int = FETCH) -> None:
        self._connection = connection
        self._fetch = fetch
        self._begin()

    def _begin(self) -> None:
        # By key: its entry, its ghost, or None if there is neither.
        self._rows: dict[Key, Row | None] = {}
        # To be written: entries, or None where one is to be deleted.
        self._changed: dict[Key, Row | None] = {}
        self._live = _Queue(self._rows, self._fetch_lowest, self._fetch)
        self._ghosts = _Ghosts(self._connection, self._fetch)

    def find(self, key: Key) -> Row | None:
        try:
            row = self._rows[key]
        except KeyError:
            row = self._rows[key] = self._read(key)
        if row is None or row.live or self._ghosts.holds(key):
            return row
        # It was the oldest, and has been dropped.
        self._rows[key] = None
        return None

    def expect(self, keys: Sequence[Key]) -> None:
        """Read the rows of these keys at once, before `find` is called for each."""
        if len(keys) < FEW:
            return
        rows = self._rows
        for start in range(0, len(keys), FETCH):
            some = keys[start : start + FETCH]
            rows.update(dict.fromkeys(some))
            # Always the same number of marks, so that the statement is compiled once.
            marks = [*some, *[some[0]] * (FETCH - len(some))]
            for values in self._connection.execute(_EXPECT, marks):
                rows[values[0]] = row_of(values)
            rows.update(self._ghosts.expect([key for key in some if rows[key] is None]))

    def save(self, row: Row) -> None:
        key = row.key
        self._rows[key] = row
        if row.live:
            self._changed[key] = row
            self._live.offer(row)
        else:
            self._changed[key] = None
            self._ghosts.add(row)

    def remove(self, row: Row) -> None:
        key = row.key
        if row.live or not self._ghosts.remove(key):
            self._changed[key] = None
        self._rows[key] = None

    def lowest(self) -> Row | None:
        return self._live.first()

    def drop_oldest_ghost(self) -> int | None:
        return self._ghosts.drop_oldest()

    def by_use(self) -> list[Row]:
        """All live rows, the one used longest ago first."""
        return [row_of(values) for values in self._connection.execute(_BY_USE)]

    def flush(self) -> None:
        """Write the changes. Rows that were found before must be found again."""
        self._flush_entries()
        self._ghosts.flush()
        self._begin()

    def _flush_entries(self) -> None:
        execute, changed = self._connection.executemany, self._changed
        if changed:
            execute(_REMOVE, [(key,) for key, row in changed.items() if row is None])
            execute(_SAVE, [_values_of(row) for row in changed.values() if row is not None])
            changed.clear()

    def _read(self, key: Key) -> Row | None:
        values = self._connection.execute(_FIND, (key,)).fetchone()
        return self._ghosts.find(key) if values is None else row_of(values)

    def _fetch_lowest(self) -> list[Row]:
        # The table must have the changes, for its order.
        self._flush_entries()
        found = []
        for values in self._connection.execute(_LOWEST, (self._fetch,)).fetchall():
            row = self._rows.get(values[0])
            if row is None:
                row = self._rows[values[0]] = row_of(values)
            found.append(row)
        return found


class _Queue:
    """Live rows by priority: a heap of those at or below the last one fetched."""

    def __init__(
        self, rows: dict[Key, Row | None], fetch: Callable[[], list[Row]], limit: int
    ) -> None:
        self._rows = rows
        self._fetch = fetch
        self._limit = limit
        self._heap: list[tuple[float, Key]] = []
        # Rows above the horizon are in the table only.
        self._horizon: tuple[float, Key] = (-math.inf, "")

    def offer(self, row: Row) -> None:
        place = (row.priority, row.key)
        if place <= self._horizon:
            heapq.heappush(self._heap, place)

    def first(self) -> Row | None:
        found = self._in_heap()
        while found is None and self._horizon[0] != math.inf:
            rows = self._fetch()
            # Sorted, and so a heap.
            self._heap = [(row.priority, row.key) for row in rows]
            self._horizon = self._heap[-1] if len(rows) == self._limit else (math.inf, "")
            found = self._in_heap()
        return found

    def _in_heap(self) -> Row | None:
        heap, rows = self._heap, self._rows
        while heap:
            priority, key = heap[0]
            row = rows.get(key)
            # A row that has changed was offered again at its new place.
            if row is not None and row.live and row.priority == priority:
                return row
            heapq.heappop(heap)
        return None


class _Ghosts:
    """The table of ghosts, numbered in the order of their eviction."""

    def __init__(self, connection: Connection, fetch: int) -> None:
        self._connection = connection
        self._fetch = fetch
        # The numbers of ghosts found by their keys, and ghosts that are not written yet.
        self._numbers: dict[Key, int] = {}
        self._new: dict[Key, Row] = {}
        # The next to drop, and the number of the last one dropped.
        self._oldest: deque[tuple[int, int]] = deque()
        self._dropped = 0
        self._fetched = 0
        self._all_fetched = False
        self._returned: set[int] = set()

    def holds(self, key: Key) -> bool:
        return key in self._new or self._numbers.get(key, 0) > self._dropped

    def find(self, key: Key) -> Row | None:
        found = self._connection.execute(_FIND_GHOST, (mark_of(key),))
        return self._taken(found, {mark_of(key): key}).get(key)

    def expect(self, keys: Sequence[Key]) -> dict[Key, Row]:
        if not keys:
            return {}
        by_mark = {mark_of(key): key for key in keys}
        marks = [*by_mark, *[mark_of(keys[0])] * (FETCH - len(by_mark))]
        return self._taken(self._connection.execute(_EXPECT_GHOSTS, marks), by_mark)

    def _taken(
        self, found: Iterable[tuple[int, int, int, float]], by_mark: dict[int, Key]
    ) -> dict[Key, Row]:
        rows = {}
        for mark, number, touches, turn in found:
            key = by_mark[mark]
            self._numbers[key] = number
            rows[key] = Row(key, 0, 0.0, touches, 0.0, turn)
        return rows

    def add(self, row: Row) -> None:
        self._new[row.key] = row

    def remove(self, key: Key) -> bool:
        if self._new.pop(key, None) is not None:
            return True
        number = self._numbers.pop(key, None)
        if number is not None:
            self._returned.add(number)
        return number is not None

    def drop_oldest(self) -> int | None:
        oldest = self._oldest
        while True:
            if not oldest and not self._all_fetched:
                oldest.extend(self._connection.execute(_OLDEST, (self._fetched, self._fetch)))
                self._all_fetched = len(oldest) < self._fetch
                self._fetched = oldest[-1][0] if oldest else self._fetched
            if not oldest:
                break
            number, touches = oldest.popleft()
            self._dropped = number
            if number not in self._returned:
                return touches
        for key in self._new:
            return self._new.pop(key).touches
        return None

    def flush(self) -> None:
        """Write the changes; this object must not be used afterwards."""
        connection = self._connection
        if self._dropped:
            connection.execute(_DROP_UP_TO, (self._dropped,))
        if self._returned:
            connection.executemany(_REMOVE_GHOST, [(number,) for number in self._returned])
        if self._new:
            rows = [(mark_of(key), row.touches, row.turn) for key, row in self._new.items()]
            connection.executemany(_SAVE_GHOST, rows)
