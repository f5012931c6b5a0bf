"""The file of exported entries, as one from elsewhere is read. Everything here blocks.

Such a file may be broken, or made to do harm. It is opened read-only and immutable, its schema must
be word for word that of `_export_file`, so there is no trigger, view or index in it, every page is
checked before a row is read, and every row has to be what the codec would have written.
"""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from asteady._base.errors import StoreError, StoreVersionError
from asteady._base.requests import Key
from asteady._cache.store.api import Incoming
from asteady._cache.store.schema import APPLICATION_ID
from asteady._cache.store.tags import tag_bytes
from asteady._cache.store.transaction import entry_bytes
from asteady._cache.transfer.export import (
    CODECS,
    EXPORT_ID,
    EXPORT_VERSION,
    MAX_ROW_BYTES,
    RefusedError,
    answer_columns,
    check_answer,
    check_numbers,
    own_request,
    tables,
)
from asteady._cache.transfer.export_tags import read_tags

# What is known of an entry besides its answer is held in memory, some hundred bytes each.
MAX_ENTRIES = 1_000_000
# Steps of SQLite's machine from one look whether somebody still waits to the next: some ms.
STOP_STEPS = 100_000
_INCOMING = "key, cost_s, touches, standing, created_s, used_s"


class ExportFile:
    """An export from elsewhere. Lives from `open` to `close`; one thread at a time uses it."""

    def __init__(
        self, path: Path, connection: sqlite3.Connection, keep_requests_bytes: int
    ) -> None:
        self._path = path
        self._connection = connection
        self._keep_requests_bytes = keep_requests_bytes
        self._request = "request"
        self._has_tags = True

    @classmethod
    def open(
        cls, path: Path, max_file_bytes: int, keep_requests_bytes: int, stop: Event
    ) -> ExportFile:
        """Open the file and check all of its pages, but not its rows.

        Raises:
            StoreVersionError: a newer asteady wrote it.
            StoreError: it cannot be read, is too large, damaged, or no export.
        """
        try:
            status = path.stat()
        except OSError as exc:
            raise StoreError(f"{path} cannot be read: {exc.strerror}") from exc
        if not stat.S_ISREG(status.st_mode):
            raise _refused(path, "it is no file")
        if status.st_size > max_file_bytes:
            raise _refused(
                path, f"its {status.st_size:,} bytes are more than the {max_file_bytes:,} allowed"
            )
        try:
            # Immutable: neither locks nor journals beside it count, and nothing is written there.
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
            # A corrupt tree of pages can be walked for ever; between two steps somebody may leave.
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
        # What a value, a row or a statement in the schema may take in memory.
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
                raise RefusedError("it is no export of a cache")
            if version > EXPORT_VERSION:
                raise StoreVersionError(
                    f"{self._path} is of version {version}, and this asteady reads up to"
                    f" {EXPORT_VERSION}; upgrade asteady"
                )
            # Before anything is read that the schema could have a hand in.
            found = connection.execute(
                "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name LIMIT 9"
            ).fetchall()
            expected = sorted(tables(version).items())
            if found != [("table", name, name, made_with) for name, made_with in expected]:
                raise RefusedError("its tables are not those of an export")
            if version < 2:
                self._request = "NULL"
            self._has_tags = version > 2
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                raise RefusedError(f"it is damaged: {verdict}")

    def entries(self) -> dict[str, list[Incoming]]:
        """All entries of both caches, each read and checked with its answer.

        Raises:
            StoreError: one of them is not what an export would hold.
        """
        found = {kind: self._entries(kind) for kind in CODECS}
        # Whoever reads answers from here on is not to be cut short.
        self._connection.set_progress_handler(None, 0)
        return found

    def _entries(self, kind: str) -> list[Incoming]:
        codec = CODECS[kind]
        found: list[Incoming] = []
        with self._reading():
            held_by = read_tags(self._connection, kind) if self._has_tags else {}
            for (
                key,
                cost_s,
                touches,
                above,
                created_s,
                used_s,
                request,
                crc,
                *values,
            ) in self._connection.execute(
                f"SELECT {_INCOMING}, {self._request}, crc, {answer_columns(kind)} FROM {kind}"
            ):
                if len(found) >= MAX_ENTRIES:
                    raise RefusedError(f"it has more than {MAX_ENTRIES:,} entries")
                check_numbers(key, cost_s, touches, above, created_s, used_s)
                check_answer(codec, key, cost_s, crc, values)
                kept = own_request(request, key, values, self._keep_requests_bytes)
                namespaces = tuple(held_by.pop(key, ()))
                entry = Incoming(
                    key=key,
                    size_bytes=entry_bytes(key, (*values, kept)) + tag_bytes(namespaces),
                    cost_s=cost_s,
                    touches=touches,
                    standing=above,
                    created_s=created_s,
                    used_s=used_s,
                    namespaces=namespaces,
                )
                found.append(entry)
            for key in held_by:
                raise RefusedError(f"it has no entry {str(key)[:80]!r}, which a namespace holds")
        return found

    def values(self, kind: str, key: Key) -> tuple[Any, ...]:
        """Checksum, values and request of one entry, checked once more: the file may have changed.

        Raises:
            RefusedError: they are not what they were.
        """
        try:
            request, cost_s, crc, *values = self._connection.execute(
                f"SELECT {self._request}, cost_s, crc, {answer_columns(kind)} FROM {kind}"
                " WHERE key = ?",
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
            # Whatever a hostile file comes up with: SQLite's errors, text that is no UTF-8, ...
            raise _refused(self._path, exc) from exc


def _refused(path: Path, reason: object) -> StoreError:
    return StoreError(f"{path} is not imported: {reason}")
