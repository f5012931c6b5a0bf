"""The export file: its format, the checks of its entries, and how it is written.

It is one SQLite file with two tables for each cache, entries and tags, and nothing else of the
databases: no counters, ghosts or budgets. Everything but `export_entries` blocks.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from typing import Any, TypeAlias, TypeVar, get_args

import anyio.to_thread

from asteady._base.errors import AsteadyError, StoreError
from asteady._base.files import atomic_write
from asteady._base.requests import Embedding, FinishReason, Key
from asteady._cache.policy import POLICIES, Budget, Row
from asteady._cache.store.api import BUSY_TIMEOUT_S, Exported
from asteady._cache.store.codec import (
    Codec,
    CompletionCodec,
    DamagedError,
    EmbeddingCodec,
    read_back,
)
from asteady._cache.store.stored_request import to_json, verified
from asteady._cache.store.transaction import relative_priority

log = logging.getLogger("asteady")
T = TypeVar("T")
AnyPath: TypeAlias = str | os.PathLike[str]

# "AsEx" in ASCII.
EXPORT_ID = 0x41734578
EXPORT_VERSION = 4
CODECS: dict[str, Codec[Any]] = {"generation": CompletionCodec(), "embedding": EmbeddingCodec()}
# No answer is nearly as large: 100,000 tokens with 20 alternatives each take about 50 MB.
MAX_ROW_BYTES = 64 * 1024 * 1024
# Of one entry: larger numbers are no measurements, and it would never be evicted.
MAX_TOUCHES = 2**40
MAX_COST_S = 30 * 86400.0
_MAGIC = b"SQLite format 3\0"
_KEY = re.compile(r"[0-9a-f]{64}")
_TYPES: dict[str, type] = {"TEXT": str, "INTEGER": int, "BLOB": bytes}


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


def answer_columns(kind: str) -> str:
    return ", ".join(name for name, _ in CODECS[kind].columns)


# -- writing --------------------------------------------------------------------------------------


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
    check_target(target)
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


def check_target(target: Path) -> None:
    """Refuse to overwrite anything but an export.

    Raises:
        StoreError: something else exists at this path.
    """
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
def _copied(path: Path, copy: Path, stop: Event) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(copy, isolation_level=None)) as destination:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, timeout=BUSY_TIMEOUT_S, uri=True)) as source:
            # All pages in one step, so that no write restarts it.
            source.backup(destination, progress=lambda *_: _check_stop(stop))
        yield destination
    # At once, so that the disk need not have room for both copies.
    os.unlink(copy)


def _write_entries(
    out: sqlite3.Connection,
    copy: sqlite3.Connection,
    kind: str,
    keep_requests_bytes: int,
    stop: Event,
) -> int:
    codec = CODECS[kind]
    name, max_entries, max_bytes, level = copy.execute(
        "SELECT policy, max_entries, max_bytes, level FROM cache"
    ).fetchone()
    policy, budget = POLICIES[name], Budget(max_entries, max_bytes)
    marks = ", ".join("?" * (8 + len(codec.columns)))
    count = 0
    for key, size_bytes, cost_s, touches, priority, slot, created_s, used_s in copy.execute(
        "SELECT key, size_bytes, cost_s, touches, priority, slot, created_s, used_s FROM entry"
        " ORDER BY key"
    ):
        _check_stop(stop)
        try:
            request, crc, *values = copy.execute(
                f"SELECT request, crc, {answer_columns(kind)} FROM answer WHERE slot = ?", (slot,)
            ).fetchone() or (None, 0)
            check_numbers(key, cost_s, touches, created_s, used_s)
            check_answer(codec, key, cost_s, crc, values)
        except (DamagedError, sqlite3.OperationalError, ValueError) as exc:
            log.warning("an entry of the %s cache is not exported: %s", kind, exc)
            continue
        row = Row(key, size_bytes, cost_s, touches, priority)
        relative = relative_priority(policy, level, row, budget)
        entry = (key, cost_s, touches, relative, created_s, used_s, crc)
        verified_request = own_request(request, key, values, keep_requests_bytes)
        out.execute(f"INSERT INTO {kind} VALUES ({marks})", (*entry, *values, verified_request))
        tags = copy.execute("SELECT ?, namespace FROM tag WHERE slot = ?", (key, slot)).fetchall()
        out.executemany(f"INSERT INTO {kind}_tag VALUES (?, ?)", tags)
        count += 1
    return count


def _check_stop(stop: Event) -> None:
    if stop.is_set():
        raise RefusedError("it was cancelled")


def check_numbers(key: Key, cost_s: float, touches: int, *others: float) -> None:
    if not (isinstance(key, str) and _KEY.fullmatch(key)):
        raise DamagedError(f"{str(key)[:80]!r} is not a key")
    if not (
        type(touches) is int
        and all(type(number) is float for number in (cost_s, *others))
        and 0 <= cost_s <= MAX_COST_S
        and 1 <= touches <= MAX_TOUCHES
        and all(math.isfinite(number) for number in others)
    ):
        raise DamagedError(f"the numbers of {key} are not possible")


def check_answer(
    codec: Codec[Any], key: Key, cost_s: float, crc: int, values: list[Any]
) -> tuple[Any, ...]:
    """The values, if they are exactly what `codec` would write.

    Raises:
        DamagedError: they are not.
    """
    answer = read_back(codec, key, cost_s, crc, values)
    try:
        # SQLite stores values of any type in any column.
        for (name, type_), value in zip(codec.columns, values, strict=True):
            if type(value) is not _TYPES[type_] and not (value is None and name == "logprobs"):
                raise ValueError(f"{name} is of another type")
        written = codec.encode(answer)
        if written != tuple(values) or sum(map(_length, written)) > MAX_ROW_BYTES:
            raise ValueError("it is encoded differently")
        if isinstance(answer, Embedding):
            import numpy as np

            if not (answer.vector.size and np.isfinite(answer.vector).all()):
                raise ValueError("it is not a vector")
        elif answer.finish_reason not in get_args(FinishReason):
            raise ValueError(f"finish_reason={answer.finish_reason!r}")
    except Exception as exc:
        raise DamagedError(f"the value of {key} is not an answer") from exc
    return written


def own_request(
    text: object, key: Key, values: Sequence[Any], keep_requests_bytes: int
) -> str | None:
    """The request to store: None if it does not hash to the key, or is too long."""
    # The second value is the fingerprint, in both caches.
    request = verified(text, key, values[1])
    return None if request is None else to_json(request, keep_requests_bytes)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes) else 0


# -- on the event loop ----------------------------------------------------------------------------


async def export_entries(path: AnyPath, databases: Mapping[str, Path], keep_bytes: int) -> Exported:
    """See `CacheManager.export_entries`."""

    def write(stop: Event) -> Exported:
        target = Path(path).absolute()
        counts = write_export(target, databases, keep_bytes, stop)
        return Exported(path=target, size_bytes=target.stat().st_size, **counts)

    return await in_thread(write)


async def in_thread(fn: Callable[[Event], T]) -> T:
    """``fn(stop)`` in a thread; `stop` is set when this is cancelled."""
    stop = Event()
    try:
        return await anyio.to_thread.run_sync(fn, stop, abandon_on_cancel=True)
    finally:
        stop.set()
