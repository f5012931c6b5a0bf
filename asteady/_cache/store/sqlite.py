"""The store in SQLite: one writer that commits in groups, one connection for reading.

Guarantees:

- The future of a write resolves after its commit. Writes submitted during a commit go into the next
  one.
- Only the writer task uses the write connection, and a transaction is one call on its thread, so
  transactions neither interleave nor are cut by a cancellation.
- `take_touches` is called on the loop before each commit, so that what is evicted is decided by all
  hits of this process until then. Hits of other processes count once those have written them.
- `committed` is called on the loop before any caller of that commit is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import sqlite3
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from typing import Any, Concatenate, ParamSpec, TypeVar

from asteady._base.errors import StoreError, StoreVersionError
from asteady._base.tasks import unattended
from asteady._cache.store.api import (
    BUSY_RETRY_S,
    BUSY_TIMEOUT_S,
    STORE_TIMEOUT_S,
    Clear,
    Cleared,
    CommitResult,
    Committed,
    Put,
    Store,
    TakeTouches,
    Touch,
    Write,
)
from asteady._cache.store.room import Room
from asteady._cache.store.schema import (
    Identity,
    OtherApplicationError,
    Removal,
    check,
    connect,
    identities,
    is_busy,
    is_damage,
    is_environment,
    is_full,
    open_database,
)
from asteady._cache.store.sqlite_thread import SqliteThread
from asteady._cache.store.transaction import Tables

log = logging.getLogger("asteady")
# Writes that wait for a database that is locked or not open.
_WAITS = (Put, Touch, Cleared)
A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")

_BUSY_PAUSE_S = 0.01
# Errors that do not tell have the whole database checked at most so often.
_EXAMINE_S = 60.0
# An attempt to open the database may take so long (a large one is checked), and the pauses between
# attempts that fail.
_ATTEMPT_S = 60.0
_REOPEN_FIRST_S = 1.0
_REOPEN_LAST_S = 30.0
# When its event loop ends, the writer waits this long for `aclose`.
_LOOP_END_S = 2.0


def _reads(
    method: Callable[Concatenate[Tables[Any], Connection, P], T],
) -> Callable[Concatenate[SqliteStore[Any], P], Coroutine[Any, Any, T]]:
    """A method of the store that calls this one of `Tables` on the reading thread."""
    name = method.__name__

    async def read(store: SqliteStore[Any], /, *args: P.args, **kwargs: P.kwargs) -> T:
        found: T = await store._reading(getattr(store._tables, name), *args, **kwargs)
        return found

    return read


class SqliteStore(Store[A]):
    """A `Store` in one database file. Lives from `open` to `aclose`, on one event loop.

    While another process holds the database locked, SQLite waits `busy_timeout_s` and the writer
    tries again for `busy_retry_s`; then the writes fail, except those of answers, which wait on.
    Reading takes `timeout_s` at most. While the database cannot be opened, there is a `failure`,
    and the writer tries again, with growing pauses.
    """

    def __init__(
        self,
        path: Path,
        tables: Tables[A],
        take_touches: TakeTouches,
        committed: Committed,
        *,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        busy_retry_s: float = BUSY_RETRY_S,
        timeout_s: float = STORE_TIMEOUT_S,
    ) -> None:
        self._timeout_s = timeout_s
        self._busy_timeout_s = busy_timeout_s
        self._busy_retry_s = busy_retry_s
        self._path = path
        self._tables = tables
        self._take_touches = take_touches
        self._committed = committed
        self._pending: list[tuple[Write[A], asyncio.Future[Any]]] = []
        self._flushing = False
        self._work = asyncio.Event()
        self._ended = asyncio.Event()
        self._closing = False
        self._write: SqliteThread | None = None
        self._read: SqliteThread | None = None
        self._writer: asyncio.Task[None] | None = None
        self._files: Sequence[Identity | None] = ()
        self._lost: Exception | None = None
        # For a clear on a full disk: the next opening removes the files. How many entries went so.
        self._removal: Removal | None = None
        self._removed: int | None = None
        self._room: Room | None = None
        self._examined_at = -math.inf
        # Cleared while the database is checked or replaced; readers wait, and try again then.
        self._ready = asyncio.Event()
        # Reading took too long; done when the database answers again.
        self._stalled: asyncio.Task[None] | None = None
        # While it is not open: the attempt in progress, and when the next one begins.
        self._attempt: asyncio.Timeout | None = None
        self._pause: asyncio.Timeout | None = None
        self._attempted = asyncio.Event()
        self._pause_s = _REOPEN_FIRST_S
        self._open_at = -math.inf
        self._close_by = math.inf

    async def open(self) -> None:
        """Open the database, or create it; if that fails or takes too long, there is a `failure`.

        Raises:
            StoreError: it belongs to another application.
            StoreVersionError: a newer version wrote it.
        """
        self.failure = StoreError(
            f"the cache database {self._path} could not be opened within {self._timeout_s:g} s;"
            " another process may have it locked"
        )
        self._ready.set()
        self._writer = unattended(
            asyncio.create_task(self._run_writer(), name="asteady cache writer")
        )
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout_s):
                    await self._attempted.wait()
            if isinstance(self.failure, StoreVersionError | OtherApplicationError):
                raise self.failure
        except BaseException:
            self._end()
            raise

    async def aclose(self) -> None:
        """Commit what was submitted, then close. Idempotent."""
        self._end()
        writer = self._writer
        if writer is not None:
            await asyncio.shield(writer)

    def abandon(self) -> None:
        self._closing = True
        self._abandon()

    def submit(self, write: Write[A]) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        if self._closing or self._writer is None or self._writer.done():
            _fail(future, StoreError(f"the cache database {self._path} is closed"))
        elif self.failure is not None and isinstance(write, Clear) and is_full(self.failure):
            self._removal = Removal(identities(self._path)[0])
            self._pending.append((write, future))
            if self._pause is not None:
                self._pause.reschedule(-math.inf)
        elif self.failure is not None and not isinstance(write, Put):
            _fail(future, StoreError(str(self.failure)))
        else:
            self._pending.append((write, future))
            self._work.set()
        return future

    def flush(self) -> None:
        if self.failure is None:
            self._flushing = True
            self._work.set()

    read = _reads(Tables.read)
    keys = _reads(Tables.keys)
    entries = _reads(Tables.entries)
    page = _reads(Tables.page)
    dimensions = _reads(Tables.dimensions)
    tagged = _reads(Tables.tagged)
    holding = _reads(Tables.holding)
    holdings = _reads(Tables.holdings)
    request = _reads(Tables.request)
    missing = _reads(Tables.missing)
    totals = _reads(Tables.totals)

    async def removals(self) -> int:
        return await self._reading(self._removals)

    async def run(self, fn: Callable[[], T], /) -> T:
        # Not as a read: what it waits for may itself wait for the end of a fork.
        async def run() -> T:
            return await (await self._reader()).run_without(fn)

        return await self._in_time(run)

    def _removals(self, connection: Connection) -> int:
        # Without permission to look, the files that are open are still good.
        with contextlib.suppress(PermissionError):
            if identities(self._path) != self._files:
                raise _GoneError("its file was removed or replaced")
        return self._tables.removals(connection)

    async def _reading(
        self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._in_time(partial(self._read_again, fn, *args, **kwargs))

    async def _in_time(self, fn: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if self._stalled is None or self._stalled.done():
            try:
                async with asyncio.timeout(self._timeout_s) as limit:
                    return await fn()
            except TimeoutError:
                if not limit.expired():
                    raise
            self._stalled = unattended(asyncio.create_task(self._wait_for_answer()))
        raise StoreError(
            f"the cache database {self._path} did not answer within {self._timeout_s:g} s"
        )

    async def _wait_for_answer(self) -> None:
        await self._ready.wait()
        if self._read is not None:
            with contextlib.suppress(sqlite3.Error):
                await self._read.run(lambda _: None)

    async def _read_again(
        self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Read, and once more if the database was replaced meanwhile."""
        for again in (True, False):
            thread = await self._reader()
            try:
                return await thread.run(fn, *args, **kwargs)
            except Exception as exc:
                error = exc
            if not is_environment(error) and thread is self._read and not self._closing:
                # The writer has the other connection, and replaces both if need be. A row of a
                # wrong type fails in our own code, by any exception.
                self._lost = error
                self._ready.clear()
                self._work.set()
                await self._ready.wait()
            if not again or thread is self._read or self._read is None:
                break
        raise StoreError(f"the cache database {self._path} cannot be read: {error}") from error

    async def _reader(self) -> SqliteThread:
        if not self._closing:
            await self._ready.wait()
        if self._read is None:
            raise StoreError(str(self.failure or f"the cache database {self._path} is closed"))
        return self._read

    async def _open_threads(self, damaged: tuple[int, int] | None = None) -> None:
        tables, timeout_s = self._tables, self._busy_timeout_s
        max_bytes = tables.budget.max_bytes
        aside: list[Path] = []
        removal, self._removal = self._removal, None
        opens = partial(open_database, self._path, tables.codec.columns, max_bytes)
        try:
            self._write = await SqliteThread.open(
                partial(opens, damaged, timeout_s, aside, removal), partial(opens, None, timeout_s)
            )
        finally:
            if removal is not None and removal.done:
                self._removed = (self._removed or 0) + (removal.entries or 0)
        self._room = Room(self._path, max_bytes)
        file: Identity | None = None
        try:
            file = await self._write.run(lambda _: identities(self._path)[0])
            await self._retry_busy(tables.settle)
            self._read = await SqliteThread.open(partial(connect, self._path, max_bytes, timeout_s))
            self._files = await self._read.run(lambda _: identities(self._path))
        except BaseException as exc:
            # Damage that opening does not look at.
            lost = False
            if isinstance(exc, Exception) and damaged is None and file is not None:
                lost = await self._is_lost(exc)
            self._abandon()
            if lost:
                await self._open_threads(file)
                return
            if isinstance(exc, Exception):
                raise StoreError(f"the cache database {self._path} cannot be used: {exc}") from exc
            raise
        if aside:
            self._committed([], CommitResult(damaged=len(aside)))

    async def _try_to_open(self, damaged: Identity | None = None) -> None:
        """Open the database; or have a `failure`, and a time for the next attempt."""
        now_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(min(now_s + _ATTEMPT_S, self._close_by)) as self._attempt:
                await self._open_threads(damaged)
        except Exception as exc:
            if isinstance(exc, StoreError):
                self.failure = exc
            elif self.failure is None or not isinstance(exc, TimeoutError):
                self.failure = StoreError(
                    f"the cache database {self._path} cannot be opened: {exc or 'no answer'}"
                )
            self._open_at = asyncio.get_running_loop().time() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _REOPEN_LAST_S)
            for write, future in self._pending:
                if self._removed is not None and isinstance(write, Clear) and not future.done():
                    future.set_result(self._take_removed())
                    self._note_clear()
                    break
            # Answers wait.
            self._fail_pending(self.failure, but=_WAITS)
        else:
            self.failure = None
            self._pause_s = _REOPEN_FIRST_S
            self._work.set()
        finally:
            self._attempt = None
            self._attempted.set()

    async def _reopen(self) -> None:
        """Try to open it again, when it is time, or at the end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._open_at) as self._pause:
                await self._ended.wait()
        self._pause = None
        if self._pending or not self._closing:
            await self._try_to_open()
        if self.failure is not None and self._closing:
            self._fail_pending(self.failure)

    async def _is_lost(self, error: Exception) -> bool:
        """Whether the database must be replaced, after this error.

        An error that does not tell by itself (no such table, a value of a wrong type) has the whole
        database checked.
        """
        if is_damage(error) or isinstance(error, _GoneError):
            return True
        now_s = asyncio.get_running_loop().time()
        if is_environment(error) or self._write is None or now_s < self._examined_at + _EXAMINE_S:
            return False
        self._examined_at = now_s
        try:
            await self._write.run(partial(check, columns=self._tables.codec.columns, thorough=True))
        except sqlite3.Error as exc:
            return is_damage(exc)
        return False

    async def _recover(self) -> None:
        """Open a new database: this one is damaged, or no longer at its path."""
        lost, self._lost = self._lost, None
        damaged = None if lost is None or isinstance(lost, _GoneError) else self._files[0]
        threads = (self._read, self._write)
        self._read = self._write = None
        self._ready.clear()
        try:
            for thread in threads:
                if thread is not None:
                    await thread.aclose()
            await self._try_to_open(damaged)
        finally:
            self._ready.set()
        if self.failure is None:
            self._committed([Clear()], CommitResult(results=[0]))
        else:
            log.error("%s", self.failure)

    def _abandon(self) -> None:
        for thread in (self._write, self._read):
            if thread is not None:
                thread.abandon()
        self._write = self._read = None

    async def _run_writer(self) -> None:
        try:
            while self._pending or self._flushing or not self._closing:
                try:
                    await self._next_group()
                except asyncio.CancelledError:
                    # Only the end of the event loop cancels this task, with all others. The owner
                    # of the store is cancelled too, and has a moment to submit its last writes.
                    asyncio.get_running_loop().call_later(_LOOP_END_S, self._end)
            for thread in (self._read, self._write):
                if thread is not None:
                    await thread.aclose()
        finally:
            # Even if the loop is being closed: no thread is left.
            self._abandon()
            self._ready.set()
            self._fail_pending(StoreError(f"the cache database {self._path} was closed"))

    async def _next_group(self) -> None:
        if self.failure is not None:
            await self._reopen()
            return
        await self._work.wait()
        self._work.clear()
        # Callers that the last commit answered may submit writes for this one.
        await asyncio.sleep(0)
        if self._lost is not None and not await self._is_lost(self._lost):
            self._lost = None
            self._ready.set()
        if self._lost is not None:
            await self._recover()
            if self.failure is not None:
                return
        group, self._pending = self._pending, []
        self._flushing = False
        touch = self._take_touches()
        if touch is not None:
            group.insert(0, (touch, asyncio.get_running_loop().create_future()))
        if group:
            await self._commit(group)

    def _end(self) -> None:
        if not self._closing:
            self._close_by = asyncio.get_running_loop().time() + self._timeout_s
            if self._attempt is not None:
                self._attempt.reschedule(self._close_by)
        self._closing = True
        self._work.set()
        self._ended.set()

    def _fail_pending(self, error: StoreError, *, but: Any = ()) -> None:
        pending, self._pending = self._pending, []
        self._flushing = False
        for write, future in pending:
            if isinstance(write, but):
                self._pending.append((write, future))
            else:
                _fail(future, StoreError(str(error)))

    async def _commit(self, group: list[tuple[Write[A], asyncio.Future[Any]]]) -> None:
        writes = [write for write, _ in group]
        try:
            result = await self._transact(writes)
        except Exception as exc:
            if len(group) > 1 and (is_full(exc) or not isinstance(exc, sqlite3.Error | StoreError)):
                # One of them cannot be written at all, or is too large; the others must not fail
                # with it.
                for single in group:
                    await self._commit([single])
                return
            error = StoreError(f"the cache database {self._path} cannot be written: {exc}")
            error.__cause__ = exc
            # Answers wait for a database that is locked or not open.
            waits = (is_busy(exc) or self.failure is not None) and not self._closing
            again = [item for item in group if waits and isinstance(item[0], _WAITS)]
            self._pending[:0] = again
            if again:
                self._work.set()
            for item in group:
                if item not in again:
                    _fail(item[1], error)
            return
        except BaseException:
            for _, future in group:
                future.cancel()
            raise
        self._committed(writes, result)
        for (_, future), value in zip(group, result.results, strict=True):
            if future.done():  # its caller was cancelled
                continue
            if isinstance(value, Exception):
                _fail(future, value)
            else:
                future.set_result(value)

    async def _transact(self, writes: Sequence[Write[A]]) -> CommitResult:
        try:
            return await self._do(writes)
        except Exception as exc:
            if is_full(exc) and isinstance(writes[0], Clear):
                return await self._clear_by_removing(writes)
            if not await self._is_lost(exc):
                raise
            self._lost = exc
        await self._recover()
        return await self._do(writes)

    async def _clear_by_removing(self, writes: Sequence[Write[A]]) -> CommitResult:
        """Clear a database on a full disk: without its files there is room for new ones."""
        entries = None
        with contextlib.suppress(StoreError):
            entries = (await self._reading(self._tables.totals))["entries"]
        self._removal = Removal(self._files[0], entries)
        await self._recover()
        try:
            return await self._do(writes)
        except (StoreError, sqlite3.Error):
            if self._removed is None:
                raise
            # There is no room even for an empty database, which is made later. Another process may
            # have the removed files open still.
            self._note_clear()
            return CommitResult(results=[self._take_removed()])

    async def _do(self, writes: Sequence[Write[A]]) -> CommitResult:
        result = await self._retry_busy(self._tables.commit, writes, self._room)
        for place, write in enumerate(writes):
            if isinstance(write, Clear):
                result.results[place] += self._take_removed()
        return result

    def _note_clear(self) -> None:
        """Have the time of a clear written to the new database, before the answers that wait."""
        note = Cleared(self._tables.clock())
        self._pending.insert(0, (note, asyncio.get_running_loop().create_future()))

    def _take_removed(self) -> int:
        removed, self._removed = self._removed, None
        return removed or 0

    async def _retry_busy(
        self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run it on the write connection, again while another process has the database locked."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._busy_retry_s
        while True:
            if self._write is None:
                raise StoreError(str(self.failure or "it is closed"))
            try:
                return await self._write.run(fn, *args, **kwargs)
            except sqlite3.Error as exc:
                if not is_busy(exc) or loop.time() > min(deadline, self._close_by):
                    raise
            await asyncio.sleep(_BUSY_PAUSE_S)


class _GoneError(sqlite3.OperationalError):
    """The database is no longer the file at its path."""


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        # Marks the exception as retrieved: a caller cancelled at this moment will not do so.
        future.exception()
