"""Databases that another process has locked: answers come in time, and are stored later."""

# ruff: noqa: ASYNC110  # it looks at what the store does

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import pytest

from asteady import Session
from asteady._cache.late import LatePuts
from asteady.testing import FakeEngine
from tests.faults.campaign import rounds
from tests.faults.conftest import Tally

pytestmark = pytest.mark.anyio

# A call waits this long for the database; then a busy machine may need as long again, many times.
TIMEOUT_S = 1.0
BOUND_S = 60.0

# Locks the database, says so, and lets go when it is told to.
LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
for statement in sys.argv[2:]:
    connection.execute(statement)
print("locked", flush=True)
sys.stdin.readline()
"""
IN_WAL = ("BEGIN IMMEDIATE",)
# No other connection can read, or open it.
ALONE = ("PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE")


@contextmanager
def locked(database: Path, statements: tuple[str, ...]) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the lock within the block, or until it is told to let go."""
    command = [sys.executable, "-c", LOCKER, str(database), *statements]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.communicate("\n")


def session_of(
    engine: FakeEngine | None = None, timeout_s: float | None = None, capacity: int = 256
) -> Session:
    return Session(
        engine=engine or FakeEngine(),
        store_timeout_s=timeout_s,
        generation_cache_capacity=capacity,
    )


@contextmanager
def impatient(session: Session) -> Iterator[None]:
    """Within the block an answer waits for `TIMEOUT_S` to be stored. What works, before and after,
    may take its time."""
    cache = session.cache.generation
    patient_s, cache._timeout_s = cache._timeout_s, TIMEOUT_S
    try:
        yield
    finally:
        cache._timeout_s = patient_s


async def ask(session: Session, prompt: str) -> None:
    with anyio.fail_after(BOUND_S):
        assert await session.generate(prompt) == f"You said: {prompt}"


async def all_stored(session: Session) -> None:
    with anyio.fail_after(BOUND_S):
        while (await session.cache.generation.statistics())["pending_writes"]:
            await anyio.sleep(0.01)


@pytest.fixture
async def database() -> Path:
    """A cache with one answer."""
    async with session_of() as session:
        await ask(session, "old")
        return session.cache.directory / "generation_cache.db"


@pytest.mark.parametrize("stopped", [False, True], ids=["held", "by a stopped process"])
async def test_answers_are_delivered_while_another_process_writes_for_ever(
    database: Path, stopped: bool, caplog: pytest.LogCaptureFixture, tally: Tally
) -> None:
    engine = FakeEngine()
    async with session_of(engine) as session:
        with locked(database, IN_WAL) as process, impatient(session):
            if stopped:
                process.send_signal(signal.SIGSTOP)
            for _ in range(2):
                for number in range(20):
                    await ask(session, f"new {number}")
            await ask(session, "old")
            assert len(engine.computed) == 20
            statistics = await session.cache.generation.statistics()
            assert (statistics["delayed"], statistics["pending_writes"]) == (20, 20)
            assert (statistics["hits"], statistics["misses"]) == (21, 20)
        await all_stored(session)
        messages = [record.getMessage() for record in caplog.records]
        assert len(messages) == 1
        assert "locked" in messages[0]
        # It waits again for each answer to be stored.
        await ask(session, "after")
        assert (await session.cache.generation.statistics())["delayed"] == 20
    async with session_of(engine) as session:
        for number in range(20):
            await ask(session, f"new {number}")
        assert len(engine.computed) == 21
    tally("delivered late", 20)


async def test_only_the_first_answer_waits(database: Path) -> None:
    async with session_of() as session:
        with locked(database, IN_WAL), impatient(session):
            start_s = time.monotonic()
            await ask(session, "first")
            first_s = time.monotonic() - start_s
            assert first_s >= TIMEOUT_S
            start_s = time.monotonic()
            for number in range(50):
                await ask(session, f"later {number}")
            # Had each waited, it would have been fifty times as long.
            assert time.monotonic() - start_s < 25 * first_s


