"""The SQLite thread, the locks, the kind of file system: one by one."""

# ruff: noqa: ASYNC110  # it looks at files, and waits for what tells nobody

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import inspect
import sqlite3
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import anyio
import pytest

from asteady._cache.store.locks import Locks, network_filesystem
from asteady._cache.store.sqlite_thread import SqliteThread

pytestmark = pytest.mark.anyio


def memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", check_same_thread=False)


async def test_the_private_parts_of_aiosqlite_are_still_there() -> None:
    """`sqlite_thread` uses them; read a newer aiosqlite before its version is allowed."""
    import aiosqlite
    from aiosqlite import core

    connection = aiosqlite.Connection(memory, iter_chunk_size=64)
    assert inspect.iscoroutinefunction(connection._execute)
    assert isinstance(connection._thread, threading.Thread)
    assert connection._running
    assert connection._connection is None
    connection._tx.put_nowait((None, int))
    assert core._STOP_RUNNING_SENTINEL is not None
    major, minor = importlib.metadata.version("aiosqlite").split(".")[:2]
    assert (major, minor) == ("0", "22")


async def test_a_function_runs_as_one_hop_on_a_daemon_thread() -> None:
    opened = await SqliteThread.open(memory)

    def work(connection: sqlite3.Connection, number: int) -> tuple[int, bool, bool]:
        (found,) = connection.execute("SELECT ?", (number,)).fetchone()
        thread = threading.current_thread()
        return found, thread.daemon, thread is threading.main_thread()

    assert await opened.run(work, 7) == (7, True, False)
    with pytest.raises(ZeroDivisionError):
        await opened.run(lambda _: 1 / 0)
    await opened.aclose()
    await opened.aclose()
    opened.abandon()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        await opened.run(work, 7)


async def test_a_connection_that_cannot_be_opened_leaves_no_thread() -> None:
    before = set(threading.enumerate())

    def fail() -> sqlite3.Connection:
        raise sqlite3.OperationalError("no")

    with pytest.raises(sqlite3.OperationalError, match="no"):
        await SqliteThread.open(fail)
    with anyio.fail_after(60):
        while set(threading.enumerate()) - before:
            await anyio.sleep(0.01)


def test_a_thread_left_open_when_its_loop_ends_hangs_and_complains_of_nothing() -> None:
    async def leave() -> SqliteThread:
        return await SqliteThread.open(memory)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        thread = asyncio.run(leave())
        thread.abandon()
        del thread
        gc.collect()


def test_a_connection_is_closed_by_its_thread_though_its_loop_is_closed_in_a_call() -> None:
    connection = memory()
    calling, closed = threading.Event(), threading.Event()

    def call(_: sqlite3.Connection) -> None:
        calling.set()
        closed.wait(60)

    async def leave() -> SqliteThread:
        thread = await SqliteThread.open(lambda: connection)
        asking = asyncio.create_task(thread.run(call))
        await asyncio.to_thread(calling.wait, 60)
        asking.cancel()
        return thread

    before = set(threading.enumerate())
    thread = asyncio.run(leave())
    thread.abandon()
    closed.set()
    for ending in set(threading.enumerate()) - before:
        ending.join(60)
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        connection.total_changes  # noqa: B018


