"""Connections of several threads to the same database, and the locks of this process on it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from asteady._base.forks import fork_gate
from asteady._cache.store.connection import StoreConnection, connect_file, head_of

LOCK = """
import sqlite3, sys
sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None).execute("BEGIN IMMEDIATE")
"""


def locked(path: Path) -> bool:
    """Whether another process cannot write to it."""
    done = subprocess.run(
        [sys.executable, "-c", LOCK, str(path)], capture_output=True, text=True, check=False
    )
    assert not done.returncode or "database is locked" in done.stderr
    return done.returncode != 0


def test_a_connection_that_is_opened_while_another_thread_looks_at_the_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "cache.db"
    path.touch()
    opened: list[StoreConnection] = []

    def connect() -> None:
        with fork_gate:
            connection = connect_file(path, 1.0)
            connection.execute("BEGIN IMMEDIATE")
            opened.append(connection)

    connecting = threading.Thread(target=connect)

    class ComparedWhileConnecting(tuple[int, int]):
        def __eq__(self, other: object) -> bool:
            connecting.start()
            connecting.join(0.3)  # it connects meanwhile, or waits
            return False

        __hash__ = None  # type: ignore[assignment]

    with fork_gate:
        other = connect_file(tmp_path / "other.db", 1.0)
        other.file = ComparedWhileConnecting()
        assert head_of(path, 20) == b""
        other.file = None
    connecting.join(60)
    (connection,) = opened
    assert locked(path)
    with fork_gate:
        assert head_of(path, 20) is None
        connection.close()
        other.close()
    assert not locked(path)
