"""The file of exported entries: how it is written, and how one from elsewhere is read.

One plain SQLite file with one table for each cache, in a form of its own, so that nothing of a live
database (its counters, ghosts, budgets) travels. Everything here blocks.

A file that is read may be broken, or made to do harm. It is opened read-only and immutable, its
schema must be word for word the one below, so there is no trigger, view or index in it, every page
is checked before a row is read, and every row has to be what the codec would have written.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sqlite3
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from typing import Any, get_args

from asteady._errors import AsteadyError, StoreError, StoreVersionError
from asteady._requests import Embedding, FinishReason, Key
from asteady.cache._codec import Codec, CompletionCodec, DamagedError, EmbeddingCodec, read_back
from asteady.cache._frecency import POLICIES, Budget, Row
from asteady.cache._merging import standing
from asteady.cache._schema import APPLICATION_ID, BUSY_TIMEOUT_S
from asteady.cache._store import Incoming
from asteady.cache._transaction import entry_bytes

log = logging.getLogger("asteady")

# "AsEx" in ASCII.
EXPORT_ID = 0x41734578
EXPORT_VERSION = 1
CODECS: dict[str, Codec[Any]] = {"generation": CompletionCodec(), "embedding": EmbeddingCodec()}
# No answer is nearly as large: 100,000 tokens with 20 alternatives each take about 50 MB.
MAX_ROW_BYTES = 64 * 1024 * 1024
# What is known of an entry besides its answer is held in memory, some hundred bytes each.
MAX_ENTRIES = 1_000_000
# Of one entry: beyond them a row is no measurement, and would never be evicted.
MAX_TOUCHES = 2**40
MAX_COST_S = 30 * 86400.0
# Steps of SQLite's machine from one look whether somebody still waits to the next: some ms.
STOP_STEPS = 100_000
_MAGIC = b"SQLite format 3\0"
_KEY = re.compile(r"[0-9a-f]{64}")
_TYPES: dict[str, type] = {"TEXT": str, "INTEGER": int, "BLOB": bytes}
_INCOMING = "key, cost_s, touches, standing, created_s, used_s"


class RefusedError(AsteadyError):
    """What is in the file may not come in. Never leaves the cache: it becomes a `StoreError`."""


def schema(kind: str) -> str:
    """The table of one cache's entries."""
    # Only logprobs may be missing; see `Completion`.
    columns = [
        f"{name} {type_}" + ("" if name == "logprobs" else " NOT NULL")
        for name, type_ in CODECS[kind].columns
    ]
    return (
        f"CREATE TABLE {kind} (key TEXT PRIMARY KEY NOT NULL, cost_s REAL NOT NULL,"
        " touches INTEGER NOT NULL, standing REAL NOT NULL, created_s REAL NOT NULL,"
        f" used_s REAL NOT NULL, crc INTEGER NOT NULL, {', '.join(columns)})"
        " WITHOUT ROWID"
    )


def _columns(kind: str) -> str:
    return ", ".join(name for name, _ in CODECS[kind].columns)


# -- writing --------------------------------------------------------------------------------------


def write_export(target: Path, databases: Mapping[str, Path], stop: Event) -> dict[str, int]:
    """Write the entries of these databases, by kind, to a file; gives their numbers.

    The databases may be in use: SQLite's backup API takes a consistent copy of each, which holds up
    nobody, and the rest is done with the copies. The file is put in place whole, or not at all, as
    when `stop` is set. Only its owner can read it. Damaged entries are left out.

    Raises:
        StoreError: a database cannot be read, or `target` is something else than an export.
        OSError: the file cannot be written.
    """
    check_target(target)
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as directory:
        made = Path(directory, "export")
        with closing(sqlite3.connect(made, isolation_level=None)) as out:
            # It is thrown away unless it is complete.
            out.execute("PRAGMA journal_mode = OFF")
            out.execute("PRAGMA synchronous = OFF")
            out.execute(f"PRAGMA application_id = {EXPORT_ID}")
            out.execute(f"PRAGMA user_version = {EXPORT_VERSION}")
            out.execute("BEGIN")
            for kind, path in databases.items():
                out.execute(schema(kind))
                try:
                    with _copied(path, Path(directory, kind), stop) as copy:
                        counts[kind] = _write_entries(out, copy, kind, stop)
                except sqlite3.Error as exc:
                    raise StoreError(f"the cache database {path} cannot be read: {exc}") from exc
            out.execute("COMMIT")
        os.chmod(made, 0o600)
        with made.open("rb") as file:
            os.fsync(file.fileno())
        _go_on(stop)
        os.replace(made, target)
    return counts


def check_target(target: Path) -> None:
    """Refuse to write over anything but an older export.

    Raises:
        StoreError: something else is there.
    """
    try:
        # A pipe would be waited for.
        regular = stat.S_ISREG(target.stat().st_mode)
    except FileNotFoundError:
        return
    header = b""
    if regular:
        with target.open("rb") as file:
            header = file.read(100)
    if header[:16] != _MAGIC or header[68:72] != EXPORT_ID.to_bytes(4, "big"):
        raise StoreError(
            f"{target} exists and is no export of a cache, so it is not overwritten; choose another"
            " name"
        )


