"""One SQLite connection on a thread of its own, where a whole function runs as one call.

aiosqlite's public methods run one statement per change of thread. A group commit is many statements
with decisions between them, and changing threads costs more than all of them (docs/performance.md).
Nor can its public methods make the thread a daemon, or end it after its loop was closed. So this
module, and no other, uses private parts of aiosqlite: `Connection._execute`, `_conn`,
`_connection`, `_running`, `_thread` and `_tx`, and `core._STOP_RUNNING_SENTINEL`. pyproject.toml
limits its versions, a test checks that these parts exist, and ``nox -s aiosqlite`` runs the store's
tests with the oldest and the newest version allowed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
import weakref
from collections.abc import Callable
from sqlite3 import Connection
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

if TYPE_CHECKING:
    import aiosqlite

P = ParamSpec("P")
T = TypeVar("T")

_threads: weakref.WeakSet[SqliteThread] = weakref.WeakSet()
# Connections that a forked child inherited. Closing one, even by garbage collection, would release
# the locks of the parent and delete its log.
_inherited: list[object] = []


class SqliteThread:
    """A connection and its thread, which runs one function after another.

    Lives from `SqliteThread.open` until `aclose`. The thread is a daemon, so one left open never
    keeps the interpreter from exiting; SQLite rolls back what was not committed then.
    """

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._closed = False
        self._forked = False
        _threads.add(self)

    @classmethod
    async def open(cls, connect: Callable[[], Connection]) -> SqliteThread:
        """Call `connect` on a new thread; its exceptions are raised here.

        Cancelling leaves nothing open: a connection that `connect` returns later is closed.
        """
        import aiosqlite

        failure: list[BaseException] = []

        def connect_or_note() -> Connection:
            # If it raised, aiosqlite would end the thread without waiting for its end.
            try:
                return connect()
            except BaseException as exc:
                failure.append(exc)
                return sqlite3.connect(":memory:", check_same_thread=False)

        connection = aiosqlite.Connection(connect_or_note, iter_chunk_size=64)
        connection._thread.daemon = True
        run = connection._thread.run

        def run_quietly() -> None:
            # A loop that was closed during a call takes no result, and aiosqlite 0.22.0 cannot
            # close without a future, which fails after `close`. No traceback is printed then.
            with contextlib.suppress(RuntimeError, AttributeError):
                run()

        connection._thread.run = run_quietly  # type: ignore[method-assign]  # of aiosqlite
        opening = asyncio.ensure_future(connection)
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(lambda _: cls(connection).abandon())
            raise
        thread = cls(connection)
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
        if self._forked:
            raise sqlite3.ProgrammingError("it was opened before this process was forked")
        if self._closed:
            raise sqlite3.ProgrammingError("the connection is closed")
        connection = self._connection
        return await connection._execute(fn, connection._conn, *args, **kwargs)  # type: ignore[no-any-return, no-untyped-call]  # private

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

        connection = self._connection
        raw, connection._connection, connection._running = connection._connection, None, False

        def close() -> object:
            # An error while closing loses nothing that was committed.
            with contextlib.suppress(sqlite3.Error):
                if raw is not None:
                    raw.close()
            return _STOP_RUNNING_SENTINEL

        # Connection.stop would make a future on a loop that may be closed by then.
        connection._tx.put_nowait((closed, close))
        return True


def _mark_inherited() -> None:
    for thread in list(_threads):
        thread._forked = True
        _inherited.append(thread._connection)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_inherited)
