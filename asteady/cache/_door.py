"""One SQLite connection on a thread of its own: a whole function as one hop.

aiosqlite's public methods are one statement, one hop. A group commit is many statements with
decisions between them, and a hop costs more than all of them (docs/performance.md). So this module,
and no other, uses what aiosqlite has behind its methods: `Connection._execute`, and the thread. The
version range in pyproject.toml and a test guard both.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

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
        self._forked = False
        _open_doors.add(self)

    @classmethod
    async def open(cls, connect: Callable[[], sqlite3.Connection]) -> Door:
        """Call `connect` on a new thread; whatever it raises is raised here.

        Cancelling leaves nothing open: what `connect` returns later is closed.
        """
        import aiosqlite

        connection = aiosqlite.Connection(connect, iter_chunk_size=64)
        # Before 0.22 the connection was the thread.
        thread: Any = getattr(connection, "_thread", connection)
        thread.daemon = True
        run = thread.run

        def serve() -> None:
            # A loop that was closed with a call under way takes no result; the thread ends, and
            # has nothing to complain of.
            with contextlib.suppress(RuntimeError):
                run()

        thread.run = serve
        opening = asyncio.ensure_future(_connect(connection))
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(lambda _: _abandon(connection))
            raise
        return cls(connection)

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
        connection = self._connection
        try:
            return await connection._execute(fn, connection._conn, *args, **kwargs)  # type: ignore[no-any-return, no-untyped-call]  # the private door
        except ValueError as exc:
            if connection._connection is None:
                raise sqlite3.ProgrammingError("the connection is closed") from exc
            raise

    async def aclose(self) -> None:
        """Finish what was begun, then close. Idempotent; an error while closing is no matter."""
        if self._forked:
            return
        with contextlib.suppress(sqlite3.Error, ValueError):
            await self._connection.close()

    def abandon(self) -> None:
        """Close without waiting, also without a running loop."""
        if not self._forked:
            _abandon(self._connection)


async def _connect(connection: aiosqlite.Connection) -> None:
    await connection


def _abandon(connection: aiosqlite.Connection) -> None:
    with contextlib.suppress(Exception):
        connection.stop()


def _forget_in_child() -> None:
    for door in list(_open_doors):
        door._forked = True
        _parents.append(door._connection)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
