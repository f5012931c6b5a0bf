"""Locks among processes, so that one computes and the others wait for its answer.

A key is hashed to one of many files, and `filelock` locks that file for this process; the system
lets go of it when the process dies. Trouble with a lock never fails a request: then two processes
compute the same answer, and both store it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import attrs

from asteady._base.requests import Key
from asteady._base.tasks import unattended

if TYPE_CHECKING:
    from filelock import BaseFileLock

log = logging.getLogger("asteady")
T = TypeVar("T")

# Two keys on one file wait for each other across processes; with some dozens of computations at a
# time and a thousand files that is rare.
SHARDS = 1024
# Waiting is asking again; a computation takes milliseconds to minutes.
PAUSE_FIRST_S = 0.002
PAUSE_LAST_S = 0.05
# A process that holds a lock so long is stopped, or slower than computing again would be.
PATIENCE_S = 120.0
# Each lock that is held or waited for is an open file, of which a process may have a thousand.
# With more computations under way than this, the others go without.
MOST_HELD = 128


class Run(Protocol):
    """Runs a blocking function on a thread that does one call after another, also if cancelled."""

    def __call__(self, fn: Callable[[], T], /) -> Awaitable[T]: ...


@attrs.define(eq=False)
class _Shard:
    """This process's hold on one file, shared by all of its computations on it."""

    lock: BaseFileLock
    users: int = 0
    ready: asyncio.Event = attrs.field(factory=asyncio.Event)


class Locks:
    """The locks of one cache. One event loop uses it; nothing is to be closed."""

    def __init__(self, directory: Path, run: Run, failed: Callable[[str, Exception], None]) -> None:
        self._directory = directory
        self._run = run
        self._failed = failed
        self._held: dict[int, _Shard] = {}
        self._releasing: dict[int, asyncio.Future[None]] = {}

    @asynccontextmanager
    async def computing(self, key: Key) -> AsyncIterator[bool]:
        """Hold the lock of this key; yields whether another process had it before.

        Cancelling while it waits leaves nothing locked.
        """
        number = zlib.crc32(key.encode()) % SHARDS
        shard = self._held.get(number)
        if shard is None and len(self._held) >= MOST_HELD:
            yield False
            return
        if shard is None:
            shard = self._held[number] = _Shard(self._make(number))
            shard.users += 1
            entering = self._enter(number, shard)
        else:
            # Computations of one process do not exclude each other: it has one flight per key.
            shard.users += 1
            entering = _ready(shard)
        try:
            try:
                waited = await entering
            except Exception as exc:
                self._failed("lock", exc)
                waited = False
                shard.ready.set()
            yield waited
        finally:
            self._leave(number, shard)

    def _make(self, number: int) -> BaseFileLock:
        from filelock import FileLock

        return FileLock(self._directory / f"{number:04}.lock", thread_local=False)

    async def _enter(self, number: int, shard: _Shard) -> bool:
        lock = shard.lock
        if number in self._releasing:
            # This process's own last hold on it, which is no other's.
            await asyncio.wait([self._releasing[number]])
        waited = False
        pause_s = PAUSE_FIRST_S
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_S
        while not await self._run(lambda: _take(lock)):
            if loop.time() > deadline:
                log.warning(
                    "another process has been computing an answer for %g s; computing it here too"
                    " (%s)",
                    PATIENCE_S,
                    lock.lock_file,
                )
                break
            waited = True
            await asyncio.sleep(pause_s)
            pause_s = min(PAUSE_LAST_S, pause_s * 1.5)
        shard.ready.set()
        return waited

    def _leave(self, number: int, shard: _Shard) -> None:
        shard.users -= 1
        if shard.users:
            if not shard.ready.is_set():
                # Whoever was to take the lock was cancelled; the others go on without.
                shard.ready.set()
            return
        del self._held[number]
        # Behind the attempt to take it, should that still be under way.
        before = self._releasing.get(number)
        releasing = unattended(asyncio.ensure_future(self._release(shard.lock, before)))
        self._releasing[number] = releasing

        def released(_: object) -> None:
            if self._releasing.get(number) is releasing:
                del self._releasing[number]

        releasing.add_done_callback(released)

    async def _release(self, lock: BaseFileLock, before: asyncio.Future[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        try:
            await self._run(lock.release)
        except Exception as exc:
            self._failed("lock", exc)
            lock.release(force=True)


async def _ready(shard: _Shard) -> bool:
    await shard.ready.wait()
    return False


def _take(lock: BaseFileLock) -> bool:
    from filelock import Timeout

    directory = os.path.dirname(lock.lock_file)
    if not os.path.isdir(directory):
        # Made here, or filelock would make it, and its parent, readable for all.
        os.makedirs(os.path.dirname(directory), mode=0o700, exist_ok=True)
        os.makedirs(directory, mode=0o700, exist_ok=True)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True
