"""SQLite connections that are closed when this process forks.

SQLite's records of who has which file open and locked are per process. A child that inherits them
takes no locks of its own: it would write into a log that the parent deletes, and both would change
the same page at once. Nor may the child close a connection of the parent. So before a fork all
connections are closed, between two uses; whoever has one opens it again. Every use is within
`fork_gate`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import weakref
from pathlib import Path

from asteady._base.errors import StoreError
from asteady._base.forks import ProcessLock, fork_gate


class StoreConnection(sqlite3.Connection):
    """A connection to a file; `parked` is True once it was closed because of a fork."""

    parked = False
    file: tuple[int, int] | None = None

    def close(self) -> None:
        super().close()
        with _using:
            _open.discard(self)


# Used within the gate only, by one thread at a time.
_open: weakref.WeakSet[StoreConnection] = weakref.WeakSet()
_using = ProcessLock()
# What a forked child inherited, as a call took too long to wait for. Closing one, even by garbage
# collection, would release the locks of the parent.
_inherited: list[StoreConnection] = []


def connect_file(path: Path, busy_timeout_s: float) -> StoreConnection:
    """A connection in autocommit mode, for any thread; within the gate.

    Raises:
        StoreError: this process was forked while SQLite was in use.
    """
    if _inherited:
        raise StoreError(
            "the cache is unusable in this process, which was forked while another thread had been"
            " using the cache for too long to wait for it: fork earlier, or start processes without"
            ' forking (multiprocessing.set_start_method("spawn"))'
        )
    connection = sqlite3.connect(
        path,
        timeout=busy_timeout_s,
        isolation_level=None,
        check_same_thread=False,
        factory=StoreConnection,
    )
    connection.file = _file_at(path)
    with _using:
        _open.add(connection)
    return connection


def head_of(path: Path, size_bytes: int) -> bytes | None:
    """The first bytes of the file, which is made if there is none; within the gate.

    None if this process has a connection to it, whose locks would be released by closing the file.
    """
    with _using:
        file = _file_at(path)
        if file is not None and any(connection.file == file for connection in _open):
            return None
        # SQLite gives its -wal and -shm files the permissions of the database.
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            return os.read(descriptor, size_bytes)
        finally:
            os.close(descriptor)


def _file_at(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _park() -> None:
    for connection in list(_open):
        # An error while closing loses nothing that was committed.
        with contextlib.suppress(sqlite3.Error):
            connection.close()
        connection.parked = True
    _open.clear()


def _keep_inherited(parked: bool) -> None:
    if not parked:
        _inherited.extend(_open)
    _open.clear()


fork_gate.before_fork(_park)
fork_gate.in_child(_keep_inherited)
