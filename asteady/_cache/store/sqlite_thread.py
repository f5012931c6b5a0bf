"""One SQLite connection on a thread of its own: a whole function as one hop.

aiosqlite's public methods are one statement, one hop. A group commit is many statements with
decisions between them, and a hop costs more than all of them (docs/performance.md). So this module,
and no other, uses what aiosqlite has behind its methods: `Connection._execute`, its thread and its
queue. The version range in pyproject.toml and a test guard them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

if TYPE_CHECKING:
    import aiosqlite

P = ParamSpec("P")
T = TypeVar("T")

_open_doors: weakref.WeakSet[Door] = weakref.WeakSet()
# Connections that a forked child got from its parent. To close one, even by garbage collection,
# would take the parent's files from under it.
_parents: list[object] = []


class Door:
    """A connection that `run` works on, one call after another.

    Lives from `Door.open` until `aclose`. The thread is a daemon, so a door left open never keeps
    the interpreter from exiting; what was not committed then is rolled back by SQLite.
    """

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._closed = False
        self._forked = False
        _open_doors.add(self)

    @classmethod
    async def open(cls, connect: Callable[[], sqlite3.Connection]) -> Door:
        """Call `connect` on a new thread; whatever it raises is raised here.

        Cancelling leaves nothing open: what `connect` returns later is closed.
        """
        import aiosqlite

        failure: list[BaseException] = []

        def connect_or_note() -> sqlite3.Connection:
            # Raised there, aiosqlite would end the thread without anybody waiting for its end.
            try:
                return connect()
            except BaseException as exc:
                failure.append(exc)
                return sqlite3.connect(":memory:", check_same_thread=False)

        connection = aiosqlite.Connection(connect_or_note, iter_chunk_size=64)
        thread = connection._thread
        thread.daemon = True
        run = thread.run

        def serve() -> None:
            # A loop that was closed with a call under way takes no result; the thread ends, and
            # has nothing to complain of.
            with contextlib.suppress(RuntimeError):
                run()

        thread.run = serve  # type: ignore[method-assign]  # its target is aiosqlite's
        opening = asyncio.ensure_future(_connect(connection))
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(lambda _: cls(connection).abandon())
            raise
        door = cls(connection)
        if failure:
            await door.aclose()
            raise failure.pop()
        return door

    async def run(
        self,
        fn: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """`fn(connection, ...)` on the thread. Cancelling stops waiting; `fn` runs all the same.

        Raises:
            sqlite3.ProgrammingError: the door is closed, or was opened before a fork.
        """
        if self._forked:
            raise sqlite3.ProgrammingError("it was opened before this process was forked")
        if self._closed:
            raise sqlite3.ProgrammingError("the connection is closed")
        connection = self._connection
        return await connection._execute(fn, connection._conn, *args, **kwargs)  # type: ignore[no-any-return, no-untyped-call]  # the private door

    async def aclose(self) -> None:
        """Finish what was begun, then close. Idempotent."""
        closed = asyncio.get_running_loop().create_future()
        if self._close(closed):
            await closed

    def abandon(self) -> None:
        """As `aclose` without waiting, also without a running loop. Idempotent."""
        self._close(None)

    def _close(self, closed: asyncio.Future[object] | None) -> bool:
        if self._closed or self._forked or sys.is_finalizing():
            # At the very end of the interpreter there is no thread any more to close it.
            return False
        self._closed = True
        from aiosqlite.core import _STOP_RUNNING_SENTINEL

        connection = self._connection
        raw, connection._connection, connection._running = connection._connection, None, False

        def close() -> object:
            # An error while closing is no matter: what was committed is committed.
            with contextlib.suppress(sqlite3.Error):
                if raw is not None:
                    raw.close()
            return _STOP_RUNNING_SENTINEL

        # Connection.stop would tell a loop that may be closed by then.
        connection._tx.put_nowait((closed, close))
        return True


async def _connect(connection: aiosqlite.Connection) -> None:
    await connection


def _forget_in_child() -> None:
    for door in list(_open_doors):
        door._forked = True
        _parents.append(door._connection)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
