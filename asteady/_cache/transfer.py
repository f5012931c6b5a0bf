"""Export files: their format, and how they are written, checked and merged.

An export is one SQLite file with two tables for each cache, entries and tags, and nothing else of
the databases: no counters, ghosts or budgets.

A file to import may be damaged, or made to do harm. It is opened read-only and immutable; its
schema must be exactly that of an export, without triggers, views or indexes; every page is checked
before a row is read; and every row must be exactly what the codec would have written.

`export_entries` and `import_entries` run on the event loop; everything else blocks.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import sqlite3
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from threading import Event
from typing import Any, TypeVar

import anyio.to_thread

from asteady._base.errors import AsteadyError, StoreError, StoreVersionError
from asteady._base.files import AnyPath, atomic_write
from asteady._base.forks import fork_gate
from asteady._base.requests import EmbedRequest, Key, Kind, namespace_path
from asteady._cache.policy import POLICIES, Budget
from asteady._cache.store.api import BUSY_TIMEOUT_S, Exported, Incoming, Merge, Merged, Store
from asteady._cache.store.codec import (
    Codec,
    CompletionCodec,
    DamagedError,
    EmbeddingCodec,
    check_values,
)
from asteady._cache.store.eviction_index import COLUMNS, row_of
from asteady._cache.store.schema import APPLICATION_ID
from asteady._cache.store.stored_request import DIMENSIONS_FIELD, to_json, verified
from asteady._cache.store.transaction import entry_bytes, relative_priority, tag_bytes

log = logging.getLogger("asteady")
T = TypeVar("T")

# "AsEx" in ASCII.
EXPORT_ID = 0x41734578
EXPORT_VERSION = 4
CODECS: dict[str, Codec[Any]] = {"generation": CompletionCodec(), "embedding": EmbeddingCodec()}
# No answer is nearly as large: 100,000 tokens with 20 alternatives each take about 50 MB.
MAX_ROW_BYTES = 64 * 1024 * 1024
# Of one entry: larger numbers are no measurements, and it would never be evicted.
MAX_TOUCHES = 2**40
MAX_COST_S = 30 * 86400.0
# Entries without their answers are held in memory, some hundred bytes each, and tags, some dozens.
MAX_ENTRIES = 1_000_000
MAX_TAGS = 4_000_000
# Instructions of SQLite's virtual machine between two checks of `stop`: some milliseconds.
STOP_STEPS = 100_000
_MAGIC = b"SQLite format 3\0"
_KEY = re.compile(r"[0-9a-f]{64}")
# Columns of an answer; the second is of both kinds.
VECTOR = [name for name, _ in EmbeddingCodec.columns].index("vector")
FINGERPRINT = [name for name, _ in EmbeddingCodec.columns].index("fingerprint")
# The first columns of an entry; its checksum, its answer's values and its request follow.
_NUMBERS = ("key", "cost_s", "touches", "relative_priority", "created_s", "used_s")

# The loop keeps only weak references to tasks.
_merging: set[asyncio.Task[Any]] = set()


class RefusedError(AsteadyError):
    """The file is refused. Never leaves the cache: it becomes a `StoreError`."""


def tables() -> dict[str, str]:
    """The statements that create the tables of an export, by the names of the tables."""
    created = {}
    for kind, codec in CODECS.items():
        # Only logprobs may be missing; see `Completion`.
        columns = [
            f"{name} {type_}" + ("" if name == "logprobs" else " NOT NULL")
            for name, type_ in codec.columns
        ]
        created[kind] = (
            f"CREATE TABLE {kind} (key TEXT PRIMARY KEY NOT NULL, cost_s REAL NOT NULL,"
            " touches INTEGER NOT NULL, relative_priority REAL NOT NULL, created_s REAL NOT NULL,"
            f" used_s REAL NOT NULL, crc INTEGER NOT NULL, {', '.join(columns)}, request TEXT)"
            " WITHOUT ROWID"
        )
        created[f"{kind}_tag"] = (
            f"CREATE TABLE {kind}_tag (key TEXT NOT NULL, namespace TEXT NOT NULL,"
            " PRIMARY KEY (key, namespace)) WITHOUT ROWID"
        )
    return created


def checked(kind: str, row: Sequence[Any], keep_requests_bytes: int) -> tuple[Any, ...]:
    """Checksum, values and request of a row, whose values are exactly what the codec would write.

    The request is None if it does not hash to the key, or is too long.

    Raises:
        DamagedError: the row is not an entry.
    """
    codec = CODECS[kind]
    (key, cost_s, touches, *others), crc, values = row[:6], row[6], row[7:-1]
    if not (isinstance(key, str) and _KEY.fullmatch(key)):
        raise DamagedError(f"{str(key)[:80]!r} is not a key")
    if not (
        type(touches) is int
        and all(type(number) is float for number in (cost_s, *others))
        and 0 <= cost_s <= MAX_COST_S
        and 1 <= touches <= MAX_TOUCHES
        and all(map(math.isfinite, others))
    ):
        raise DamagedError(f"the numbers of {key} are not possible")
    size_bytes = sum(len(value) for value in values if isinstance(value, str | bytes))
    if size_bytes > MAX_ROW_BYTES:
        raise DamagedError(f"the value of {key} has {size_bytes:,} bytes")
    check_values(codec, key, cost_s, crc, values)
    text, request = row[-1], None
    # A long one is refused unread: lists of lists take many times their size as JSON.
    if isinstance(text, str) and len(text) <= keep_requests_bytes:
        request = verified(text, key, values[FINGERPRINT])
    if isinstance(request, EmbedRequest) and request.dimensions is not None:
        dimensions = len(values[VECTOR]) // 4
        if dimensions != request.dimensions:
            raise DamagedError(
                f"the vector of {key} has {dimensions} dimensions, and {request.dimensions} were"
                " requested"
            )
    return crc, *values, request and to_json(request, keep_requests_bytes)


async def in_thread(fn: Callable[[Event], T]) -> T:
    """``fn(stop)`` in a thread; `stop` is set when this is cancelled."""
    stop = Event()

    def run() -> T:
        with fork_gate:  # SQLite is used
            return fn(stop)

    try:
        return await anyio.to_thread.run_sync(run, abandon_on_cancel=True)
    finally:
        stop.set()


# -- export ---------------------------------------------------------------------------------------


async def export_entries(path: AnyPath, databases: Mapping[str, Path], keep_bytes: int) -> Exported:
    """See `CacheManager.export_entries`."""

    def write(stop: Event) -> Exported:
        target = Path(path).absolute()
        counts = write_export(target, databases, keep_bytes, stop)
        return Exported(path=target, size_bytes=target.stat().st_size, **counts)

    return await in_thread(write)


def write_export(
    target: Path, databases: Mapping[str, Path], keep_requests_bytes: int, stop: Event
) -> dict[str, int]:
    """Write the entries of these databases, by kind, to a file; returns their numbers by kind.

    The databases may be in use: SQLite's backup API makes a consistent copy of each without
    blocking its writers, and the entries are read from the copies. The file is written whole or not
    at all, as when `stop` is set. Only its owner can read it. Damaged entries are left out.

    Raises:
        StoreError: a database cannot be read, or `target` exists and is not an export.
        OSError: the file cannot be written.
    """
    _check_target(target)
    counts: dict[str, int] = {}
    with (
        atomic_write(target) as file,
        tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as directory,
    ):
        with closing(sqlite3.connect(file.name, isolation_level=None)) as out:
            # An incomplete file is deleted anyway.
            out.execute("PRAGMA journal_mode = OFF")
            out.execute("PRAGMA synchronous = OFF")
            out.execute(f"PRAGMA application_id = {EXPORT_ID}")
            out.execute(f"PRAGMA user_version = {EXPORT_VERSION}")
            out.execute("BEGIN")
            for statement in tables().values():
                out.execute(statement)
            for kind, path in databases.items():
                try:
                    with _copied(path, Path(directory, kind), stop) as copy:
                        counts[kind] = _write_entries(out, copy, kind, keep_requests_bytes, stop)
                except sqlite3.Error as exc:
                    raise StoreError(f"the cache database {path} cannot be read: {exc}") from exc
            out.execute("COMMIT")
        os.fsync(file.fileno())
        _check_stop(stop)
    return counts


def _check_target(target: Path) -> None:
    """Refuse to overwrite anything but an export."""
    try:
        # Opening a pipe would block.
        regular = stat.S_ISREG(target.stat().st_mode)
    except FileNotFoundError:
        return
    header = b""
    if regular:
        with target.open("rb") as file:
            header = file.read(100)
    if header[:16] != _MAGIC or header[68:72] != EXPORT_ID.to_bytes(4, "big"):
        raise StoreError(
            f"{target} exists and is not an export of a cache, so it is not overwritten; choose"
            " another name"
        )


@contextmanager
def _copied(path: Path, copy: Path, stop: Event) -> Iterator[Connection]:
    with closing(sqlite3.connect(copy, isolation_level=None)) as destination:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, timeout=BUSY_TIMEOUT_S, uri=True)) as source:
            # All pages in one step, so that no write restarts it.
            source.backup(destination, progress=lambda *_: _check_stop(stop))
        yield destination
    # At once, so that the disk need not have room for both copies.
    os.unlink(copy)


def _write_entries(
    out: Connection, copy: Connection, kind: str, keep_requests_bytes: int, stop: Event
) -> int:
    columns = ", ".join(name for name, _ in CODECS[kind].columns)
    name, max_entries, max_bytes, level = copy.execute(
        "SELECT policy, max_entries, max_bytes, level FROM cache"
    ).fetchone()
    policy, budget = POLICIES[name], Budget(max_entries, max_bytes)
    marks = ", ".join("?" * (8 + len(CODECS[kind].columns)))
    count = 0
    for row in map(row_of, copy.execute(f"SELECT {COLUMNS} FROM entry ORDER BY key")):
        _check_stop(stop)
        try:
            answer = copy.execute(
                f"SELECT crc, {columns}, request FROM answer WHERE slot = ?", (row.slot,)
            ).fetchone()
            # The relative priority is computed from numbers that have been checked.
            numbers = (row.key, row.cost_s, row.touches, 0.0, row.created_s, row.used_s)
            answer = checked(kind, (*numbers, *(answer or (0, None))), keep_requests_bytes)
        except (DamagedError, sqlite3.OperationalError, ValueError) as exc:
            log.warning("an entry of the %s cache is not exported: %s", kind, exc)
            continue
        relative = relative_priority(policy, level, row, budget)
        entry = (*numbers[:3], relative, *numbers[4:], *answer)
        out.execute(f"INSERT INTO {kind} VALUES ({marks})", entry)
        tags = copy.execute("SELECT ?, namespace FROM tag WHERE slot = ?", (row.key, row.slot))
        out.executemany(f"INSERT INTO {kind}_tag VALUES (?, ?)", tags.fetchall())
        count += 1
    return count


def _check_stop(stop: Event) -> None:
    if stop.is_set():
        raise RefusedError("it was cancelled")


# -- import ---------------------------------------------------------------------------------------


class ExportFile:
    """An export that is open for reading, until `close`; one thread at a time uses it."""

    def __init__(self, path: Path, keep_requests_bytes: int, dimensions: dict[str, int]) -> None:
        self._path = path
        # Of whole vectors, by fingerprint; of those in the cache, to begin with.
        self._dimensions = dict(dimensions)
        self._longest: dict[str, int] = {}
        self._keep_requests_bytes = keep_requests_bytes
        # Immutable: SQLite ignores locks and journals beside it, and writes nothing there.
        self._connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro&immutable=1",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )

    def close(self) -> None:
        self._connection.close()

    def entries(self, stop: Event) -> dict[str, list[Incoming]]:
        """All entries of both caches; each page, and each row with its answer, is checked.

        Raises:
            StoreVersionError: another version of asteady wrote it.
            Exception: anything, if the file is damaged or not an export; or `stop` was set.
        """
        # A damaged tree of pages may have cycles: reading it ends when `stop` is set.
        self._connection.set_progress_handler(stop.is_set, STOP_STEPS)
        self._check()
        found = {kind: self._entries(kind) for kind in CODECS}
        # From here on `values` is called, which must not be interrupted by `stop`.
        self._connection.set_progress_handler(None, 0)
        return found

    def _check(self) -> None:
        connection = self._connection
        # Bounds the memory of a value, a row or a statement of the schema.
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2 * MAX_ROW_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "query_only = ON"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("PRAGMA mmap_size = 0")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application == APPLICATION_ID:
            raise RefusedError(
                "it is the database of a cache itself; `asteady cache export` makes a file that"
                " can be imported"
            )
        if application != EXPORT_ID:
            raise RefusedError("it is not an export of a cache")
        if version != EXPORT_VERSION:
            remedy = "upgrade asteady" if version > EXPORT_VERSION else "export it again"
            raise StoreVersionError(
                f"{self._path} has version {version}, and this asteady reads version"
                f" {EXPORT_VERSION}; {remedy}"
            )
        # Checked before anything is read that the schema could influence.
        found = connection.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name LIMIT 9"
        ).fetchall()
        expected = sorted(tables().items())
        if found != [("table", name, name, statement) for name, statement in expected]:
            raise RefusedError("its tables are not those of an export")
        (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise RefusedError(f"it is damaged: {verdict}")

    def _entries(self, kind: str) -> list[Incoming]:
        found: list[Incoming] = []
        tags = self._tags(kind)
        for row in self._connection.execute(f"SELECT * FROM {kind}"):
            if len(found) >= MAX_ENTRIES:
                raise RefusedError(f"it has more than {MAX_ENTRIES:,} entries")
            _, *values = checked(kind, row, self._keep_requests_bytes)
            if kind == "embedding":
                self._check_dimensions(row[0], values)
            namespaces = tuple(tags.pop(row[0], ()))
            found.append(
                Incoming(
                    size_bytes=entry_bytes(row[0], values) + tag_bytes(namespaces),
                    namespaces=namespaces,
                    **dict(zip(_NUMBERS, row[:6], strict=True)),
                )
            )
        for key in tags:
            raise RefusedError(f"it has no entry {str(key)[:80]!r}, which has a namespace")
        return found

    def _check_dimensions(self, key: Key, values: Sequence[Any]) -> None:
        """All whole vectors of a model are as long as each other, and no other is longer."""
        fingerprint, request = values[FINGERPRINT], values[-1]
        found = len(values[VECTOR]) // 4
        longest = self._longest[fingerprint] = max(found, self._longest.get(fingerprint, 0))
        whole = request is not None and DIMENSIONS_FIELD not in request
        if whole:
            self._dimensions.setdefault(fingerprint, found)
        dimensions = self._dimensions.get(fingerprint, longest)
        if longest > dimensions or (whole and found != dimensions):
            raise RefusedError(
                f"the vector of {key} has {found} dimensions, and others of its model have"
                f" {longest if longest > dimensions else dimensions}"
            )

    def _tags(self, kind: str) -> dict[Key, list[str]]:
        found: dict[Key, list[str]] = {}
        rows = self._connection.execute(f"SELECT key, namespace FROM {kind}_tag")
        for count, (key, path) in enumerate(rows, 1):
            if count > MAX_TAGS:
                raise RefusedError(f"its namespaces have more than {MAX_TAGS:,} entries")
            # Thousands of entries have the same few.
            found.setdefault(key, []).append(sys.intern(namespace_path(path)))
        return found

    def values(self, kind: str, key: Key) -> tuple[Any, ...]:
        """Checksum, values and request of one entry, checked again.

        Raises:
            RefusedError: the file has changed.
        """
        try:
            row = self._connection.execute(f"SELECT * FROM {kind} WHERE key = ?", (key,)).fetchone()
            return checked(kind, row, self._keep_requests_bytes)
        except Exception as exc:
            raise RefusedError(f"{self._path} changed while it was read: {exc}") from exc


async def import_entries(
    path: AnyPath, stores: dict[Kind, Store[Any]], *, keep_bytes: int, max_file_bytes: int
) -> dict[str, Merged]:
    """See `CacheManager.import_entries`."""
    dimensions = await stores["embedding"].dimensions()
    file, entries = await in_thread(
        partial(_checked_file, Path(path), keep_bytes, max_file_bytes, dimensions)
    )
    # The writer reads from the file, so it stays open even when nobody waits any more.
    task = asyncio.create_task(_merge(stores, file, entries), name="asteady cache import")
    _merging.add(task)
    task.add_done_callback(_merging.discard)
    return await asyncio.shield(task)


def _checked_file(
    path: Path, keep_bytes: int, max_file_bytes: int, dimensions: dict[str, int], stop: Event
) -> tuple[ExportFile, dict[str, list[Incoming]]]:
    """The open file and its entries, all of them checked before anything is changed."""
    try:
        status = path.stat()
    except OSError as exc:
        raise StoreError(f"{path} cannot be read: {exc.strerror}") from exc
    try:
        if not stat.S_ISREG(status.st_mode):
            raise RefusedError("it is not a file")
        if status.st_size > max_file_bytes:
            raise RefusedError(
                f"its {status.st_size:,} bytes are more than the {max_file_bytes:,} allowed"
            )
        file = ExportFile(path, keep_bytes, dimensions)
        try:
            return file, file.entries(stop)
        except BaseException:
            file.close()
            raise
    except StoreError:
        raise
    except Exception as exc:
        # A hostile file may cause anything: SQLite's errors, text that is not UTF-8, ...
        raise StoreError(f"{path} is not imported: {exc}") from exc


async def _merge(
    stores: dict[Kind, Store[Any]], file: ExportFile, entries: dict[str, list[Incoming]]
) -> dict[str, Merged]:
    try:
        return {
            kind: await store.submit(Merge(entries[kind], partial(file.values, kind)))
            for kind, store in stores.items()
        }
    except StoreError as exc:
        if isinstance(exc.__cause__, RefusedError):
            raise StoreError(str(exc.__cause__)) from exc
        raise
    finally:
        file.close()
