"""One SQLite connection on a thread of its own, where a whole function runs as one call.

aiosqlite's public methods run one statement per change of thread. A group commit is many statements
with decisions between them, and changing threads costs more than all of them (docs/performance.md).
Nor can its public methods make the thread a daemon, or end it after its loop was closed. So this
module, and no other, uses private parts of aiosqlite: `Connection._execute`, `_connection`,
`_running`, `_thread` and `_tx`, and `core._STOP_RUNNING_SENTINEL`. pyproject.toml limits its
versions, a test checks that these parts exist, and ``nox -s aiosqlite`` runs the store's tests with
the oldest and the newest version allowed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
from collections.abc import Callable
from sqlite3 import Connection
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from asteady._base.forks import FORKED, disown_in_child, fork_gate
from asteady._cache.store.connection import StoreConnection

if TYPE_CHECKING:
    import aiosqlite

P = ParamSpec("P")
T = TypeVar("T")


class SqliteThread:
    """A connection and its thread, which runs one function after another.

    Lives from `SqliteThread.open` until `aclose`. The thread is a daemon, so one left open never
    keeps the interpreter from exiting; SQLite rolls back what was not committed then. When this
    process forks, the connection is closed, and opened again at the next call.
    """

    def __init__(
        self,
        connection: aiosqlite.Connection,
        held: list[Connection],
        again: Callable[[], Connection],
    ) -> None:
        self._connection = connection
        # SQLite's own, until it is closed. The thread has this list only, so that one which is
        # dropped while it is open can be collected.
        self._held = held
        self._again = again
        self._closed = False
        self._forked = False
        disown_in_child(self)

    @classmethod
    async def open(
        cls, connect: Callable[[], Connection], again: Callable[[], Connection] | None = None
    ) -> SqliteThread:
        """Call `connect` on a new thread; its exceptions are raised here.

        `again`, by default the same, opens the connection again after a fork. Cancelling leaves
        nothing open: a connection that `connect` returns later is closed.
        """
        with fork_gate:
            import aiosqlite

        failure: list[BaseException] = []
        held: list[Connection] = []

        def connect_or_note() -> Connection:
            # If it raised, aiosqlite would end the thread without waiting for its end.
            try:
                held.append(connect())
            except BaseException as exc:
                failure.append(exc)
                held.append(sqlite3.connect(":memory:", check_same_thread=False))
            return held[0]

        connection = aiosqlite.Connection(connect_or_note, iter_chunk_size=64)
        connection._thread.daemon = True
        run = connection._thread.run

        def run_quietly() -> None:
            # A loop that was closed during a call takes no result, and aiosqlite 0.22.0 cannot
            # close without a future, which fails after `close`. No traceback is printed then; but
            # the thread ends, and what would close the connection may be in its queue.
            with contextlib.suppress(RuntimeError, AttributeError):
                run()
            _close(held)

        connection._thread.run = run_quietly  # type: ignore[method-assign]  # of aiosqlite
        opening = asyncio.ensure_future(connection)
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(lambda _: cls(connection, held, again or connect).abandon())
            raise
        thread = cls(connection, held, again or connect)
        if failure:
            await thread.aclose()
            raise failure.pop()
        return thread

    async def run(
        self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``fn(connection, ...)`` on the thread. Cancelling only stops waiting for it.

        Raises:
            sqlite3.ProgrammingError: it is closed, or was opened before a fork.
        """
        self._check()
        return await self._connection._execute(self._call, fn, *args, **kwargs)  # type: ignore[no-any-return, no-untyped-call]  # private

    async def run_without(self, fn: Callable[[], T]) -> T:
        """Run ``fn()``, which does not use the connection, on the thread; else as `run`."""
        self._check()
        return await self._connection._execute(fn)  # type: ignore[no-any-return, no-untyped-call]  # private

    def _check(self) -> None:
        if self._forked:
            raise sqlite3.ProgrammingError(FORKED)
        if self._closed:
            raise sqlite3.ProgrammingError("the connection is closed")

    async def aclose(self) -> None:
        """Close after the calls in progress and in the queue. Idempotent."""
        closed = asyncio.get_running_loop().create_future()
        if self._close(closed):
            await closed

    def abandon(self) -> None:
        """As `aclose` without waiting, even without a running loop. Idempotent."""
        self._close(None)

    def _close(self, closed: asyncio.Future[object] | None) -> bool:
        if self._closed or self._forked or sys.is_finalizing():
            # When the interpreter exits, daemon threads have stopped already.
            return False
        self._closed = True
        from aiosqlite.core import _STOP_RUNNING_SENTINEL

        connection, held = self._connection, self._held
        connection._connection, connection._running = None, False

        def close() -> object:
            _close(held)
            return _STOP_RUNNING_SENTINEL

        # Connection.stop would make a future on a loop that may be closed by then.
        connection._tx.put_nowait((closed, close))
        return True

    def disown(self) -> None:
        """Never use it again, in a forked child."""
        self._forked = True
        # Or aiosqlite would warn that it was never closed.
        self._connection._connection = None

    def _call(
        self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        # In the thread.
        while True:
            with fork_gate:
                (raw,) = self._held  # the call that closes it is the last one
                if not (isinstance(raw, StoreConnection) and raw.parked):
                    return fn(raw, *args, **kwargs)
            # Not within the gate: this may wait for a lock that another process has.
            self._held[:] = [self._again()]


def _close(held: list[Connection]) -> None:
    # In the thread. An error while closing loses nothing that was committed.
    with fork_gate, contextlib.suppress(sqlite3.Error):
        while held:
            held.pop().close()
