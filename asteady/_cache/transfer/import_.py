"""Reading an export file. Everything but `import_entries` blocks.

The file may be damaged, or made to do harm. It is opened read-only and immutable; its schema must
be exactly that of an export, without triggers, views or indexes; every page is checked before a row
is read; and every row must be exactly what the codec would have written.
"""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from asteady._base.errors import StoreError, StoreVersionError
from asteady._base.requests import Key, Kind, namespace_path
from asteady._cache.store.api import Incoming, Merge, Merged, Store
from asteady._cache.store.schema import APPLICATION_ID
from asteady._cache.store.transaction import entry_bytes, tag_bytes
from asteady._cache.transfer.export import (
    CODECS,
    EXPORT_ID,
    EXPORT_VERSION,
    MAX_ROW_BYTES,
    AnyPath,
    RefusedError,
    answer_columns,
    check_answer,
    check_numbers,
    in_thread,
    own_request,
    tables,
)

# Of a file, by default.
MAX_FILE_BYTES = 4 * 1024**3
# Entries without their answers are held in memory, some hundred bytes each, and tags, some dozens.
MAX_ENTRIES = 1_000_000
MAX_TAGS = 4_000_000
# Instructions of SQLite's virtual machine between two checks of `stop`: some milliseconds.
STOP_STEPS = 100_000

# The loop keeps only weak references to tasks.
_merging: set[asyncio.Task[Any]] = set()
_INCOMING = "key, cost_s, touches, relative_priority, created_s, used_s"


class ExportFile:
    """An export that is read. Lives from `open` to `close`; one thread at a time uses it."""

    def __init__(
        self, path: Path, connection: sqlite3.Connection, keep_requests_bytes: int
    ) -> None:
        self._path = path
        self._connection = connection
        self._keep_requests_bytes = keep_requests_bytes

    @classmethod
    def open(
        cls, path: Path, max_file_bytes: int, keep_requests_bytes: int, stop: Event
    ) -> ExportFile:
        """Open the file and check all of its pages, but not its rows.

        Raises:
            StoreVersionError: another version of asteady wrote it.
            StoreError: it cannot be read, is too large, damaged, or not an export.
        """
        try:
            status = path.stat()
        except OSError as exc:
            raise StoreError(f"{path} cannot be read: {exc.strerror}") from exc
        if not stat.S_ISREG(status.st_mode):
            raise _refused(path, "it is not a file")
        if status.st_size > max_file_bytes:
            raise _refused(
                path, f"its {status.st_size:,} bytes are more than the {max_file_bytes:,} allowed"
            )
        try:
            # Immutable: SQLite ignores locks and journals beside it, and writes nothing there.
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro&immutable=1",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.Error as exc:
            raise StoreError(f"{path} cannot be read: {exc}") from exc
        opened = cls(path, connection, keep_requests_bytes)
        try:
            # A damaged tree of pages may have cycles: reading it ends when `stop` is set.
            connection.set_progress_handler(stop.is_set, STOP_STEPS)
            opened._check()
        except BaseException:
            connection.close()
            raise
        return opened

    def close(self) -> None:
        self._connection.close()

    def _check(self) -> None:
        connection = self._connection
        # Bounds the memory of a value, a row or a statement of the schema.
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2 * MAX_ROW_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        with self._reading():
            for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "query_only = ON"):
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("PRAGMA mmap_size = 0")
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if application == APPLICATION_ID:
                raise RefusedError(
                    "it is the database of a cache itself; `asteady cache export` makes a file"
                    " that can be imported"
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

    def entries(self) -> dict[str, list[Incoming]]:
        """All entries of both caches; each is read and checked with its answer.

        Raises:
            StoreError: one of them is not what an export would contain.
        """
        found = {kind: self._entries(kind) for kind in CODECS}
        # From here on `values` is called, which must not be interrupted by `stop`.
        self._connection.set_progress_handler(None, 0)
        return found

    def _entries(self, kind: str) -> list[Incoming]:
        codec = CODECS[kind]
        found: list[Incoming] = []
        with self._reading():
            tags = self._tags(kind)
            for (
                key,
                cost_s,
                touches,
                relative,
                created_s,
                used_s,
                request,
                crc,
                *values,
            ) in self._connection.execute(
                f"SELECT {_INCOMING}, request, crc, {answer_columns(kind)} FROM {kind}"
            ):
                if len(found) >= MAX_ENTRIES:
                    raise RefusedError(f"it has more than {MAX_ENTRIES:,} entries")
                check_numbers(key, cost_s, touches, relative, created_s, used_s)
                check_answer(codec, key, cost_s, crc, values)
                request = own_request(request, key, values, self._keep_requests_bytes)
                namespaces = tuple(tags.pop(key, ()))
                entry = Incoming(
                    key=key,
                    size_bytes=entry_bytes(key, (*values, request)) + tag_bytes(namespaces),
                    cost_s=cost_s,
                    touches=touches,
                    relative_priority=relative,
                    created_s=created_s,
                    used_s=used_s,
                    namespaces=namespaces,
                )
                found.append(entry)
            for key in tags:
                raise RefusedError(f"it has no entry {str(key)[:80]!r}, which has a namespace")
        return found

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
        """Checksum, values and request of one entry, checked again: the file may have changed.

        Raises:
            RefusedError: the file has changed.
        """
        try:
            request, cost_s, crc, *values = self._connection.execute(
                f"SELECT request, cost_s, crc, {answer_columns(kind)} FROM {kind} WHERE key = ?",
                (key,),
            ).fetchone()
            checked = check_answer(CODECS[kind], key, cost_s, crc, values)
            return crc, *checked, own_request(request, key, values, self._keep_requests_bytes)
        except Exception as exc:
            raise RefusedError(f"{self._path} changed while it was read: {exc}") from exc

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as exc:
            # A hostile file may cause anything: SQLite's errors, text that is not UTF-8, ...
            raise _refused(self._path, exc) from exc


def _refused(path: Path, reason: object) -> StoreError:
    return StoreError(f"{path} is not imported: {reason}")


# -- on the event loop ----------------------------------------------------------------------------


async def import_entries(
    path: AnyPath, stores: dict[Kind, Store[Any]], *, keep_bytes: int, max_file_bytes: int
) -> dict[str, Merged]:
    """See `CacheManager.import_entries`."""
    source = Path(path)

    def check(stop: Event) -> tuple[ExportFile, dict[str, list[Incoming]]]:
        file = ExportFile.open(source, max_file_bytes, keep_bytes, stop)
        try:
            # Both kinds, before anything is changed.
            return file, file.entries()
        except BaseException:
            file.close()
            raise

    file, entries = await in_thread(check)
    # The writer reads from the file, so it stays open even when nobody waits any more.
    task = asyncio.create_task(_merge(stores, file, entries), name="asteady cache import")
    _merging.add(task)
    task.add_done_callback(_merging.discard)
    return await asyncio.shield(task)


async def _merge(
    stores: dict[Kind, Store[Any]], file: ExportFile, entries: dict[str, list[Incoming]]
) -> dict[str, Merged]:
    merged: dict[str, Merged] = {}
    try:
        for kind, store in stores.items():
            merge = Merge(entries[kind], partial(file.values, kind))
            merged[kind] = await store.submit(merge)
    except StoreError as exc:
        if isinstance(exc.__cause__, RefusedError):
            raise StoreError(str(exc.__cause__)) from exc
        raise
    finally:
        file.close()
    return merged
