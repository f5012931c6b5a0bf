"""The database: its tables, and how a file is opened, created, or set aside.

Everything here blocks and runs on a connection's own thread.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from sqlite3 import Connection
from typing import TypeAlias

import attrs

from asteady._base.errors import StoreError, StoreVersionError
from asteady._base.forks import fork_gate
from asteady._cache.store.api import BUSY_TIMEOUT_S
from asteady._cache.store.codec import Columns
from asteady._cache.store.connection import connect_file, head_of
from asteady._cache.store.locks import network_filesystem
from asteady._cache.store.room import limit_log, usual_log_bytes

Identity: TypeAlias = tuple[int, int]

log = logging.getLogger("asteady")

# "AsCa" in ASCII, for `file` and SQLite's own tools.
APPLICATION_ID = 0x41734361
VERSION = 5
OPEN_TIMEOUT_S = 10.0
# A larger number in the header is no version, but damage.
MAX_VERSION = 1000
# Primary result codes.
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
# The disk, memory, permissions and other processes: they say nothing of the file's content.
_ENVIRONMENT = _BUSY | {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_AUTH,
}
PAGE_BYTES = 4096
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


@attrs.define
class Removal:
    """A database to be removed, as the disk has no room to clear it; how many entries it had."""

    file: Identity | None
    entries: int | None = None
    done: bool = False


class _OutdatedError(Exception):
    """The database was written by an older version."""


class OtherApplicationError(StoreError):
    """The database belongs to another application. Users see it as a `StoreError`."""


class ForeignError(sqlite3.DatabaseError):
    """The tables or rows of the database are not what asteady writes."""


def is_damage(error: BaseException) -> bool:
    """Whether the file is damaged, is not a database, or has not our tables and rows."""
    return isinstance(error, ForeignError) or _code(error) in _DAMAGED


def is_environment(error: BaseException) -> bool:
    """Whether the error says nothing of the content: a full disk, a lock, a closed connection."""
    return _code(error) in _ENVIRONMENT or isinstance(error, sqlite3.ProgrammingError)


def is_undecodable(error: BaseException) -> bool:
    """Whether a text is not UTF-8: Python's error, which has no code of SQLite."""
    return isinstance(error, UnicodeDecodeError) or (
        isinstance(error, sqlite3.OperationalError) and not hasattr(error, "sqlite_errorcode")
    )


def _code(error: BaseException) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def is_busy(error: BaseException) -> bool:
    """Whether another connection had the database locked."""
    return _code(error) in _BUSY


