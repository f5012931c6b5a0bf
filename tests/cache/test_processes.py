"""One cache, several processes."""

# ruff: noqa: ASYNC110  # it looks at files, and waits for what tells nobody

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from asteady._base.errors import SessionError, StoreError
from asteady._cache.cache import TICK_S
from asteady._cache.store.transaction import Tables
from tests.cache.helpers import Process, completion, key_of, opened

pytestmark = pytest.mark.anyio
KEY = key_of("key")


async def test_what_one_process_stores_another_finds(directory: Path) -> None:
    body = """
async with opened(directory) as manager:
    found = None
    say("ready")
    while await told() == "look":
        found = await manager.generation.get(key_of("key"))
        say(found.text if found else "nothing")
"""
    async with opened(directory) as manager:
        with Process(directory, body) as process:
            assert process.hear() == "ready"
            process.tell("look")
            assert process.hear() == "nothing"
            await manager.generation.put(KEY, completion("from here"))
            process.tell("look")
            assert process.hear() == "from here"


@pytest.mark.parametrize("act", ["clear()", "delete(key_of('key'))"])
async def test_what_one_process_removes_the_others_see_within_a_second(
    directory: Path, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = f"""
async with opened(directory) as manager:
    say("ready")
    await told()
    await manager.generation.{act}
    say("done")
    await told()
"""
    looks = 0

    async def count_looks() -> int:
        nonlocal looks
        looks += 1
        return await removals()

    async with opened(directory) as manager:
        cache = manager.generation
        store = await cache.ready()
        removals = store.removals
        await cache.put(KEY, completion())
        with Process(directory, body) as process:
            assert process.hear() == "ready"
            assert cache.recall_key(KEY) is not None or await cache.get(KEY) is not None
            process.tell()
            assert process.hear() == "done"
            # A cache in use looks at each tick. The first look that begins from now on finds it;
            # another one may follow before the next line is run.
            assert TICK_S <= 0.5
            monkeypatch.setattr(store, "removals", count_looks)
            with anyio.fail_after(60):
                while cache.recall_key(KEY) is not None:
                    await anyio.sleep(0.01)
            assert looks <= 2
            assert await cache.get(KEY) is None
            assert not await cache.contains(KEY)


async def test_a_sleeping_process_sees_at_once_what_was_removed_meanwhile(directory: Path) -> None:
    body = """
async with opened(directory) as manager:
    await manager.generation.clear()
"""
    async with opened(directory) as manager:
        cache = manager.generation
        await cache.put(KEY, completion(), alias="alias")
        with anyio.fail_after(60):
            while cache.peek_alias("alias") is not None:
                await anyio.sleep(0.01)
        with Process(directory, body) as process:
            assert process.finish() == 0
        assert cache.recall_key(KEY) is None
        assert await cache.get(KEY) is None
        assert await cache.put(KEY, completion())
        with anyio.fail_after(60):
            while cache.recall_key(KEY) is None:
                await anyio.sleep(0.01)
                # Keeps it awake on a machine so busy that it would sleep again meanwhile.
                assert await cache.get(KEY) is not None


async def test_entries_that_another_process_evicts_leave_this_one_s_memory(
    directory: Path,
) -> None:
    body = """
async with opened(directory, generation_cache_capacity=3) as manager:
    for number in range(20):
        await manager.generation.put(key_of(number), completion(cost_s=9.0))
"""
    async with opened(directory, generation_cache_capacity=3) as manager:
        cache = manager.generation
        for name in "abc":
            await cache.put(name, completion(cost_s=0.1))
        with Process(directory, body) as process:
            assert process.finish() == 0
        with anyio.fail_after(60):
            while len(cache.memory):
                await cache.get("a")
                await anyio.sleep(0.01)
        statistics = await cache.statistics()
        assert statistics["size"] == 3
        assert statistics["all_evictions"] == 20
        assert statistics["evictions"] == 0


async def test_a_computation_in_one_process_is_waited_for_in_the_others(directory: Path) -> None:
    body = """
async with opened(directory) as manager:
    async with manager.generation.computing(key_of("key")):
        say("computing")
        await told()
        await manager.generation.put(key_of("key"), completion("theirs"))
"""
    async with opened(directory) as manager:
        cache = manager.generation
        with Process(directory, body) as process:
            assert process.hear() == "computing"
            async with asyncio.TaskGroup() as tasks:

                async def compute() -> str:
                    async with cache.computing(KEY) as waited:
                        found = await cache.get(KEY)
                        assert waited
                        assert found is not None
                        return found.text

                task = tasks.create_task(compute())
                await anyio.wait_all_tasks_blocked()
                # The store runs one call after another: the attempt to lock it came before this.
                await (await cache.ready()).run(lambda: None)
                assert not task.done()
                process.tell()
            assert task.result() == "theirs"
            assert process.finish() == 0
        assert (await cache.statistics())["coalesced_across_processes"] == 1


async def test_the_lock_of_a_process_that_was_killed_is_free(directory: Path) -> None:
    body = """
async with opened(directory) as manager:
    async with manager.generation.computing(key_of("key")):
        say("computing")
        await told()
"""
    async with opened(directory) as manager:
        with Process(directory, body) as process:
            assert process.hear() == "computing"
            process.kill()
        with anyio.fail_after(60):
            async with manager.generation.computing(KEY):
                pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells that a process is stopped")
async def test_a_stopped_process_is_not_waited_for(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = """
async with opened(directory) as manager:
    async with manager.generation.computing(key_of("key")):
        say(os.getpid())
        await told()
"""
    async with opened(directory) as manager:
        with Process(directory, "import os\n" + body) as process:
            pid = int(process.hear())
            os.kill(pid, signal.SIGSTOP)
            # Far less than the two minutes that a running process is waited for.
            with anyio.fail_after(60):
                async with manager.generation.computing(KEY) as waited:
                    assert waited
            os.kill(pid, signal.SIGCONT)
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "a process that computes an answer is stopped"
    ]


async def test_what_was_put_before_a_kill_is_there_after_it(directory: Path) -> None:
    body = """
async with opened(directory, embedding_cache_capacity=100000) as manager:
    async def put(number):
        assert await manager.embedding.put(key_of(number), embedding(*[0.125] * 64))
        say(number)
    number = 0
    while True:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(16):
                tasks.create_task(put(number))
                number += 1
"""
    for round_ in range(3):
        with Process(directory, body) as process:
            said = [process.hear() for _ in range(50 * (round_ + 1))]
            process.kill()
        async with opened(directory, embedding_cache_capacity=100000) as manager:
            for number in map(int, said):
                assert await manager.embedding.get(key_of(number)) is not None
            statistics = await manager.embedding.statistics()
            entries = await manager.embedding.entries(limit=-1)
            assert statistics["size"] == len(entries)
            assert statistics["total_size_bytes"] == sum(e.size_bytes for e in entries)
        with closing(sqlite3.connect(directory / "embedding_cache.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_many_writers_never_see_a_locked_database(directory: Path) -> None:
    body = """
errors = 0
async with opened(directory, generation_cache_capacity=20) as manager:
    cache = manager.generation
    say("ready")
    await told()
    for number in range(60):
        done = await asyncio.gather(
            *(cache.put(key_of((number, part)), completion()) for part in range(3))
        )
        await cache.get(key_of((number, 0)))
        assert done == [True, True, True]
    statistics = await cache.statistics()
    say(statistics["errors"], statistics["damaged"], statistics["declined"])
"""
    async with opened(directory, generation_cache_capacity=20) as manager:
        with (
            Process(directory, body) as one,
            Process(directory, body) as two,
            Process(directory, body) as three,
        ):
            processes = (one, two, three)
            for process in processes:
                assert process.hear() == "ready"
            for process in processes:
                process.tell()
            for number in range(60):
                assert await manager.generation.put(key_of(number), completion())
            assert [process.hear() for process in processes] == ["0 0 0"] * 3
        statistics = await manager.generation.statistics()
        assert (statistics["errors"], statistics["damaged"], statistics["declined"]) == (0, 0, 0)
        assert statistics["size"] == len(await manager.generation.keys()) == 20


async def test_a_database_locked_for_a_while_only_takes_longer(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0
    commit = Tables.commit

    def count_attempts(self: Tables[Any], *arguments: Any) -> Any:
        nonlocal attempts
        attempts += 1
        return commit(self, *arguments)

    monkeypatch.setattr(Tables, "commit", count_attempts)
    async with opened(directory, busy_timeout_s=0.01) as manager:
        with closing(
            sqlite3.connect(directory / "generation_cache.db", isolation_level=None)
        ) as connection:
            connection.execute("BEGIN IMMEDIATE")
            putting = asyncio.ensure_future(manager.generation.put(KEY, completion()))
            with anyio.fail_after(60):
                while attempts < 3:
                    await anyio.sleep(0.01)
            assert not putting.done()
            # Neither reading nor opening waits for a writer.
            assert await manager.generation.get(KEY) is None
            async with opened(directory) as other:
                assert await other.generation.keys() == []
            connection.execute("ROLLBACK")
        assert await putting
        assert (await manager.generation.statistics())["errors"] == 0


async def test_a_database_locked_for_long_delays_writes_and_fails_removals(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(directory, busy_timeout_s=0.01, busy_retry_s=0.05) as manager:
        cache = manager.generation
        assert await cache.put(key_of(1), completion())
        with closing(
            sqlite3.connect(directory / "generation_cache.db", isolation_level=None)
        ) as connection:
            connection.execute("BEGIN IMMEDIATE")
            # Only here: what works below must not fail for the time that it takes.
            with monkeypatch.context() as patch:
                patch.setattr(cache, "_timeout_s", 0.1)
                assert not await cache.put(KEY, completion(), alias="alias")
                assert cache.recall("alias") is not None
                assert not await cache.put(key_of(2), completion())
            for remove in (cache.clear(), cache.delete(key_of(1))):
                with pytest.raises(StoreError, match="locked"):
                    await remove
            assert await cache.get(KEY) is not None
            statistics = await cache.statistics()
            assert (statistics["delayed"], statistics["pending_writes"]) == (2, 2)
            connection.execute("ROLLBACK")
        with anyio.fail_after(60):
            while len(cache._late):
                await anyio.sleep(0.01)
        assert await cache.keys() == sorted([KEY, key_of(1), key_of(2)])
        assert await cache.put(key_of(3), completion())
    assert len(caplog.records) == 1
    assert "locked" in caplog.text


async def test_a_forked_child_leaves_the_parent_s_cache_alone(directory: Path) -> None:
    async with opened(directory) as manager:
        cache = manager.generation
        await cache.put(KEY, completion())
        cache.memory.clear()
        child = os.fork()
        if child == 0:  # pragma: no cover  # coverage does not follow
            status = 1
            try:
                loop = asyncio.new_event_loop()
                asyncio._set_running_loop(None)
                try:
                    loop.run_until_complete(cache.get(KEY))
                except SessionError:
                    loop.run_until_complete(manager.aclose())
                    status = 0
            finally:
                os._exit(status)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert await cache.get(KEY) is not None
        assert await cache.put(key_of("other"), completion())
    async with opened(directory) as manager:
        assert len(await manager.generation.keys()) == 2


async def test_a_second_session_leaves_the_first_ones_locks_in_place(directory: Path) -> None:
    async with opened(directory) as manager:
        await manager.generation.put(KEY, completion())
        async with opened(directory) as second:
            assert await second.generation.get(KEY) is not None
        # If nobody had the database locked, the last one to close it would delete the log.
        with Process(directory, "async with opened(directory): pass\nsay('closed')") as process:
            assert process.hear() == "closed"
        assert (directory / "generation_cache.db-wal").exists()
        assert await manager.generation.put(key_of("other"), completion())
    async with opened(directory) as manager:
        assert len(await manager.generation.keys()) == 2
