"""Export and import of the entries of both caches, without blocking the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, TypeAlias, TypeVar

import anyio.to_thread

from asteady._base.errors import StoreError
from asteady._base.requests import Kind
from asteady._cache.store.api import Exported, Incoming, Merge, Merged, Store
from asteady._cache.transfer.export import RefusedError, write_export
from asteady._cache.transfer.import_ import ExportFile

T = TypeVar("T")
AnyPath: TypeAlias = str | os.PathLike[str]

MAX_FILE_BYTES = 4 * 1024**3

# The loop keeps only weak references to tasks.
_merging: set[asyncio.Task[Any]] = set()


async def export_entries(path: AnyPath, databases: Mapping[str, Path], keep_bytes: int) -> Exported:
    """See `CacheManager.export_entries`."""

    def write(stop: Event) -> Exported:
        target = Path(path).absolute()
        counts = write_export(target, databases, keep_bytes, stop)
        return Exported(path=target, size_bytes=target.stat().st_size, **counts)

    return await _in_thread(write)


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

    file, entries = await _in_thread(check)
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


async def _in_thread(fn: Callable[[Event], T]) -> T:
    """``fn(stop)`` in a thread; `stop` is set when nobody waits for it any more."""
    stop = Event()
    try:
        return await anyio.to_thread.run_sync(fn, stop, abandon_on_cancel=True)
    finally:
        stop.set()