def connect(path: Path, max_bytes: int, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Connection:
    """A connection with our settings to a database that exists."""
    with fork_gate:
        return _connect(path, max_bytes, busy_timeout_s)


def _connect(path: Path, max_bytes: int, busy_timeout_s: float) -> Connection:
    connection = connect_file(path, busy_timeout_s)
    try:
        # In WAL mode a commit survives the death of the process at any level; NORMAL syncs at
        # checkpoints, so that a power failure may lose the last commits but damages nothing.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA temp_store = MEMORY")
        limit_log(connection, usual_log_bytes(max_bytes))
    except BaseException:
        connection.close()
        raise
    return connection


def is_full(error: BaseException) -> bool:
    """Whether the disk takes no more: it is full, or there is a quota, a limit or a defect."""
    reason = error.__cause__ if isinstance(error, StoreError) else error
    return reason is not None and _code(reason) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def identities(path: Path) -> list[Identity | None]:
    """Device and inode of the database and of its log's files; None where there is none.

    SQLite's locks are in these files: a process that has other ones open than the next process
    would open is no longer kept from writing at the same time.

    Raises:
        PermissionError: it may not look there.
    """
    found: list[Identity | None] = []
    for suffix in ("", "-wal", "-shm"):
        try:
            status = os.stat(f"{path}{suffix}")
            found.append((status.st_dev, status.st_ino))
        except PermissionError:
            raise
        except OSError:
            found.append(None)
    return found


def open_database(
    path: Path,
    columns: Columns,
    max_bytes: int,
    damaged: Identity | None = None,
    busy_timeout_s: float = BUSY_TIMEOUT_S,
    aside: list[Path] | None = None,
    removal: Removal | None = None,
) -> Connection:
    """Open the database at `path` for writing, or create it.

    A damaged one, and one of an older version, is set aside first, as is the file with the identity
    `damaged`, which was found to be damaged while it was in use. The new names of damaged ones are
    added to `aside`. A `removal` is done first.

    Raises:
        StoreVersionError: a newer version wrote it.
        OtherApplicationError: it belongs to another application.
        StoreError: it cannot be opened.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Two processes that find the same damage must not set each other's new database aside.
        with _exclusive(path) as alone:
            aside = [] if aside is None else aside
            if removal is not None and identities(path)[0] == removal.file and alone:
                _remove(path, removal)
            if damaged is not None and identities(path)[0] == damaged and alone:
                aside.append(set_aside(path, "damaged", "found while reading or writing"))
            deadline_s = time.monotonic() + OPEN_TIMEOUT_S
            while True:
                try:
                    with fork_gate:
                        return _open(path, columns, max_bytes, busy_timeout_s)
                except _OutdatedError as exc:
                    if not alone:
                        raise StoreError(f"another process is opening {path}") from exc
                    set_aside(path, "outdated", exc)
                except (sqlite3.Error, UnicodeDecodeError) as exc:
                    if is_busy(exc) and time.monotonic() <= deadline_s:
                        continue
                    # Our own statements fail here only where the content is not ours. If a new
                    # database fails too, the reason is another one.
                    if is_environment(exc) or len(aside) > 1 or not alone:
                        raise
                    aside.append(set_aside(path, "damaged", exc))
    except (sqlite3.Error, UnicodeDecodeError, OSError) as exc:
        full = "make room on its disk, if that is full, or clear the cache; or " * is_full(exc)
        raise StoreError(
            f"the cache database {path} cannot be opened: {exc}; {full}set ASTEADY_CACHE_DIR to"
            " another directory, or ASTEADY_DISABLE_CACHE=1 to do without"
        ) from exc


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[bool]:
    """Yields False if another process has the lock, and does not let go of it."""
    with fork_gate:
        from filelock import FileLock, Timeout

    directory = path.parent / "locks"
    lock = FileLock(directory / f"{path.stem}.lock", timeout=OPEN_TIMEOUT_S)
    alone = True
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        lock.acquire()
    except Timeout:
        # SQLite's own locks still protect the database.
        alone = False
    except (OSError, NotImplementedError) as exc:
        log.warning("opening %s without its lock: %s", path, exc)
    try:
        yield alone
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


def _remove(path: Path, removal: Removal) -> None:
    if removal.entries is None:
        # Without shared memory, for which there may be no room, what is in the log is not counted.
        with contextlib.suppress(sqlite3.Error):
            uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
            with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
                removal.entries = connection.execute("SELECT entries FROM cache").fetchone()[0]
    # The database first: SQLite ignores the log of an empty one, should this be interrupted.
    for suffix in ("", *SIDE_FILES):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}{suffix}")
    removal.done = True
    log.warning("the cache database %s was removed, as the disk has no room to clear it", path)


def _open(path: Path, columns: Columns, max_bytes: int, busy_timeout_s: float) -> Connection:
    _check_files(path)
    connection = _connect(path, max_bytes, busy_timeout_s)
    try:
        made = _is_made(connection, path, columns)
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
    if not _is_made(connection, path, columns):
        _make_tables(connection, columns)
        # A database that replaces another starts with a higher count of removals than that one
        # can have reached, so that its readers notice.
        connection.execute(
            "INSERT INTO cache (id, removals) VALUES (1, ?)", (time.time_ns() // 1000,)
        )
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def _make_tables(connection: Connection, columns: Columns) -> None:
    described = ",\n    ".join(f"{name} {kind}" for name, kind in columns)
    for statement in TABLES.format(columns=described).split(";\n"):
        connection.execute(statement)


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


def _check_files(path: Path) -> None:
    """Make the file, if there is none.

    Raises:
        ForeignError: what is there is no file, or has a header that SQLite never writes.
    """
    for suffix in ("", *SIDE_FILES):
        beside = f"{path}{suffix}"
        # Not by opening it: that would wait for the other end of a FIFO.
        if os.path.lexists(beside) and not os.path.isfile(beside) and _is_other(beside):
            raise ForeignError(f"{os.path.basename(beside)} is not a regular file")
    head = head_of(path, 20)
    # SQLite opens later formats for reading only, which would look like a lack of permission.
    if head is not None and len(head) == 20 and not set(head[18:]) <= {1, 2}:
        raise ForeignError("its header is damaged")


def _is_other(path: str) -> bool:
    """Whether there is something that is no file; False for a link to a file yet to be made."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
    except OSError as exc:
        return exc.errno == errno.ELOOP


def _is_made(connection: Connection, path: Path, columns: Columns) -> bool:
    """Whether the database has its tables; False for an empty one.

    Raises:
        _OutdatedError: it is of an older version.
        ForeignError: it is ours, but its tables or rows are not.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables == 0:
        return False
    if application != APPLICATION_ID:
        if not _lacking(connection, columns):
            raise ForeignError("its header is damaged")
        raise OtherApplicationError(
            f"{path} is the database of another application; choose another cache_dir"
        )
    if not 0 < version <= MAX_VERSION:
        raise ForeignError("its header is damaged")
    if version > VERSION:
        raise StoreVersionError(
            f"the cache database {path} has version {version}, and this asteady reads version "
            f"{VERSION}; upgrade asteady or choose another cache_dir"
        )
    if version < VERSION:
        raise _OutdatedError(f"version {version}, and this asteady reads version {VERSION}")
    check(connection, columns)
    return True


def check(connection: Connection, columns: Columns, *, thorough: bool = False) -> None:
    """Check the tables, and the rows that decide what is evicted; if `thorough`, the whole file.

    Raises:
        ForeignError: something is missing, or of a wrong type.
    """
    try:
        lacking = _lacking(connection, columns)
        if lacking:
            raise ForeignError(f"it has not our {', '.join(lacking)}")
        (rows,) = connection.execute("SELECT count(*) FROM cache").fetchone()
        if rows != 1:
            raise ForeignError(f"its table cache has {rows} rows instead of one")
        for table in ("cache", "entry", *(("ghost", "tag") if thorough else ())):
            wrong = f"SELECT EXISTS (SELECT 1 FROM {table} WHERE {_is_wrong(connection, table)})"
            if connection.execute(wrong).fetchone()[0]:
                raise ForeignError(f"its table {table} has a value of a wrong type")
        if thorough:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise ForeignError(found)
            for table in ("cache", "entry", "tag", "answer"):
                # Text that is not UTF-8 fails here.
                for _ in connection.execute(f"SELECT * FROM {table}"):
                    pass
    except ForeignError:
        raise
    except Exception as exc:
        if is_environment(exc):
            raise
        raise ForeignError(str(exc)) from exc


def _lacking(connection: Connection, columns: Columns) -> list[str]:
    """The tables and indexes that it has not, or otherwise than we make them."""
    statement = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"
    found = set(connection.execute(statement))
    with contextlib.closing(sqlite3.connect(":memory:")) as model:
        _make_tables(model, columns)
        return [name for name, sql in model.execute(statement) if (name, sql) not in found]


def _is_wrong(connection: Connection, table: str) -> str:
    """In SQL: a value of this row has another type than its column, or is infinite."""
    tests = []
    for _, name, kind, *_ in connection.execute(f"PRAGMA table_info({table})"):
        tests.append(f"typeof({name}) <> '{kind.lower()}'")
        if kind == "REAL":
            tests.append(f"abs({name}) > {sys.float_info.max!r}")
        elif name in ("entries", "size_bytes", "slots", "slot"):
            tests.append(f"{name} < 0")
    return " OR ".join(tests)
