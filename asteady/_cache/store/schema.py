"""The database: its tables, and how a file is opened, created, or set aside.

Everything here blocks and runs on a connection's own thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from sqlite3 import Connection

from asteady._base.errors import StoreError, StoreVersionError
from asteady._cache.store.api import BUSY_TIMEOUT_S
from asteady._cache.store.codec import Columns
from asteady._cache.store.locks import network_filesystem

log = logging.getLogger("asteady")

# "AsCa" in ASCII, for `file` and SQLite's own tools.
APPLICATION_ID = 0x41734361
VERSION = 5
OPEN_TIMEOUT_S = 10.0
# Primary result codes.
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
PAGE_BYTES = 4096
MIN_LOG_BYTES = 128 * 1024
MAX_LOG_BYTES = 16 * 1024 * 1024
SIDE_FILES = ("-wal", "-shm", "-journal")

TABLES = """
CREATE TABLE cache (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    policy TEXT NOT NULL DEFAULT '',
    max_entries INTEGER NOT NULL DEFAULT 0,
    max_bytes INTEGER NOT NULL DEFAULT 0,
    entries INTEGER NOT NULL DEFAULT 0,
    size_bytes INTEGER NOT NULL DEFAULT 0,
    level REAL NOT NULL DEFAULT 0.0,
    phi REAL NOT NULL DEFAULT 0.0,
    turn REAL NOT NULL DEFAULT 0.0,
    ghosts_once INTEGER NOT NULL DEFAULT 0,
    ghosts_more INTEGER NOT NULL DEFAULT 0,
    newcomers INTEGER NOT NULL DEFAULT 0,
    mean_share REAL NOT NULL DEFAULT 0.0,
    slots INTEGER NOT NULL DEFAULT 0,
    removals INTEGER NOT NULL DEFAULT 0,
    evictions INTEGER NOT NULL DEFAULT 0,
    hits INTEGER NOT NULL DEFAULT 0,
    misses INTEGER NOT NULL DEFAULT 0,
    coalesced INTEGER NOT NULL DEFAULT 0,
    saved_s REAL NOT NULL DEFAULT 0.0,
    cleared_s REAL NOT NULL DEFAULT 0.0
);
CREATE TABLE entry (
    key TEXT PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    cost_s REAL NOT NULL,
    touches INTEGER NOT NULL,
    priority REAL NOT NULL,
    slot INTEGER NOT NULL,
    created_s REAL NOT NULL,
    used_s REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX entry_by_priority ON entry (priority);
CREATE TABLE ghost (
    seq INTEGER PRIMARY KEY,
    mark INTEGER NOT NULL,
    touches INTEGER NOT NULL,
    turn REAL NOT NULL
);
CREATE INDEX ghost_by_mark ON ghost (mark);
CREATE TABLE answer (
    slot INTEGER PRIMARY KEY,
    crc INTEGER NOT NULL,
    {columns},
    request TEXT
);
CREATE TABLE tag (
    slot INTEGER NOT NULL,
    namespace TEXT NOT NULL,
    PRIMARY KEY (slot, namespace)
) WITHOUT ROWID;
CREATE TABLE cleared (
    scope TEXT PRIMARY KEY,
    cleared_s REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX cleared_by_time ON cleared (cleared_s);
"""


class _OutdatedError(Exception):
    """The database was written by an older version."""


def is_damage(error: BaseException) -> bool:
    """Whether SQLite reports that the file is damaged or not a database."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED


def is_busy(error: BaseException) -> bool:
    """Whether another connection had the database locked."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY


def connect(path: Path, max_bytes: int, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Connection:
    """A connection with our settings to a database that exists."""
    connection = sqlite3.connect(
        path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
    )
    try:
        # In WAL mode a commit survives the death of the process at any level; NORMAL syncs at
        # checkpoints, so that a power failure may lose the last commits but damages nothing.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA temp_store = MEMORY")
        # The log takes disk space too: an eighth of the budget, 16 MB at most. When it is full
        # SQLite syncs twice, which takes longer than a hundred puts.
        log_bytes = max(MIN_LOG_BYTES, min(MAX_LOG_BYTES, max_bytes // 8))
        # A database keeps the page size that it was created with.
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        connection.execute(f"PRAGMA wal_autocheckpoint = {log_bytes // page_bytes}")
        connection.execute(f"PRAGMA journal_size_limit = {log_bytes}")
    except BaseException:
        connection.close()
        raise
    return connection


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of the file at this path; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def open_database(
    path: Path,
    columns: Columns,
    max_bytes: int,
    damaged: tuple[int, int] | None = None,
    busy_timeout_s: float = BUSY_TIMEOUT_S,
) -> Connection:
    """Open the database at `path` for writing, or create it.

    A damaged one, and one of an older version, is set aside first, as is the file with the identity
    `damaged`, which was found to be damaged while it was in use.

    Raises:
        StoreVersionError: a newer version wrote it.
        StoreError: it belongs to another application, or cannot be opened.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Two processes that find the same damage must not set each other's new database aside.
        with _exclusive(path):
            if damaged is not None and identity(path) == damaged:
                set_aside(path, "damaged", "found while reading or writing")
            deadline_s = time.monotonic() + OPEN_TIMEOUT_S
            while True:
                try:
                    return _open(path, columns, max_bytes, busy_timeout_s)
                except _OutdatedError as exc:
                    set_aside(path, "outdated", exc)
                except sqlite3.DatabaseError as exc:
                    if time.monotonic() > deadline_s or not (is_damage(exc) or is_busy(exc)):
                        raise
                    if is_damage(exc):
                        set_aside(path, "damaged", exc)
    except (sqlite3.Error, OSError) as exc:
        raise StoreError(
            f"the cache database {path} cannot be opened: {exc}; set ASTEADY_CACHE_DIR to another"
            " directory, or ASTEADY_DISABLE_CACHE=1 to do without"
        ) from exc


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    directory = path.parent / "locks"
    directory.mkdir(mode=0o700, exist_ok=True)
    lock = FileLock(directory / f"{path.stem}.lock", timeout=OPEN_TIMEOUT_S)
    try:
        lock.acquire()
    except (Timeout, OSError, NotImplementedError) as exc:
        # SQLite's own locks still protect the database.
        log.warning("opening %s without its lock: %s", path, exc)
    try:
        yield
    finally:
        lock.release()


def set_aside(path: Path, state: str, reason: object) -> Path:
    """Rename a damaged or outdated database with the files beside it; nothing is deleted."""
    stem = f"{path.name}.{state}-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"
    name, number = stem, 1
    while (path.parent / name).exists():
        number += 1
        name = f"{stem}-{number}"
    for suffix in ("", *SIDE_FILES):
        # A journal left behind would be applied to the new database.
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", path.parent / f"{name}{suffix}")
    log.error("the cache database %s is %s (%s); it is kept as %s", path, state, reason, name)
    return path.parent / name


def _open(path: Path, columns: Columns, max_bytes: int, busy_timeout_s: float) -> Connection:
    # SQLite gives its -wal and -shm files the permissions of the database.
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    connection = connect(path, max_bytes, busy_timeout_s)
    try:
        made = _is_made(connection, path)
        if not made:
            # Both can be set only while the file is empty. Answers are overwritten here and there,
            # and a page with one of them is written whole: small pages write less
            # (docs/performance.md). The writer frees unused pages.
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        _choose_journal(connection, path)
        if not made:
            _make(connection, path, columns)
    except BaseException:
        connection.close()
        raise
    return connection


def _make(connection: Connection, path: Path, columns: Columns) -> None:
    connection.execute("BEGIN IMMEDIATE")
    # Checked again inside the transaction: another process may have been faster.
    if not _is_made(connection, path):
        described = ",\n    ".join(f"{name} {kind}" for name, kind in columns)
        for statement in TABLES.format(columns=described).split(";\n"):
            connection.execute(statement)
        # A database that replaces another starts with a higher count of removals than that one
        # can have reached, so that its readers notice.
        connection.execute(
            "INSERT INTO cache (id, removals) VALUES (1, ?)", (time.time_ns() // 1000,)
        )
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def _choose_journal(connection: Connection, path: Path) -> None:
    network = network_filesystem(path.parent)
    wanted = "wal" if network is None else "delete"
    (mode,) = connection.execute(f"PRAGMA journal_mode = {wanted}").fetchone()
    if mode != "wal":
        # Without the log, anything less lets a power failure damage the database.
        connection.execute("PRAGMA synchronous = FULL")
        log.warning(
            "the cache %s is on %s: it uses a rollback journal, which is slower; a cache_dir on a"
            " local disk is better",
            path,
            f"a network file system ({network})"
            if network
            else "a file system without shared memory",
        )


def _is_made(connection: Connection, path: Path) -> bool:
    """Whether the database has its tables; False for an empty one.

    Raises:
        _OutdatedError: it is of an older version.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables == 0:
        return False
    if application != APPLICATION_ID:
        raise StoreError(f"{path} is the database of another application; choose another cache_dir")
    if version > VERSION:
        raise StoreVersionError(
            f"the cache database {path} has version {version}, and this asteady reads version "
            f"{VERSION}; upgrade asteady or choose another cache_dir"
        )
    if version < VERSION:
        raise _OutdatedError(f"version {version}, and this asteady reads version {VERSION}")
    # Every commit reads this row, so that damage there is found now.
    connection.execute("SELECT * FROM cache").fetchone()
    return True