async def test_what_is_late_at_the_end_is_tried_once_more(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with session_of() as session:
        with locked(database, IN_WAL), impatient(session):
            await ask(session, "late")
        # Nothing else runs between the end of the lock and that of the session.
    assert len(caplog.records) == 1
    async with session_of() as session:
        assert await session.is_cached("late")


async def test_closing_ends_while_the_database_is_locked(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with locked(database, IN_WAL), anyio.fail_after(BOUND_S):
        async with session_of(timeout_s=TIMEOUT_S) as session:
            await session.generate("lost")
    assert "cannot be written: database is locked" in caplog.text
    async with session_of() as session:
        assert not await session.is_cached("lost")
        assert await session.is_cached("old")


@pytest.mark.parametrize("stopped", [False, True], ids=["held", "by a stopped process"])
async def test_a_session_opens_without_a_database_that_is_locked(
    database: Path, stopped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    engine = FakeEngine()
    with locked(database, ALONE) as process:
        if stopped:
            process.send_signal(signal.SIGSTOP)
        with anyio.fail_after(BOUND_S):
            session = await session_of(engine, TIMEOUT_S).open()
        for _ in range(2):
            for number in range(5):
                await ask(session, f"new {number}")
        assert len(engine.computed) == 5
        assert len(caplog.records) == 1
        assert "may have it locked" in caplog.text
    await all_stored(session)
    await ask(session, "old")
    assert len(engine.computed) == 5
    await session.aclose()
    async with session_of(engine) as session:
        for number in range(5):
            await ask(session, f"new {number}")
    assert len(engine.computed) == 5


async def test_the_commands_say_that_it_is_locked(database: Path) -> None:
    with locked(database, ALONE):
        done = await anyio.run_process(
            [sys.executable, "-m", "asteady", "cache", "stats"],
            env={**os.environ, "ASTEADY_STORE_TIMEOUT_S": str(TIMEOUT_S)},
            check=False,
        )
    assert done.returncode == 1
    assert b"may have it locked" in done.stderr
    assert b"Traceback" not in done.stderr


# Writes as fast as it can, so that it is stopped inside a transaction now and then. It evicts
# nothing, so that what is stored beside it stays.
WRITER = """
import asyncio, sys
from asteady import Session
from asteady.testing import FakeEngine

async def main():
    async with Session(engine=FakeEngine(), generation_cache_capacity=10**6) as session:
        number = 0
        while True:
            await asyncio.gather(*(session.generate(f"theirs {number} {n}") for n in range(8)))
            number += 1
            print("more", flush=True)

asyncio.run(main())
"""


async def test_a_writer_that_is_stopped_anywhere_keeps_nobody(database: Path, tally: Tally) -> None:
    engine = FakeEngine()
    asked: list[str] = []
    source = random.Random(1)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        try:
            writer.stdout.readline()
            async with session_of(engine, TIMEOUT_S, capacity=10**6) as session:
                delayed = 0
                for round_ in range(rounds(10, 200)):
                    await anyio.to_thread.run_sync(writer.stdout.readline)
                    await anyio.sleep(source.uniform(0, 0.01))
                    writer.send_signal(signal.SIGSTOP)
                    asked += [f"ours {round_} {number}" for number in range(3)]
                    for prompt in asked[-3:]:
                        await ask(session, prompt)
                    writer.send_signal(signal.SIGCONT)
                    await all_stored(session)
                    delayed = session.cache.generation.counters.delayed
                tally("stops", rounds(10, 200))
                tally("answers delivered late", delayed)
        finally:
            writer.kill()
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    async with session_of(engine, capacity=10**6) as session:
        assert await session.is_cached(asked[-1])


@pytest.mark.parametrize("bounds", [(3, 10**6), (1000, 3000)], ids=["number", "bytes"])
async def test_what_waits_is_bounded(database: Path, bounds: tuple[int, int]) -> None:
    async with session_of() as session:
        cache = session.cache.generation
        cache._late = LatePuts(*bounds)
        with locked(database, IN_WAL), impatient(session):
            for number in range(10):
                await ask(session, f"new {number}")
            statistics = await cache.statistics()
            assert statistics["pending_writes"] == statistics["delayed"] == 3
            # The others are in memory.
            assert statistics["memory_size"] == 10
            assert await session.generate("new 9") == "You said: new 9"
        await all_stored(session)
        assert await cache.keys() == sorted(await cache.keys())
        assert len(await cache.keys()) == 4
