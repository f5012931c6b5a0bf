"""Locks between processes, so that one computes and the others wait for its answer.

A key is hashed to one of many files, and `filelock` locks that file for this process; the system
releases it when the process dies. A failing lock never fails a request: then two processes compute
the same answer, and both store it.

`network_filesystem` says where locks and SQLite's write-ahead log do not work among machines.
"""

from __future__ import annotations

import asyncio
import logging
import os
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from asteady._base.requests import Key
from asteady._base.tasks import unattended

if TYPE_CHECKING:
    from filelock import BaseFileLock

log = logging.getLogger("asteady")

# Two keys on one file wait for each other across processes; with some dozens of computations at a
# time and a thousand files that is rare.
SHARDS = 1024
# A waiting process polls; a computation takes milliseconds to minutes.
POLL_FIRST_S = 0.002
POLL_LAST_S = 0.05

# How often a waiting process looks whether the other one is stopped.
LOOK_S = 1.0

# Processes on several machines would each have their own shared-memory file.
NETWORK_FILE_SYSTEMS = (
    "9p afs beegfs ceph cifs drvfs fuse.glusterfs fuse.s3fs fuse.sshfs gfs2 glusterfs gpfs lustre"
    " ncpfs nfs nfs4 ocfs2 smb3 smbfs"
)
MOUNTS = Path("/proc/self/mountinfo")
PROCESSES = Path("/proc")


@attrs.define(eq=False)
class _Shard:
    """One locked file, shared by all computations of this process on it."""

    lock: BaseFileLock
    users: int = 0
    ready: asyncio.Event = attrs.field(factory=asyncio.Event)


class Locks:
    """The locks of one cache, used on one event loop; needs no closing.

    A process that holds a lock for longer than `timeout_s` is stopped, or slower than computing
    again would be: the others no longer wait for it. `run` runs a blocking function on a thread,
    one call after another, even if cancelled. Each lock is an open file, of which a process
    may have a thousand, or 256: computations beyond `max_locks` go without, and so do those that
    begin when half of the process's descriptors are in use, as it needs them to load a model.
    """

    def __init__(
        self,
        directory: Path,
        run: Callable[[Callable[[], Any]], Awaitable[Any]],
        failed: Callable[[str, Exception], None],
        *,
        timeout_s: float = 120.0,
        max_locks: int = 128,
    ) -> None:
        self._timeout_s = timeout_s
        self._max_locks = max_locks
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
        if shard is None and len(self._held) >= self._max_locks:
            yield False
            return
        if shard is None:
            try:
                from filelock import FileLock
            except (ImportError, OSError) as exc:  # no descriptor for its modules
                self._failed("lock", exc)
                yield False
                return
            lock = FileLock(self._directory / f"{number:04}.lock", thread_local=False)
            shard = self._held[number] = _Shard(lock)
        first = not shard.users
        shard.users += 1
        try:
            waited = False
            try:
                if first:
                    waited = await self._acquire(number, shard.lock)
                    shard.ready.set()
                else:
                    # Within a process nothing is computed twice: each key has one flight.
                    await shard.ready.wait()
            except Exception as exc:
                self._failed("lock", exc)
                shard.ready.set()
            yield waited
        finally:
            self._leave(number, shard)

    async def _acquire(self, number: int, lock: BaseFileLock) -> bool:
        """Wait for the lock, for `timeout_s` at most; returns whether another process had it."""
        if number in self._releasing:
            # This process itself still has it locked.
            await asyncio.wait([self._releasing[number]])
        waited = False
        pause_s = POLL_FIRST_S
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        look_at = loop.time() + LOOK_S
        while await self._run(lambda: _acquire(lock)) is False:
            waited = True
            if loop.time() > look_at:
                look_at = loop.time() + LOOK_S
                if await self._run(lambda: held_by_stopped(lock.lock_file)):
                    log.warning(
                        "a process that computes an answer is stopped; computing it here too (%s)",
                        lock.lock_file,
                    )
                    break
            if loop.time() > deadline:
                log.warning(
                    "another process has been computing an answer for %g s; computing it here too"
                    " (%s)",
                    self._timeout_s,
                    lock.lock_file,
                )
                break
            await asyncio.sleep(pause_s)
            pause_s = min(POLL_LAST_S, pause_s * 1.5)
        return waited

    def _leave(self, number: int, shard: _Shard) -> None:
        shard.users -= 1
        if shard.users:
            # If the computation that was acquiring the lock was cancelled: go on without it.
            shard.ready.set()
            return
        del self._held[number]
        # After an attempt to acquire it that may still run.
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


def _acquire(lock: BaseFileLock) -> bool | None:
    """Whether the lock was acquired; None if that was not tried, for lack of descriptors."""
    from filelock import Timeout

    if not _spares_descriptors():
        return None
    directory = os.path.dirname(lock.lock_file)
    if not os.path.isdir(directory):
        # filelock would make it, and its parent, readable for everybody.
        os.makedirs(os.path.dirname(directory), mode=0o700, exist_ok=True)
        os.makedirs(directory, mode=0o700, exist_ok=True)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True


def _spares_descriptors() -> bool:
    """Whether less than half of the process's descriptors are in use.

    Raises:
        OSError: none is left.
    """
    try:
        import resource
    except ImportError:  # pragma: no cover  # Windows
        return True
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The system gives the lowest one that is free.
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return limit == resource.RLIM_INFINITY or descriptor < limit // 2


def held_by_stopped(file: str, processes: Path = PROCESSES) -> bool:
    """Whether the process that has this file locked is stopped, by SIGSTOP or a debugger.

    False where the system does not tell: elsewhere than on Linux, and for a process out of sight.
    """
    try:
        inode = str(os.stat(file).st_ino)
        for line in (processes / "locks").read_text().splitlines():
            # 3: FLOCK  ADVISORY  WRITE 32142 fe:00:2277479 0 EOF
            _, kind, _, _, pid, place, *_ = line.split()
            if kind == "FLOCK" and place.split(":")[-1] == inode:
                status = (processes / pid / "stat").read_text()
                # 32142 (its name) T 1 ...
                return status.rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, ValueError, IndexError):
        pass
    return False


def network_filesystem(directory: Path, mounts: Path = MOUNTS) -> str | None:
    """The type of the network file system of a directory; None if it is local or unknown."""
    try:
        table = mounts.read_text(errors="surrogateescape")
        path = os.path.realpath(directory)
    except OSError:
        return None
    best, found = "", None
    for line in table.splitlines():
        # 36 35 98:0 /root /mount/point rw,noatime master:1 - ext4 /dev/sda1 rw
        fields, _, kind = line.partition(" - ")
        parts = fields.split(" ")
        if len(parts) < 5 or not kind:
            continue
        point = parts[4].encode("latin-1", "surrogateescape").decode("unicode_escape")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        # A later mount on the same point hides the earlier one.
        if inside and len(point) >= len(best):
            best, found = point, kind.split(" ")[0]
    return found if found in NETWORK_FILE_SYSTEMS.split() else None
