"""Locks among processes, so that one computes and the others wait for its answer.

A key is hashed to one of many files, and `filelock` locks that file for this process; the system
lets go of it when the process dies. Trouble with a lock never fails a request: then two processes
compute the same answer, and store it twice.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from asteady._requests import Key

if TYPE_CHECKING:
    from filelock import BaseFileLock

log = logging.getLogger("asteady")

# Two keys on one file wait for each other across processes; with some dozens of computations at a
# time and a thousand files that is rare.
SHARDS = 1024
PAUSE_FIRST_S = 0.002
PAUSE_LAST_S = 0.05


@attrs.define(eq=False)
class _Shard:
    """This process's hold on one file, shared by all of its computations on it."""

    lock: BaseFileLock
    users: int = 0
    ready: asyncio.Event = attrs.field(factory=asyncio.Event)


class Locks:
    """The locks of one cache directory. Only one event loop uses it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: dict[int, _Shard] = {}
        self.failures = 0

    @asynccontextmanager
    async def computing(self, key: Key) -> AsyncIterator[bool]:
        """Hold the lock of this key; yields whether another process had it before."""
        number = zlib.crc32(key.encode()) % SHARDS
        try:
            shard, waited = await self._enter(number)
        except Exception as exc:
            self.failures += 1
            log.warning("the lock for %s is not to be had, going on without: %s", key, exc)
            yield False
            return
        try:
            yield waited
        finally:
            self._leave(number, shard)

    async def _enter(self, number: int) -> tuple[_Shard, bool]:
        from filelock import FileLock

        shard = self._held.get(number)
        if shard is not None:
            # Flights of one process do not exclude each other: it has one flight per key.
            shard.users += 1
            try:
                await shard.ready.wait()
            except BaseException:
                self._leave(number, shard)
                raise
            return shard, False
        self._directory.mkdir(mode=0o700, exist_ok=True)
        lock = FileLock(self._directory / f"{number:04}.lock", thread_local=False)
        shard = self._held[number] = _Shard(lock, users=1)
        waited = False
        pause_s = PAUSE_FIRST_S
        try:
            while not _take(lock):
                waited = True
                await asyncio.sleep(pause_s)
                pause_s = min(PAUSE_LAST_S, pause_s * 1.5)
        except BaseException:
            self._leave(number, shard)
            raise
        shard.ready.set()
        return shard, waited

    def _leave(self, number: int, shard: _Shard) -> None:
        shard.users -= 1
        if shard.users == 0:
            if self._held.get(number) is shard:
                del self._held[number]
            shard.lock.release()


def _take(lock: BaseFileLock) -> bool:
    from filelock import Timeout

    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True
