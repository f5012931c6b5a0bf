"""What happens to the database in one group commit, and in one read: plain blocking functions.

Each runs as one hop on a connection's thread. They know SQL, the policy and the codec, and nothing
of asyncio.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import attrs

from asteady._base.requests import Key
from asteady._cache.policy import (
    Budget,
    Policy,
    Row,
    State,
    adopt,
    forget,
    remember,
    shrink,
    touch,
)
from asteady._cache.store.api import (
    Clear,
    Delete,
    Entry,
    Merge,
    Operation,
    Order,
    Outcome,
    OversizedError,
    Put,
    Reading,
    Tag,
    Touch,
    Untag,
)
from asteady._cache.store.codec import (
    Codec,
    DamagedError,
    Values,
    checksum,
    payload_bytes,
    read_back,
)
from asteady._cache.store.eviction_index import FETCH, FEW, SqlLedger
from asteady._cache.store.merging import merge
from asteady._cache.store.stored_request import Request, beginning, believed, kept_text
from asteady._cache.store.tags import HELD, TagLedger, add_tag, remove_tags

log = logging.getLogger("asteady")
A = TypeVar("A")

# What an entry takes of the file besides its values: its row, its place in the indexes, and its
# three ghosts. Pages are about two thirds full where answers of all lengths come and go, so values
# count half as much again. Measured, see docs/performance.md.
ROW_BYTES = 512
FILL = 1.5

# Free pages that stay in the file for the next answers, and how many more one commit gives back.
FREE_PAGES = 16
VACUUM_PAGES = 64

_STATE = (
    "SELECT entries, size_bytes, level, phi, turn, ghosts_once, ghosts_more,"
    " newcomers, mean_share, slots, removals, evictions FROM cache"
)
_SAVE_STATE = (
    "UPDATE cache SET entries = ?, size_bytes = ?, level = ?, phi = ?, turn = ?,"
    " ghosts_once = ?, ghosts_more = ?, newcomers = ?, mean_share = ?,"
    " slots = ?, removals = ?, evictions = ?"
)
_COUNTS = ("hits", "misses", "coalesced", "saved_s")
_ADD_COUNTS = "UPDATE cache SET " + ", ".join(f"{name} = {name} + ?" for name in _COUNTS)
_ORDER: dict[Order, str] = {
    "priority": "priority DESC",
    "cost": "cost_s DESC",
    "size": "size_bytes DESC",
    "touches": "touches DESC",
    "last_used": "used_s DESC",
}


def entry_bytes(key: Key, values: Sequence[Any]) -> int:
    """What an entry takes of the byte budget; its request, if it keeps it, is among the values."""
    return ROW_BYTES + len(key.encode()) + int(FILL * payload_bytes(values))


@attrs.define
class Tables(Generic[A]):
    """How the cache's tables are used: policy, budget, codec. No state of its own."""

    policy: Policy
    budget: Budget
    codec: Codec[A]
    clock: Callable[[], float] = time.time
    keep_requests_bytes: int = 0

    def read(self, connection: sqlite3.Connection, key: Key, *, tell: bool = True) -> Reading[A]:
        """The answer, if it is there and sound; with `tell`, damage is logged."""
        names = ", ".join(f"answer.{name}" for name, _ in self.codec.columns)
        # One row, always: the counter of removals, and the answer if there is one.
        found = connection.execute(
            f"SELECT removals, entry.cost_s, answer.crc, {names} FROM cache"
            " LEFT JOIN entry ON entry.key = ?"
            " LEFT JOIN answer ON answer.slot = entry.slot",
            (key,),
        ).fetchone()
        removals, cost_s, crc, *values = found
        if cost_s is None:
            return Reading(None, False, removals)
        try:
            return Reading(read_back(self.codec, key, cost_s, crc, values), False, removals)
        except DamagedError as exc:
            if tell:
                log.error("a value in the %s cache is damaged: %s", self.codec.kind, exc)
            return Reading(None, True, removals)

    def contains(self, connection: sqlite3.Connection, key: Key) -> bool:
        sql = "SELECT 1 FROM entry WHERE key = ?"
        return connection.execute(sql, (key,)).fetchone() is not None

    def keys(self, connection: sqlite3.Connection) -> list[Key]:
        sql = "SELECT key FROM entry ORDER BY key"
        return [key for (key,) in connection.execute(sql)]

    def entries(
        self,
        connection: sqlite3.Connection,
        limit: int,
        order_by: Order,
        namespace: str | None = None,
    ) -> list[Entry]:
        held = "" if namespace is None else f" WHERE {HELD}"
        rows = connection.execute(
            "SELECT key, size_bytes, cost_s, touches, priority, created_s, used_s,"
            " coalesce(model, ''), coalesce(fingerprint, ''), request"
            " FROM entry LEFT JOIN answer USING (slot)"
            f"{held} ORDER BY {_ORDER[order_by]}, key LIMIT :limit",
            {"limit": limit, "path": namespace},
        )
        names = [field.name for field in attrs.fields(Entry)]
        return [
            Entry(**dict(zip(names, (*row, beginning(text)), strict=True))) for *row, text in rows
        ]

    def request(self, connection: sqlite3.Connection, key: Key) -> Request | None:
        found = connection.execute(
            "SELECT request, fingerprint FROM entry JOIN answer USING (slot) WHERE key = ?",
            (key,),
        ).fetchone()
        return None if found is None else believed(found[0], key, found[1])

    def missing(self, connection: sqlite3.Connection, keys: Sequence[Key]) -> tuple[int, list[Key]]:
        # The counter first: what is removed after it shows in the next look at it.
        removals = self.removals(connection)
        sql = "SELECT 1 FROM entry WHERE key = ?"
        gone = [key for key in keys if connection.execute(sql, (key,)).fetchone() is None]
        return removals, gone

    def removals(self, connection: sqlite3.Connection) -> int:
        return int(connection.execute("SELECT removals FROM cache").fetchone()[0])

    def totals(self, connection: sqlite3.Connection) -> dict[str, Any]:
        cursor = connection.execute("SELECT * FROM cache")
        names = [column[0] for column in cursor.description]
        return dict(zip(names, cursor.fetchone(), strict=True))

    def settle(self, connection: sqlite3.Connection) -> None:
        """For a database just opened: take over its policy's rows and hold the budgets."""
        budget = self.budget
        (settled,) = connection.execute(
            "SELECT policy = ? AND max_entries = ? AND max_bytes = ?"
            " AND entries <= max_entries AND size_bytes <= max_bytes FROM cache",
            (self.policy.name, budget.max_entries, budget.max_bytes),
        ).fetchone()
        # Another process may be busy writing; it need not be waited for when all is well.
        if not settled:
            self._transact(connection, [])

    def commit(self, connection: sqlite3.Connection, operations: Sequence[Operation[A]]) -> Outcome:
        """Do all of these in one transaction, in their order.

        An operation that cannot be done fails alone: its exception is its result.

        Raises:
            sqlite3.Error: nothing was done.
        """
        # Encoded before the lock is taken.
        ready = [self._encode(op) if isinstance(op, Put) else op for op in operations]
        return self._transact(connection, ready)

    def _encode(self, put: Put[A]) -> tuple[Put[A], Values, int] | Exception:
        try:
            request = put.request and kept_text(put.request, self.keep_requests_bytes)
            values = (*self.codec.encode(put.answer), request)
            return put, values, entry_bytes(put.key, values)
        except Exception as exc:
            return exc

    def _transact(self, connection: sqlite3.Connection, ready: Sequence[Any]) -> Outcome:
        connection.execute("BEGIN IMMEDIATE")
        try:
            commit = _Commit(self, connection, len(ready))
            commit.ledger.expect([key for op in ready for key in _keys_of(op)])
            results = [commit.do(op) for op in ready]
            if not ready:
                commit.settle()
            commit.finish()
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        # A transaction of its own, which may come another time when somebody is in the way.
        with contextlib.suppress(sqlite3.Error):
            commit.vacuum()
        return Outcome(
            results, commit.gone, commit.stored, commit.evicted, commit.before, commit.removals
        )