async def test_the_interpreter_exits_with_a_thread_open() -> None:
    program = """
import asyncio, sqlite3
from asteady._cache.store.sqlite_thread import SqliteThread

async def main():
    global thread
    thread = await SqliteThread.open(lambda: sqlite3.connect(":memory:", check_same_thread=False))

loop = asyncio.new_event_loop()
loop.run_until_complete(main())
print("done", flush=True)
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    with anyio.fail_after(60):
        output, _ = await process.communicate()
    assert output.strip() == b"done"


class Failures(list[str]):
    def __call__(self, what: str, error: Exception) -> None:
        self.append(what)


async def inline(fn: Any) -> Any:
    await asyncio.sleep(0)
    return fn()


async def test_computations_of_one_process_do_not_exclude_each_other(tmp_path: Path) -> None:
    locks = Locks(tmp_path, inline, Failures())
    async with locks.computing("key") as first, locks.computing("key") as second:
        assert (first, second) == (False, False)
        assert len(locks._held) == 1
    assert not locks._held


async def test_locks_of_two_directories_users_exclude_each_other(tmp_path: Path) -> None:
    one, other = Locks(tmp_path, inline, Failures()), Locks(tmp_path, inline, Failures())
    order: list[str] = []

    async def late() -> None:
        async with other.computing("key") as waited:
            order.append(f"late waited: {waited}")

    async with asyncio.TaskGroup() as tasks, one.computing("key"):
        tasks.create_task(late())
        await anyio.wait_all_tasks_blocked()  # the other has tried, and pauses
        order.append("first")
    assert order == ["first", "late waited: True"]


async def test_a_computation_s_own_exception_passes_through(tmp_path: Path) -> None:
    locks = Locks(tmp_path, inline, Failures())
    with pytest.raises(KeyError):
        async with locks.computing("key"):
            raise KeyError
    async with locks.computing("key") as waited:
        assert not waited


async def test_trouble_with_a_lock_is_counted_and_fails_nothing(tmp_path: Path) -> None:
    failures = Failures()
    locks = Locks(tmp_path / "missing" / "deep", inline, failures)
    (tmp_path / "missing").write_text("")
    async with locks.computing("key") as waited:
        assert not waited
        async with locks.computing("key") as again:
            assert not again
    assert failures == ["lock"]


async def test_a_lock_that_cannot_be_released_in_its_thread_is_released_here(
    tmp_path: Path,
) -> None:
    failures = Failures()
    closed = False

    async def run(fn: Any) -> Any:
        await asyncio.sleep(0)
        if closed:
            raise sqlite3.ProgrammingError
        return fn()

    locks = Locks(tmp_path, run, failures)
    async with locks.computing("key"):
        closed = True
    await asyncio.wait(locks._releasing.values())
    assert failures == ["lock"]
    async with Locks(tmp_path, inline, failures).computing("key") as waited:
        assert not waited


async def test_who_waits_goes_on_without_the_lock_when_its_taker_is_cancelled(
    tmp_path: Path,
) -> None:
    locks = Locks(tmp_path, inline, Failures())
    entered = asyncio.Event()

    async def compute() -> None:
        async with locks.computing("key"):
            entered.set()
            await asyncio.sleep(0)

    async with Locks(tmp_path, inline, Failures()).computing("key"):
        first = asyncio.ensure_future(compute())
        await anyio.wait_all_tasks_blocked()
        second = asyncio.ensure_future(compute())
        await anyio.wait_all_tasks_blocked()
        first.cancel()
        with anyio.fail_after(60):
            await entered.wait()
            await second
    assert first.cancelled()


MOUNTS = """\
22 1 252:1 / / rw,relatime - ext4 /dev/vda rw
30 22 0:26 / /home rw shared:1 - nfs4 server:/home rw
31 30 8:1 / /home/local rw - xfs /dev/sdb rw
32 22 0:27 / /mnt/with\\040space rw - cifs //server/share rw
33 22 0:28 / /mnt/hidden rw - nfs server:/x rw
34 33 0:29 / /mnt/hidden rw - tmpfs tmpfs rw
a line that means nothing
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/cache", None),
        ("/home/me/.cache", "nfs4"),
        ("/homely", None),
        ("/home/local/cache", None),
        ("/mnt/with space/cache", "cifs"),
        ("/mnt/hidden/cache", None),
    ],
)
def test_network_file_systems_are_known_by_their_mounts(
    tmp_path: Path, path: str, kind: str | None
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert network_filesystem(Path(path), mounts) == kind


def test_a_system_without_a_table_of_mounts_is_taken_for_local(tmp_path: Path) -> None:
    assert network_filesystem(tmp_path, tmp_path / "missing") is None