@contextmanager
def _copied(path: Path, copy: Path, stop: Event) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(copy, isolation_level=None)) as destination:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, timeout=BUSY_TIMEOUT_S, uri=True)) as source:
            # All pages in one step, so that no write can make it begin again.
            source.backup(destination, progress=lambda *_: _go_on(stop))
        yield destination
    # Two copies and the export at once would be more than a disk needs to have free.
    os.unlink(copy)


def _write_entries(
    out: sqlite3.Connection, copy: sqlite3.Connection, kind: str, stop: Event
) -> int:
    codec = CODECS[kind]
    name, max_entries, max_bytes, level = copy.execute(
        "SELECT policy, max_entries, max_bytes, level FROM cache"
    ).fetchone()
    policy, budget = POLICIES[name], Budget(max_entries, max_bytes)
    marks = ", ".join("?" * (7 + len(codec.columns)))
    count = 0
    for key, size_bytes, cost_s, touches, priority, slot, created_s, used_s in copy.execute(
        "SELECT key, size_bytes, cost_s, touches, priority, slot, created_s, used_s FROM entry"
        " ORDER BY key"
    ):
        _go_on(stop)
        try:
            crc, *values = copy.execute(
                f"SELECT crc, {_columns(kind)} FROM answer WHERE slot = ?", (slot,)
            ).fetchone() or (0,)
            _check_numbers(key, cost_s, touches, created_s, used_s)
            _check_answer(codec, key, cost_s, crc, values)
        except (DamagedError, sqlite3.OperationalError, ValueError) as exc:
            log.warning("an entry of the %s cache is not exported: %s", kind, exc)
            continue
        row = Row(key, size_bytes, cost_s, touches, priority)
        above = standing(policy, level, row, budget)
        entry = (key, cost_s, touches, above, created_s, used_s, crc)
        out.execute(f"INSERT INTO {kind} VALUES ({marks})", (*entry, *values))
        count += 1
    return count


def _go_on(stop: Event) -> None:
    if stop.is_set():
        raise RefusedError("nobody waits for it any more")


def _check_numbers(key: Key, cost_s: float, touches: int, *others: float) -> None:
    if not (isinstance(key, str) and _KEY.fullmatch(key)):
        raise DamagedError(f"{str(key)[:80]!r} is no key")
    if not (
        type(touches) is int
        and all(type(number) is float for number in (cost_s, *others))
        and 0 <= cost_s <= MAX_COST_S
        and 1 <= touches <= MAX_TOUCHES
        and all(math.isfinite(number) for number in others)
    ):
        raise DamagedError(f"the numbers of {key} cannot be")


def _check_answer(
    codec: Codec[Any], key: Key, cost_s: float, crc: int, values: list[Any]
) -> tuple[Any, ...]:
    """The values, if they are what `codec` would write.

    Raises:
        DamagedError: they are not.
    """
    answer = read_back(codec, key, cost_s, crc, values)
    try:
        # SQLite takes a value of any type into any column.
        for (name, type_), value in zip(codec.columns, values, strict=True):
            if type(value) is not _TYPES[type_] and not (value is None and name == "logprobs"):
                raise ValueError(f"{name} is of another type")
        written = codec.encode(answer)
        if written != tuple(values) or sum(map(_length, written)) > MAX_ROW_BYTES:
            raise ValueError("it is written otherwise")
        if isinstance(answer, Embedding):
            import numpy as np

            if not (answer.vector.size and np.isfinite(answer.vector).all()):
                raise ValueError("it is no vector")
        elif answer.finish_reason not in get_args(FinishReason):
            raise ValueError(f"finish_reason={answer.finish_reason!r}")
    except Exception as exc:
        raise DamagedError(f"the value of {key} is no answer") from exc
    return written


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes) else 0


# -- reading --------------------------------------------------------------------------------------


class ExportFile:
    """An export from elsewhere. Lives from `open` to `close`; one thread at a time uses it."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path, max_file_bytes: int, stop: Event) -> ExportFile:
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
        opened = cls(path, connection)
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
            if found != [("table", kind, kind, schema(kind)) for kind in sorted(CODECS)]:
                raise RefusedError("its tables are not those of an export")
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
            for (
                key,
                cost_s,
                touches,
                above,
                created_s,
                used_s,
                crc,
                *values,
            ) in self._connection.execute(f"SELECT {_INCOMING}, crc, {_columns(kind)} FROM {kind}"):
                if len(found) >= MAX_ENTRIES:
                    raise RefusedError(f"it has more than {MAX_ENTRIES:,} entries")
                _check_numbers(key, cost_s, touches, above, created_s, used_s)
                _check_answer(codec, key, cost_s, crc, values)
                entry = Incoming(
                    key=key,
                    size_bytes=entry_bytes(key, values),
                    cost_s=cost_s,
                    touches=touches,
                    standing=above,
                    created_s=created_s,
                    used_s=used_s,
                )
                found.append(entry)
        return found

    def values(self, kind: str, key: Key) -> tuple[Any, ...]:
        """Checksum and values of one entry, checked once more: the file may have changed.

        Raises:
            RefusedError: they are not what they were.
        """
        try:
            cost_s, crc, *values = self._connection.execute(
                f"SELECT cost_s, crc, {_columns(kind)} FROM {kind} WHERE key = ?", (key,)
            ).fetchone()
            return crc, *_check_answer(CODECS[kind], key, cost_s, crc, values)
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
