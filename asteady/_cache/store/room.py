"""Room on the disk: how large a log may become, and what would leave too little.

SQLite appends every commit to the log, and copies it into the database when it has reached its
limit. So the log takes disk space in addition, and copying needs as much again. A log that has
filled the disk can neither be copied nor be appended to: nothing could be written any more, not
even to remove something.
"""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from sqlite3 import Connection

MIN_LOG_BYTES = 128 * 1024
MAX_LOG_BYTES = 16 * 1024 * 1024
# The log of a disk that is nearly full; below this, SQLite would sync at nearly every commit.
LEAST_LOG_BYTES = 64 * 1024
# What stays free of the disk, so that the log can be copied and entries can be removed.
RESERVE_BYTES = 512 * 1024


class NoRoomError(Exception):
    """The write would leave too little of the disk. For the rest, as SQLite's own error."""

    sqlite_errorcode = sqlite3.SQLITE_FULL


class Room:
    """Bounds the log of one connection that writes, and lives as long.

    Both caches, other processes and other programs use the same disk, so each commit looks anew how
    much of it is free.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._usual_bytes = usual_log_bytes(max_bytes)
        self._log_bytes = 0

    def ensure(self, connection: Connection, growth_bytes: int) -> None:
        """Call it before a transaction that adds so many bytes.

        Raises:
            NoRoomError: so much is not free.
        """
        free_bytes = self._free_bytes()
        # A quarter: the log, its copy in the database, and the same for the other cache.
        limit_bytes = self._usual_bytes
        if free_bytes // 4 < limit_bytes:
            # A power of two, as a limit that changed with every commit would be set with each.
            limit_bytes = max(LEAST_LOG_BYTES, 1 << (free_bytes // 4).bit_length() >> 1)
        if limit_bytes != self._log_bytes:
            limit_log(connection, limit_bytes)
            self._log_bytes = limit_bytes
        if growth_bytes and free_bytes < RESERVE_BYTES + 2 * growth_bytes:
            # Always the same text, which is logged once.
            raise NoRoomError(
                f"the disk is full, but for {RESERVE_BYTES // 1024} KB that stay free: make room on"
                " it, or clear the cache"
            )

    def _free_bytes(self) -> int:
        try:
            total_bytes, _, free_bytes = shutil.disk_usage(self._path.parent)
        except OSError:
            total_bytes = free_bytes = 0
        # Some file systems do not tell.
        return free_bytes if total_bytes else 4 * MAX_LOG_BYTES


def usual_log_bytes(max_bytes: int) -> int:
    """The limit of the log where the disk has room: an eighth of the budget, 16 MB at most.

    When it is reached SQLite syncs twice, which takes longer than a hundred puts.
    """
    return max(MIN_LOG_BYTES, min(MAX_LOG_BYTES, max_bytes // 8))


def limit_log(connection: Connection, limit_bytes: int) -> None:
    """Let SQLite copy the log at this size, and cut it to that when it begins anew."""
    # A database keeps the page size that it was created with.
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    connection.execute(f"PRAGMA wal_autocheckpoint = {limit_bytes // page_bytes}")
    connection.execute(f"PRAGMA journal_size_limit = {limit_bytes}")