def _keys_of(op: Any) -> list[Key]:
    match op:
        case Touch():
            return [key for key, _ in op.touches]
        case (Put(), _, _):
            return [op[0].key]
        case Delete() | Tag():
            return [op.key]
    return []


class _Commit(Generic[A]):
    """One transaction in the making."""

    def __init__(self, tables: Tables[A], connection: sqlite3.Connection, operations: int) -> None:
        self.tables = tables
        self.connection = connection
        self.now_s = tables.clock()
        self.fetch = min(FETCH, max(FEW, operations))
        self.ledger = SqlLedger(connection, self.fetch)
        self.tags = TagLedger(connection)
        *state, self.slots, self.removals, self.evictions = connection.execute(_STATE).fetchone()
        self.state = State(*state)
        self.before = self.removals
        self.evicted = 0
        self.gone: set[Key] = set()
        self.stored: set[Key] = set()
        self.vacuum_pages = 0
        # Written at the end, so that an answer that comes and goes in one commit costs nothing.
        self.answers: dict[int, tuple[Any, ...]] = {}
        # By size: a newcomer takes the place of what went if it fits exactly, as vectors do, and
        # pages stay as full as they were. Others go to the end, which leaves less holes.
        self.free: dict[int, list[int]] = {}

    def do(self, op: Any) -> Any:
        match op:
            case Exception():
                return op
            case Touch():
                return self.touch(op)
            case Delete():
                return self.delete(op)
            case Clear():
                return self.clear()
            case Tag():
                return add_tag(self, op)
            case Untag():
                return remove_tags(self, op)
            case Merge():
                return merge(self, op)
        return self.put(*op)

    def put(self, put: Put[A], values: Values, size_bytes: int) -> bool | Exception:
        tables = self.tables
        size_bytes += self.tags.bytes_with(self.ledger.find(put.key), put.namespaces)
        if size_bytes > tables.budget.max_bytes:
            return OversizedError(
                f"{size_bytes} bytes are more than the whole budget of {tables.budget.max_bytes}"
            )
        row, evicted = remember(
            tables.policy, self.ledger, self.state, tables.budget, put.key, size_bytes, put.cost_s
        )
        self.dropped(evicted)
        if not row.live:
            if row.slot:  # it was there until it grew
                self.vacate(row)
            return False
        if not row.slot:
            row.created_s = self.now_s
            if free := self.free.get(size_bytes):
                row.slot = free.pop()
            else:
                self.slots += 1
                row.slot = self.slots
        row.used_s = self.now_s
        if put.namespaces:
            self.tags.of(row.slot).update(put.namespaces)
        crc = checksum(put.key, put.cost_s, values[:-1])
        self.answers[row.slot] = (row.slot, crc, *values)
        self.stored.add(put.key)
        self.gone.discard(put.key)
        return True

    def dropped(self, rows: list[Row]) -> None:
        self.evicted += len(rows)
        for row in rows:
            self.vacate(row)

    def vacate(self, row: Row) -> None:
        self.removals += 1
        self.gone.add(row.key)
        self.stored.discard(row.key)
        self.tags.vacated(row.slot)
        self.answers.pop(row.slot, None)
        self.free.setdefault(row.size_bytes, []).append(row.slot)

    def touch(self, op: Touch) -> None:
        tables = self.tables
        for key, touches in op.touches:
            if touch(tables.policy, self.ledger, self.state, tables.budget, key, touches):
                row = self.ledger.find(key)
                assert row is not None
                row.used_s = self.now_s
        self.connection.execute(_ADD_COUNTS, [op.counts.get(name, 0) for name in _COUNTS])

    def delete(self, op: Delete) -> bool:
        if op.if_damaged and not self.damaged(op.key):
            return False
        row = forget(self.ledger, self.state, op.key)
        if row is None:
            return False
        self.vacate(row)
        return True

    def damaged(self, key: Key) -> bool:
        row = self.ledger.find(key)
        if row is None or not row.live or row.slot in self.answers:
            return False
        # Whoever found it so has told it.
        return self.tables.read(self.connection, key, tell=False).damaged

    def clear(self) -> int:
        self.ledger.flush()
        live = self.tables.keys(self.connection)
        self.gone.update(live)
        self.stored.clear()
        self.answers.clear()
        self.free.clear()
        for table in ("entry", "ghost", "answer", "tag"):
            self.connection.execute(f"DELETE FROM {table}")
        self.ledger = SqlLedger(self.connection, self.fetch)
        self.tags = TagLedger(self.connection)
        self.state = State(phi=self.state.phi)
        self.vacuum_pages = -1
        self.slots = 0
        # Also when nothing was there: whoever cleared wants to be seen.
        self.removals += len(live) + 1
        return len(live)

    def settle(self) -> None:
        """Take over the rows of another policy or budget, and hold this budget."""
        policy, budget = self.tables.policy, self.tables.budget
        ours = (policy.name, budget.max_entries, budget.max_bytes)
        theirs = self.connection.execute("SELECT policy, max_entries, max_bytes FROM cache")
        if theirs.fetchone() != ours:
            self.connection.execute(
                "UPDATE cache SET policy = ?, max_entries = ?, max_bytes = ?", ours
            )
            self.connection.execute("DELETE FROM ghost")
            self.state = adopt(policy, self.ledger, budget, self.ledger.by_use())
        self.dropped(shrink(policy, self.ledger, self.state, budget))

    def finish(self) -> None:
        self.ledger.flush()
        self.tags.flush()
        connection = self.connection
        empty = [(slot,) for slots in self.free.values() for slot in slots]
        if empty:
            connection.executemany("DELETE FROM answer WHERE slot = ?", empty)
            self.vacuum_pages = self.vacuum_pages or VACUUM_PAGES
        self.write_answers()
        state = attrs.astuple(self.state)
        self.evictions += self.evicted
        connection.execute(_SAVE_STATE, (*state, self.slots, self.removals, self.evictions))

    def write_answers(self) -> None:
        if self.answers:
            marks = ", ".join("?" * (3 + len(self.tables.codec.columns)))
            self.connection.executemany(
                f"INSERT OR REPLACE INTO answer VALUES ({marks})", self.answers.values()
            )
            self.answers.clear()

    def vacuum(self) -> None:
        """Give free pages back, a few at a time unless there is nothing else in the file."""
        if not self.vacuum_pages:
            return
        (free,) = self.connection.execute("PRAGMA freelist_count").fetchone()
        pages = free if self.vacuum_pages < 0 else min(self.vacuum_pages, free - FREE_PAGES)
        if pages > 0:
            # Returns a row without columns for each page, which execute takes for the end.
            self.connection.executescript(f"PRAGMA incremental_vacuum({pages})")
