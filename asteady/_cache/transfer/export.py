"""The file of exported entries: its form, and how it is written.

One plain SQLite file with one table for each cache, in a form of its own, so that nothing of a live
database (its counters, ghosts, budgets) travels. Everything here blocks.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sqlite3
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from typing import Any, get_args

from asteady._base.errors import AsteadyError, StoreError
from asteady._base.requests import Embedding, FinishReason, Key
from asteady._cache.policy import POLICIES, Budget, Row
from asteady._cache.store.codec import (
    Codec,
    CompletionCodec,
    DamagedError,
    EmbeddingCodec,
    read_back,
)
from asteady._cache.store.merging import standing
from asteady._cache.store.schema import BUSY_TIMEOUT_S
from asteady._cache.store.stored_request import believed, kept_text
from asteady._cache.transfer.export_tags import tag_schema, write_tags

log = logging.getLogger("asteady")

# "AsEx" in ASCII.
EXPORT_ID = 0x41734578
EXPORT_VERSION = 3
CODECS: dict[str, Codec[Any]] = {"generation": CompletionCodec(), "embedding": EmbeddingCodec()}
# No answer is nearly as large: 100,000 tokens with 20 alternatives each take about 50 MB.
MAX_ROW_BYTES = 64 * 1024 * 1024
# Of one entry: beyond them a row is no measurement, and would never be evicted.
MAX_TOUCHES = 2**40
MAX_COST_S = 30 * 86400.0
_MAGIC = b"SQLite format 3\0"
_KEY = re.compile(r"[0-9a-f]{64}")
_TYPES: dict[str, type] = {"TEXT": str, "INTEGER": int, "BLOB": bytes}


class RefusedError(AsteadyError):
    """What is in the file may not come in. Never leaves the cache: it becomes a `StoreError`."""


def schema(kind: str, version: int = EXPORT_VERSION) -> str:
    """The table of one cache's entries; since version 2 with their requests."""
    # Only logprobs may be missing; see `Completion`.
    columns = [
        f"{name} {type_}" + ("" if name == "logprobs" else " NOT NULL")
        for name, type_ in CODECS[kind].columns
    ]
    return (
        f"CREATE TABLE {kind} (key TEXT PRIMARY KEY NOT NULL, cost_s REAL NOT NULL,"
        " touches INTEGER NOT NULL, standing REAL NOT NULL, created_s REAL NOT NULL,"
        f" used_s REAL NOT NULL, crc INTEGER NOT NULL, {', '.join(columns)}"
        f"{', request TEXT' if version > 1 else ''}) WITHOUT ROWID"
    )


def tables(version: int) -> dict[str, str]:
    """What the tables of an export are made with, by their names; since version 3 with tags."""
    made = {kind: schema(kind, version) for kind in CODECS}
    if version > 2:
        made |= {f"{kind}_tag": tag_schema(kind) for kind in CODECS}
    return made


def answer_columns(kind: str) -> str:
    return ", ".join(name for name, _ in CODECS[kind].columns)


# -- writing --------------------------------------------------------------------------------------


def write_export(
    target: Path, databases: Mapping[str, Path], keep_requests_bytes: int, stop: Event
) -> dict[str, int]:
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
            for made_with in tables(EXPORT_VERSION).values():
                out.execute(made_with)
            for kind, path in databases.items():
                try:
                    with _copied(path, Path(directory, kind), stop) as copy:
                        counts[kind] = _write_entries(out, copy, kind, keep_requests_bytes, stop)
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
        _go_on(stop)
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
        above = standing(policy, level, row, budget)
        entry = (key, cost_s, touches, above, created_s, used_s, crc)
        kept = own_request(request, key, values, keep_requests_bytes)
        out.execute(f"INSERT INTO {kind} VALUES ({marks})", (*entry, *values, kept))
        write_tags(out, copy, kind, key, slot)
        count += 1
    return count


def _go_on(stop: Event) -> None:
    if stop.is_set():
        raise RefusedError("nobody waits for it any more")


def check_numbers(key: Key, cost_s: float, touches: int, *others: float) -> None:
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


def check_answer(
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


def own_request(
    text: object, key: Key, values: Sequence[Any], keep_requests_bytes: int
) -> str | None:
    """The request as it is to be kept: only this entry's own, and none that is too long."""
    # The second value is the fingerprint, in both caches.
    request = believed(text, key, values[1])
    return None if request is None else kept_text(request, keep_requests_bytes)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes) else 0
