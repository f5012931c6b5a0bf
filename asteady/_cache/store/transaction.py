"""One group commit and one read of the database: plain blocking functions.

Each runs as one call on a connection's thread. They know SQL, the policy and the codec, and nothing
of asyncio.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import accumulate, groupby
from sqlite3 import Connection
from typing import Any, Generic, TypeVar

import attrs

from asteady._base.requests import Key, is_below
from asteady._cache.policy import (
    Budget,
    Policy,
    Row,
    State,
    Tide,
    adopt,
    count_ghost,
    forget,
    live_row,
    remember,
    shrink,
    touch,
)
from asteady._cache.store.api import (
    ORDERS,
    Clear,
    Cleared,
    CommitResult,
    Delete,
    Entry,
    Holding,
    Incoming,
    Merge,
    Merged,
    Order,
    OversizedError,
    Put,
    Reading,
    Tag,
    Tagged,
    Touch,
    Untag,
    Write,
)
from asteady._cache.store.codec import (
    Codec,
    DamagedError,
    Values,
    checksum,
    payload_bytes,
    read_back,
)
from asteady._cache.store.eviction_index import FETCH, FEW, SqliteEvictionIndex
from asteady._cache.store.room import Room
from asteady._cache.store.schema import ForeignError, is_undecodable
from asteady._cache.store.stored_request import (
    DIMENSIONS_FIELD,
    Request,
    preview,
    to_json,
    verified,
)

log = logging.getLogger("asteady")
A = TypeVar("A")

# The size of an entry in the file besides its values: its row, its place in the indexes, and its
# three ghosts. Pages are about two thirds full where answers of all lengths come and go, so values
# count half as much again. Measured, see docs/performance.md.
ROW_BYTES = 512
FILL = 1.5
# A tag besides its path; pages are half full where tags come and go. Measured there too.
TAG_BYTES = 8
TAG_FILL = 2

# Free pages that stay in the file for the next answers, and how many more one commit frees.
FREE_PAGES = 16
VACUUM_PAGES = 64

# A merge writes answers whenever it has this many bytes of them, so that an import of any size
# needs little memory.
MERGE_BUFFER_BYTES = 8 * 1024 * 1024

# When a key, a namespace or the whole cache was cleared is remembered for longer than any answer is
# computed: what was asked for before is not stored after it.
CLEARED_KEPT_S = 24 * 3600.0

# `is_below`, in SQL.
_BELOW = "(namespace = :path OR substr(namespace, 1, length(:path) + 1) = :path || '/')"
_TAGGED = f"slot IN (SELECT slot FROM tag WHERE {_BELOW})"
_STATE = (
    "entries, size_bytes, level, phi, turn, ghosts_once, ghosts_more, newcomers, mean_share,"
    " slots, removals, evictions"
)
# What the totals must be; rows that were damaged or removed by hand make them wrong.
_SUMS = "SELECT count(*), coalesce(sum(size_bytes), 0) FROM entry"
_SAVE_STATE = f"UPDATE cache SET ({_STATE}) = (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_COUNTS = ("hits", "misses", "coalesced", "saved_s")
_ADD_COUNTS = "UPDATE cache SET " + ", ".join(f"{name} = {name} + ?" for name in _COUNTS)
_ORDER_BY = dict(
    zip(
        ORDERS,
        ("priority", "cost_s", "size_bytes", "touches", "used_s", "cost_s * (touches - 1)"),
        strict=True,
    )
)


def entry_bytes(key: Key, values: Sequence[Any]) -> int:
    """The size of an entry in the byte budget, without tags; `values` end with its request."""
    return ROW_BYTES + len(key.encode()) + int(FILL * payload_bytes(values))


def _counted(removals: object) -> int:
    """The count of removals, which every read has.

    Raises:
        ForeignError: its row is missing, or it is no number.
    """
    if not isinstance(removals, int):
        raise ForeignError("its table cache has no count of removals")
    return removals


def tag_bytes(namespaces: Iterable[str]) -> int:
    """The size of these tags of one entry in the byte budget."""
    return sum(TAG_FILL * (TAG_BYTES + len(path.encode())) for path in namespaces)


def relative_priority(policy: Policy, level: float, row: Row, budget: Budget) -> float:
    """How many touches' worth a live row is above the level of its cache: its touches, less aging.

    Unlike a priority it means the same in a cache of another size or level. Other policies than
    Tide do not age: there it is the number of touches.
    """
    if not isinstance(policy, Tide):
        return float(row.touches)
    above = (row.priority - level) / policy.value(row, budget)
    return min(float(row.touches), max(0.0, above))


@attrs.define
class Tables(Generic[A]):
    """Reads and writes the tables of a cache, by its policy, budget and codec. Has no state."""

    policy: Policy
    budget: Budget
    codec: Codec[A]
    clock: Callable[[], float] = time.time
    keep_requests_bytes: int = 0

    def read(self, connection: Connection, key: Key, *, log_damage: bool = True) -> Reading[A]:
        """The answer, if it is there and undamaged."""
        names = ", ".join(f"answer.{name}" for name, _ in self.codec.columns)
        # One row, always: the counter of removals, and the answer if there is one.
        sql = (
            f"SELECT removals, entry.cost_s, answer.crc, {names} FROM cache"
            " LEFT JOIN entry ON entry.key = ?"
            " LEFT JOIN answer ON answer.slot = entry.slot"
        )
        try:
            found = connection.execute(sql, (key,)).fetchone()
            removals, cost_s, crc, *values = found or (None, None, 0)
            if cost_s is None:
                return Reading(None, False, _counted(removals))
            answer = read_back(self.codec, key, cost_s, crc, values)
            return Reading(answer, False, _counted(removals))
        except (DamagedError, UnicodeDecodeError, sqlite3.OperationalError) as exc:
            if not isinstance(exc, DamagedError):
                if not is_undecodable(exc):
                    raise
                exc = DamagedError(f"a text of {key} is not UTF-8")
            if log_damage:
                log.error("a value in the %s cache is damaged: %s", self.codec.kind, exc)
            return Reading(None, True, self.removals(connection))

    def keys(self, connection: Connection) -> list[Key]:
        sql = "SELECT key FROM entry ORDER BY key"
        return [key for (key,) in connection.execute(sql)]

    def entries(
        self, connection: Connection, limit: int, order_by: Order, namespace: str | None = None
    ) -> list[Entry]:
        where = "" if namespace is None else f" WHERE {_TAGGED}"
        rows = connection.execute(
            "SELECT key, size_bytes, cost_s, touches, priority, created_s, used_s,"
            " coalesce(model, ''), coalesce(fingerprint, ''), request"
            " FROM entry LEFT JOIN answer USING (slot)"
            f"{where} ORDER BY {_ORDER_BY[order_by]} DESC, key LIMIT :limit",
            {"limit": limit, "path": namespace},
        )
        names = [field.name for field in attrs.fields(Entry)]
        return [
            Entry(**dict(zip(names, (*row, preview(text)), strict=True))) for *row, text in rows
        ]

    def page(
        self,
        connection: Connection,
        after: Key,
        limit: int,
        namespace: str | None,
        fingerprint: str | None,
    ) -> list[Tagged]:
        where = "key > :after"
        if namespace is not None:
            where += f" AND {_TAGGED}"
        if fingerprint is not None:
            where += " AND fingerprint = :fingerprint"
        rows = connection.execute(
            "WITH page AS (SELECT key, slot, fingerprint FROM entry JOIN answer USING (slot)"
            f" WHERE {where} ORDER BY key LIMIT :limit)"
            " SELECT key, fingerprint, namespace FROM page LEFT JOIN tag USING (slot)"
            " ORDER BY key, namespace",
            {"after": after, "limit": limit, "path": namespace, "fingerprint": fingerprint},
        )
        return [
            Tagged(key, tuple(path for *_, path in tagged if path is not None), made_by)
            for (key, made_by), tagged in groupby(rows, lambda row: (row[0], row[1]))
        ]

    def request(self, connection: Connection, key: Key) -> Request | None:
        found = connection.execute(
            "SELECT request, fingerprint FROM entry JOIN answer USING (slot) WHERE key = ?", (key,)
        ).fetchone()
        return None if found is None else verified(found[0], key, found[1])

    def missing(self, connection: Connection, keys: Sequence[Key]) -> tuple[int, list[Key]]:
        # The counter first: a removal after it is seen when the counter is read next.
        removals = self.removals(connection)
        sql = "SELECT 1 FROM entry WHERE key = ?"
        gone = [key for key in keys if connection.execute(sql, (key,)).fetchone() is None]
        return removals, gone

    def removals(self, connection: Connection) -> int:
        found = connection.execute("SELECT removals FROM cache").fetchone()
        return _counted(found and found[0])

    def totals(self, connection: Connection) -> dict[str, Any]:
        cursor = connection.execute("SELECT * FROM cache")
        names = [column[0] for column in cursor.description]
        return dict(zip(names, cursor.fetchone(), strict=True))

    def dimensions(self, connection: Connection) -> dict[str, int]:
        rows = connection.execute(
            "SELECT fingerprint, max(length(vector)) / 4 FROM answer"
            " WHERE request NOT LIKE ? GROUP BY fingerprint",
            (f"%{DIMENSIONS_FIELD}%",),
        )
        return dict(rows.fetchall())

    def tagged(self, connection: Connection, key: Key, namespace: str) -> bool:
        sql = "SELECT 1 FROM entry CROSS JOIN tag USING (slot) WHERE key = ? AND namespace = ?"
        return connection.execute(sql, (key, namespace)).fetchone() is not None

    def holding(self, connection: Connection, path: str) -> Holding:
        sql = f"SELECT count(*), coalesce(sum(size_bytes), 0) FROM entry WHERE {_TAGGED}"
        entries, size_bytes = connection.execute(sql, {"path": path}).fetchone()
        return Holding(entries=entries, size_bytes=size_bytes)

    def holdings(self, connection: Connection) -> dict[str, Holding]:
        rows = connection.execute(
            "SELECT namespace, count(*), sum(size_bytes) FROM entry CROSS JOIN tag USING (slot)"
            " GROUP BY namespace ORDER BY namespace"
        )
        return {path: Holding(entries=count, size_bytes=size) for path, count, size in rows}

    def settle(self, connection: Connection) -> None:
        """Adapt a database that was just opened to this policy and budget."""
        budget = self.budget
        (settled,) = connection.execute(
            "SELECT policy = ? AND max_entries = ? AND max_bytes = ?"
            " AND entries <= max_entries AND size_bytes <= max_bytes"
            f" AND (entries, size_bytes) = ({_SUMS}) FROM cache",
            (self.policy.name, budget.max_entries, budget.max_bytes),
        ).fetchone()
        # Another process may be writing; there is no need to wait for it when nothing changes.
        if not settled:
            self._transact(connection, [])

    def commit(
        self, connection: Connection, writes: Sequence[Write[A]], room: Room | None = None
    ) -> CommitResult:
        """Do all of these in one transaction, in their order.

        An answer that cannot be encoded fails alone: its exception is its result.

        Raises:
            NoRoomError, sqlite3.Error: nothing was done.
        """
        # Encoded before the lock is taken.
        ready = [self._encode(op) if isinstance(op, Put) else op for op in writes]
        if room is not None:
            room.ensure(connection, sum(map(self._growth_bytes, ready)))
        return self._transact(connection, ready)

    def _growth_bytes(self, op: Any) -> int:
        match op:
            case (Put(), _, size_bytes):
                return int(size_bytes)
            case Merge():
                return min(self.budget.max_bytes, sum(entry.size_bytes for entry in op.entries))
        return 0

    def _encode(self, put: Put[A]) -> tuple[Put[A], Values, int] | Exception:
        try:
            request = put.request and to_json(put.request, self.keep_requests_bytes)
            values = (*self.codec.encode(put.answer), request)
            return put, values, entry_bytes(put.key, values)
        except Exception as exc:
            return exc

    def _transact(self, connection: Connection, ready: Sequence[Any]) -> CommitResult:
        connection.execute("BEGIN IMMEDIATE")
        try:
            transaction = _Transaction(self, connection, len(ready))
            transaction.index.expect([key for op in ready for key in _keys_of(op)])
            result = transaction.result
            result.results = [transaction.do(op) for op in ready]
            if not ready:
                transaction.settle()
            transaction.finish()
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        # A transaction of its own; when another process is in the way, a later commit does it.
        with contextlib.suppress(sqlite3.Error):
            transaction.vacuum()
        return result


def _keys_of(op: Any) -> list[Key]:
    match op:
        case Touch():
            return [key for key, _ in op.touches]
        case (Put(), _, _):
            return [op[0].key]
        case Delete() | Tag():
            return [op.key]
    return []


class _Tags:
    """The tags by slot, read on demand; lives for one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stored: dict[int, frozenset[str]] = {}
        self._now: dict[int, set[str]] = {}
        self._any: bool | None = None

    def of(self, slot: int) -> set[str]:
        """The tags of the entry at this slot; changes to the set are written by `flush`."""
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
        """The size of this row's tags, once these are among them."""
        if row is not None and row.live and (self._now or self._in_use()):
            return tag_bytes(self.of(row.slot).union(namespaces))
        return tag_bytes(namespaces)

    def vacated(self, slot: int) -> None:
        """The entry at this slot was removed."""
        # Nearly all caches have no tags at all: they pay for one SELECT in a transaction.
        if self._now or self._in_use():
            self.of(slot).clear()

    def flush(self) -> None:
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


