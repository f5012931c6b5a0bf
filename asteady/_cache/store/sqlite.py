"""The store in SQLite: one writer that commits in groups, one connection for reading.

Guarantees:

- An operation's future resolves after the commit that holds it. Everything that is submitted while
  a commit is under way goes into the next one.
- Only the writer task uses the write connection, and a transaction is one call on its thread, so
  none is interleaved with another or cut by a cancellation.
- The loop is told of a commit (`committed`) before any of its callers is.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from asteady._base.errors import StoreError
from asteady._base.requests import Key
from asteady._base.tasks import unattended
from asteady._cache.store.api import (
    Clear,
    Committed,
    Entry,
    Holding,
    Operation,
    Order,
    Outcome,
    Reading,
)
from asteady._cache.store.schema import connect, identity, is_busy, is_damage, open_database
from asteady._cache.store.sqlite_thread import Door
from asteady._cache.store.stored_request import Request
from asteady._cache.store.tags import holding, holdings, tagged
from asteady._cache.store.transaction import Tables

log = logging.getLogger("asteady")
A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")

# Beyond SQLite's own waiting: so long a caller's answer is held back while another process writes.
BUSY_PATIENCE_S = 30.0
BUSY_PAUSE_S = 0.01
# How long the writer of a loop that ends waits to be closed.
LOOP_END_S = 2.0


class SqliteStore(Generic[A]):
    """A `Store` in one database file. Lives from `open` to `aclose`, on one event loop."""

    def __init__(self, path: Path, tables: Tables[A], committed: Committed) -> None:
        self._path = path
        self._tables = tables
        self._committed = committed
        self._pending: list[tuple[Operation[A], asyncio.Future[Any]]] = []
        self._news = asyncio.Event()
        self._closing = False
        self._write: Door | None = None
        self._read: Door | None = None
        self._writer: asyncio.Task[None] | None = None
        self._file: tuple[int, int] | None = None
        self._lost: sqlite3.Error | None = None
        # Cleared while the database is being replaced; readers wait for the new one.
        self._ready = asyncio.Event()

    async def open(self) -> None:
        """Open the database, or make it.

        Raises:
            StoreError: it cannot be opened, or is another application's.
            StoreVersionError: it was written by a newer version.
        """
        await self._open_doors()
        self._ready.set()
        self._writer = unattended(
            asyncio.create_task(self._write_groups(), name="asteady cache writer")
        )

    async def aclose(self) -> None:
        """Commit what was submitted, then close. Idempotent."""
        self._end()
        writer = self._writer
        if writer is not None:
            await asyncio.shield(writer)

    def submit(self, operation: Operation[A]) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        if self._closing or self._writer is None or self._writer.done():
            _fail(future, StoreError(f"the cache database {self._path} is closed"))
        else:
            self._pending.append((operation, future))
            self._news.set()
        return future

    async def read(self, key: Key) -> Reading[A]:
        return await self._reading(self._tables.read, key)

    async def contains(self, key: Key) -> bool:
        return await self._reading(self._tables.contains, key)

    async def keys(self) -> list[Key]:
        return await self._reading(self._tables.keys)

    async def entries(
        self, limit: int, order_by: Order, namespace: str | None = None
    ) -> list[Entry]:
        return await self._reading(self._tables.entries, limit, order_by, namespace)

    async def tagged(self, key: Key, namespace: str) -> bool:
        return await self._reading(tagged, key, namespace)

    async def holding(self, path: str) -> Holding:
        return await self._reading(holding, path)

    async def holdings(self) -> dict[str, Holding]:
        return await self._reading(holdings)

    async def request(self, key: Key) -> Request | None:
        return await self._reading(self._tables.request, key)

    async def missing(self, keys: Sequence[Key]) -> tuple[int, list[Key]]:
        return await self._reading(self._tables.missing, keys)

    async def removals(self) -> int:
        return await self._reading(self._look)

    async def totals(self) -> dict[str, Any]:
        return await self._reading(self._tables.totals)

    async def run(self, fn: Callable[[], T], /) -> T:
        return await self._reading(lambda _: fn())

    def _look(self, connection: sqlite3.Connection) -> int:
        if identity(self._path) != self._file:
            raise _GoneError("its file was removed or replaced")
        return self._tables.removals(connection)

    async def _reading(
        self, fn: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if not self._closing:
            await self._ready.wait()
        door = self._read
        if door is None:
            raise StoreError(f"the cache database {self._path} is closed")
        try:
            return await door.run(fn, *args, **kwargs)
        except sqlite3.Error as exc:
            if _is_lost(exc) and door is self._read:
                # The writer has the other connection, so it sees to it.
                self._lost = exc
                self._news.set()
            raise StoreError(f"the cache database {self._path} cannot be read: {exc}") from exc

    async def _open_doors(self, damaged: tuple[int, int] | None = None) -> None:
        tables = self._tables
        max_bytes = tables.budget.max_bytes
        self._write = await Door.open(
            partial(open_database, self._path, tables.codec.columns, max_bytes, damaged)
        )
        try:
            self._file = await self._write.run(lambda _: identity(self._path))
            await _patiently(self._write, tables.settle)
            self._read = await Door.open(partial(connect, self._path, max_bytes))
        except BaseException as exc:
            self._abandon()
            if isinstance(exc, sqlite3.Error):
                raise StoreError(f"the cache database {self._path} cannot be used: {exc}") from exc
            raise

    async def _recover(self) -> None:
        """Begin with a fresh database: this one is damaged, or is no longer at its path."""
        lost, self._lost = self._lost, None
        damaged = self._file if lost is not None and is_damage(lost) else None
        doors = (self._read, self._write)
        self._read = self._write = None
        self._ready.clear()
        try:
            for door in doors:
                if door is not None:
                    await door.aclose()
            await self._open_doors(damaged)
        finally:
            self._ready.set()
        self._committed([Clear()], Outcome(results=[0]))

    def _abandon(self) -> None:
        for door in (self._write, self._read):
            if door is not None:
                door.abandon()
        self._write = self._read = None

    async def _write_groups(self) -> None:
        try:
            while not (self._closing and not self._pending):
                try:
                    await self._next_group()
                except asyncio.CancelledError:
                    # Only the end of the event loop cancels this task, among all others. Whoever
                    # opened the store is told too, and has a moment to write its last and close.
                    asyncio.get_running_loop().call_later(LOOP_END_S, self._end)
            for door in (self._read, self._write):
                if door is not None:
                    await door.aclose()
        finally:
            # Also when the loop is being torn down around us: no thread stays behind.
            self._abandon()
            for _, future in self._pending:
                _fail(future, StoreError(f"the cache database {self._path} was closed"))

    async def _next_group(self) -> None:
        await self._news.wait()
        self._news.clear()
        # Callers that the last commit answered may have something for this one.
        await asyncio.sleep(0)
        if self._lost is not None or self._write is None:
            try:
                await self._recover()
            except StoreError as exc:
                log.error("%s", exc)
        group, self._pending = self._pending, []
        if group:
            await self._commit(group)

    def _end(self) -> None:
        self._closing = True
        self._news.set()

    async def _commit(self, group: list[tuple[Operation[A], asyncio.Future[Any]]]) -> None:
        operations = [operation for operation, _ in group]
        try:
            outcome = await self._transact(operations)
        except Exception as exc:
            if len(group) > 1 and not isinstance(exc, sqlite3.Error | StoreError):
                # One of them cannot be written at all; the others shall not fail with it.
                for one in group:
                    await self._commit([one])
                return
            error = StoreError(f"the cache database {self._path} cannot be written: {exc}")
            error.__cause__ = exc
            for _, future in group:
                _fail(future, error)
            return
        except BaseException:
            for _, future in group:
                future.cancel()
            raise
        self._committed(operations, outcome)
        for (_, future), result in zip(group, outcome.results, strict=True):
            if future.done():  # its caller has gone
                continue
            if isinstance(result, Exception):
                _fail(future, result)
            else:
                future.set_result(result)

    async def _transact(self, operations: Sequence[Operation[A]]) -> Outcome:
        if self._write is None:
            raise StoreError("it could not be opened again")
        try:
            return await _patiently(self._write, self._tables.commit, operations)
        except sqlite3.Error as exc:
            if not _is_lost(exc):
                raise
            self._lost = exc
        await self._recover()
        return await _patiently(self._write, self._tables.commit, operations)


async def _patiently(
    door: Door,
    fn: Callable[Concatenate[sqlite3.Connection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """`door.run`, again and again while another process's write is in the way."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + BUSY_PATIENCE_S
    while True:
        try:
            return await door.run(fn, *args, **kwargs)
        except sqlite3.Error as exc:
            if not is_busy(exc) or loop.time() > deadline:
                raise
        await asyncio.sleep(BUSY_PAUSE_S)


class _GoneError(sqlite3.OperationalError):
    """The database is no longer the file at its path."""


def _is_lost(error: sqlite3.Error) -> bool:
    return is_damage(error) or isinstance(error, _GoneError)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        # Seen: a caller that is cancelled in this very moment will not look, and need not.
        future.exception()