class _Transaction(Generic[A]):
    """The state of one group commit. Lives as long as its transaction."""

    def __init__(self, tables: Tables[A], connection: Connection, writes: int) -> None:
        self.tables = tables
        self.connection = connection
        self.now_s = tables.clock()
        self.fetch = min(FETCH, max(FEW, writes))
        self.index = SqliteEvictionIndex(connection, self.fetch)
        self.tags = _Tags(connection)
        row = connection.execute(f"SELECT {_STATE}, cleared_s FROM cache").fetchone()
        *state, self.slots, removals, self.evictions, self.cleared_s = row
        self.state = State(*state)
        self.result = CommitResult(before=removals, removals=removals)
        self.vacuum_pages = 0
        # Written at the end, so that an answer that is put and evicted in one commit costs nothing.
        self.answers: dict[int, tuple[Any, ...]] = {}
        # Free slots by size: a new answer takes the slot of a removed one of exactly its size, as
        # vectors have, and pages stay as full as they were. Others go to the end: fewer holes.
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
            case Cleared():
                return self.cleared("", op.at_s)
            case Tag():
                return self.tag(op)
            case Untag():
                return self.untag(op)
            case Merge():
                return self.merge(op)
        return self.put(*op)

    def put(self, put: Put[A], values: Values, size_bytes: int) -> bool | Exception | None:
        if put.asked_s <= self.cleared_s and self.was_cleared(put):
            return None
        tables = self.tables
        size_bytes += self.tags.bytes_with(self.index.find(put.key), put.namespaces)
        if size_bytes > tables.budget.max_bytes:
            return OversizedError(
                f"{size_bytes} bytes are more than the whole budget of {tables.budget.max_bytes}"
            )
        row, evicted = remember(
            tables.policy, self.index, self.state, tables.budget, put.key, size_bytes, put.cost_s
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
        self.result.stored.add(put.key)
        self.result.gone.discard(put.key)
        return True

    def dropped(self, rows: list[Row]) -> None:
        self.result.evictions += len(rows)
        for row in rows:
            self.vacate(row)

    def vacate(self, row: Row) -> None:
        self.result.removals += 1
        self.result.gone.add(row.key)
        self.result.stored.discard(row.key)
        self.tags.vacated(row.slot)
        self.answers.pop(row.slot, None)
        self.free.setdefault(row.size_bytes, []).append(row.slot)

    def touch(self, op: Touch) -> None:
        tables = self.tables
        for key, touches in op.touches:
            if row := live_row(self.index, key):
                row.used_s = self.now_s
                touch(tables.policy, self.index, self.state, tables.budget, key, touches)
        self.connection.execute(_ADD_COUNTS, [op.counts.get(name, 0) for name in _COUNTS])

    def delete(self, op: Delete) -> bool:
        if op.if_damaged and not self.damaged(op.key):
            return False
        row = forget(self.index, self.state, op.key)
        if row is not None:
            self.vacate(row)
        if not op.if_damaged:
            self.cleared(op.key)
        return row is not None

    def cleared(self, scope: str, at_s: float | None = None) -> None:
        """Remember when a scope was cleared: a key, "/" and a namespace, or "" for all."""
        at_s = self.now_s if at_s is None else at_s
        self.cleared_s = max(self.cleared_s, at_s)
        execute = self.connection.execute
        execute("INSERT OR REPLACE INTO cleared VALUES (?, ?)", (scope, at_s))
        execute("DELETE FROM cleared WHERE cleared_s < ?", (self.now_s - CLEARED_KEPT_S,))
        execute("UPDATE cache SET cleared_s = ?", (self.cleared_s,))

    def was_cleared(self, put: Put[A]) -> bool:
        """Whether something that the answer belongs to was cleared since it was asked for."""
        scopes = ["", put.key]
        for path in put.namespaces:
            scopes += [f"/{above}" for above in accumulate(path.split("/"), "{}/{}".format)]
        marks = ", ".join("?" * len(scopes))
        # The clock may have been set back since: a time in the future says nothing.
        sql = f"SELECT 1 FROM cleared WHERE scope IN ({marks}) AND cleared_s BETWEEN ? AND ?"
        return bool(self.connection.execute(sql, (*scopes, put.asked_s, self.now_s)).fetchone())

    def damaged(self, key: Key) -> bool:
        row = live_row(self.index, key)
        if row is None or row.slot in self.answers:
            return False
        # The reader that found it has logged it.
        return self.tables.read(self.connection, key, log_damage=False).damaged

    def clear(self) -> int:
        self.index.flush()
        live = self.tables.keys(self.connection)
        self.result.gone.update(live)
        self.result.stored.clear()
        self.answers.clear()
        self.free.clear()
        for table in ("entry", "ghost", "answer", "tag", "cleared"):
            self.connection.execute(f"DELETE FROM {table}")
        self.cleared("")
        self.index = SqliteEvictionIndex(self.connection, self.fetch)
        self.tags = _Tags(self.connection)
        self.state = State(phi=self.state.phi)
        self.vacuum_pages = -1
        self.slots = 0
        # Counted even when nothing was there, so that other processes forget their tags too.
        self.result.removals += len(live) + 1
        return len(live)

    def tag(self, op: Tag) -> bool:
        row = live_row(self.index, op.key)
        if row is None:
            return False
        self.add_tags(row, (op.namespace,))
        self.dropped(shrink(self.tables.policy, self.index, self.state, self.tables.budget))
        return op.namespace in self.tags.of(row.slot)

    def add_tags(self, row: Row, namespaces: Collection[str]) -> None:
        """Tag a live entry, unless that made it larger than the whole budget.

        The cache may exceed its budget then; the caller shrinks it.
        """
        if not namespaces:
            return
        tags = self.tags.of(row.slot)
        new = set(namespaces) - tags
        more_bytes = tag_bytes(new)
        if row.size_bytes + more_bytes <= self.tables.budget.max_bytes:
            tags |= new
            self.resize(row, more_bytes)

    def untag(self, op: Untag) -> int:
        self.index.flush()
        self.tags.flush()
        found = self.connection.execute(
            f"SELECT key FROM entry WHERE {_TAGGED} ORDER BY key", {"path": op.namespace}
        ).fetchall()
        removed = 0
        for (key,) in found:
            row = self.index.find(key)
            assert row is not None
            tags = self.tags.of(row.slot)
            going = {path for path in tags if is_below(path, op.namespace)}
            if going == tags:
                forget(self.index, self.state, key)
                self.vacate(row)
                removed += 1
            else:
                tags -= going
                self.resize(row, -tag_bytes(going))
        self.cleared(f"/{op.namespace}")
        # Counted even when no entry went: the tags that other processes know may be wrong now.
        self.result.removals += 1
        return removed

    def resize(self, row: Row, more_bytes: int) -> None:
        row.size_bytes += more_bytes
        self.state.size_bytes += more_bytes
        self.index.save(row)

    def merge(self, op: Merge) -> Merged:
        """Merge entries; each keeps the better of its two frecencies, and the policy evicts.

        First all rows, then the answers of those that stay: an answer that would be evicted at once
        is never written. Raises whatever `op.values` raises; the transaction is rolled back then.
        """
        index, state = self.index, self.state
        policy, budget = self.tables.policy, self.tables.budget
        new: list[Row] = []
        known = oversized = 0
        # The one used longest ago first: policies that go by recency get them in that order.
        for entry in sorted(op.entries, key=lambda entry: (entry.used_s, entry.key)):
            row = index.find(entry.key)
            if row is not None and row.live:
                known += 1
                self.add_tags(row, entry.namespaces)
            elif entry.size_bytes > budget.max_bytes:
                oversized += 1
                continue
            else:
                if row is None:
                    state.meet(budget.share(entry.size_bytes))
                else:
                    count_ghost(state, row.touches, -1)
                    index.remove(row)
                row = Row(entry.key, entry.size_bytes, entry.cost_s, live=True)
                row.created_s = min(entry.created_s, self.now_s)
                state.entries += 1
                state.size_bytes += entry.size_bytes
                new.append(row)
            raise_frecency(policy, state, budget, row, entry)
            row.used_s = max(row.used_s, min(entry.used_s, self.now_s))
            index.save(row)
        gone = shrink(policy, index, state, budget)
        # An entry that was merged and evicted at once has no answer yet.
        evicted = [row for row in gone if row.slot]
        self.dropped(evicted)
        added = self.merge_answers(op, {row.key for row in new})
        return Merged(
            entries=len(op.entries),
            added=added,
            known=known,
            declined=len(new) - added,
            oversized=oversized,
            evicted=len(evicted),
        )

    def merge_answers(self, op: Merge, new: set[Key]) -> int:
        added = buffered_bytes = 0
        for entry in op.entries:
            row = live_row(self.index, entry.key) if entry.key in new else None
            if row is None:
                continue
            values = op.values(entry.key)
            self.slots += 1
            row.slot = self.slots
            self.index.save(row)
            if entry.namespaces:
                self.tags.of(row.slot).update(entry.namespaces)
            self.answers[row.slot] = (row.slot, *values)
            added += 1
            buffered_bytes += payload_bytes(values)
            if buffered_bytes > MERGE_BUFFER_BYTES:
                self.write_answers()
                buffered_bytes = 0
        return added

    def settle(self) -> None:
        """Adapt the rows of another policy or budget, count anew, and shrink to this budget."""
        policy, budget = self.tables.policy, self.tables.budget
        ours = (policy.name, budget.max_entries, budget.max_bytes)
        theirs = self.connection.execute("SELECT policy, max_entries, max_bytes FROM cache")
        if theirs.fetchone() != ours:
            self.connection.execute(
                "UPDATE cache SET policy = ?, max_entries = ?, max_bytes = ?", ours
            )
            self.connection.execute("DELETE FROM ghost")
            self.state = adopt(policy, self.index, budget, self.index.by_use())
        else:
            sums = self.connection.execute(_SUMS).fetchone()
            self.state.entries, self.state.size_bytes = sums
        self.dropped(shrink(policy, self.index, self.state, budget))

    def finish(self) -> None:
        self.index.flush()
        self.tags.flush()
        connection = self.connection
        empty = [(slot,) for slots in self.free.values() for slot in slots]
        if empty:
            connection.executemany("DELETE FROM answer WHERE slot = ?", empty)
            self.vacuum_pages = self.vacuum_pages or VACUUM_PAGES
        self.write_answers()
        state = attrs.astuple(self.state)
        evictions = self.evictions + self.result.evictions
        connection.execute(_SAVE_STATE, (*state, self.slots, self.result.removals, evictions))

    def write_answers(self) -> None:
        if self.answers:
            marks = ", ".join("?" * (3 + len(self.tables.codec.columns)))
            self.connection.executemany(
                f"INSERT OR REPLACE INTO answer VALUES ({marks})", self.answers.values()
            )
            self.answers.clear()

    def vacuum(self) -> None:
        """Free unused pages, a few at a time unless there is nothing else in the file."""
        if not self.vacuum_pages:
            return
        (free,) = self.connection.execute("PRAGMA freelist_count").fetchone()
        pages = free if self.vacuum_pages < 0 else min(self.vacuum_pages, free - FREE_PAGES)
        if pages <= 0:
            return
        # The pragma returns a row without columns for each page; execute would stop at it.
        sql = f"PRAGMA incremental_vacuum({pages})"
        if self.vacuum_pages > 0:
            self.connection.executescript(sql)
            return
        # The file is cut when the log is copied into it. SQLite does that itself at the end of this
        # commit: several processes that copy by wal_checkpoint, one right after another, can damage
        # the database before SQLite 3.51.3.
        (log_pages,) = self.connection.execute("PRAGMA wal_autocheckpoint").fetchone()
        try:
            self.connection.execute("PRAGMA wal_autocheckpoint = 1")
            self.connection.executescript(sql)
        finally:
            self.connection.execute(f"PRAGMA wal_autocheckpoint = {log_pages}")


def raise_frecency(policy: Policy, state: State, budget: Budget, row: Row, entry: Incoming) -> None:
    """Give the row the better of its own frecency and the other's; never a worse one."""
    if isinstance(policy, Tide):
        above = min(float(entry.touches), max(0.0, entry.relative_priority))
        row.touches = max(row.touches, entry.touches)
        row.priority = max(row.priority, state.level + above * policy.value(row, budget))
    elif entry.touches > row.touches or entry.used_s > row.used_s:
        policy.touch(state, row, budget, max(0, entry.touches - row.touches))
