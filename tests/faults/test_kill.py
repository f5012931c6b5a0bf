"""kill -9 at random moments of a mixed load: in one process, and in one of four again and again.

What is checked is what callers rely on: every answer that a process gave is the right one, is in
the cache afterwards, and was computed by one process only; and the database is undamaged.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from asteady import Session
from asteady.testing import FakeEngine
from tests.faults.campaign import rounds
from tests.faults.conftest import Tally

pytestmark = pytest.mark.anyio

# Asks for texts, streams and vectors, and clears a namespace of its own now and then. A line is
# printed in one write, so that it is there whole or not at all.
PROGRAM = """
import asyncio, json, random, sys
from asteady import Session
from asteady.testing import FakeEngine

async def main(first, last):
    draw = random.Random()
    async with Session(engine=FakeEngine(), workers=2) as session:
        async def ask(number):
            prompt = f"prompt {number}"
            how = number % 3
            if how == 0:
                answer = await session.complete(prompt)
                line = ["generation", number, answer.text, answer.cached]
            elif how == 1:
                async with session.stream(prompt) as stream:
                    answer = await stream.read()
                line = ["generation", number, answer.text, answer.cached]
            else:
                answer = await session.embedding(prompt)
                line = ["embedding", number, answer.vector.tolist(), answer.cached]
            sys.stdout.write(json.dumps(line) + "\\n")
            sys.stdout.flush()

        async def clear(number):
            own = session.namespace(f"own/{number}")
            await own.generate(f"private {number}")
            await own.clear()

        numbers = list(range(first, last))
        draw.shuffle(numbers)
        while numbers:
            async with asyncio.TaskGroup() as group:
                for number in numbers[:8]:
                    group.create_task(ask(number))
                group.create_task(clear(numbers[0]))
            del numbers[:8]

asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
"""


@pytest.fixture(autouse=True)
def _room_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("GENERATION", "EMBEDDING"):
        monkeypatch.setenv(f"ASTEADY_{kind}_CACHE_CAPACITY", "1000000")
        monkeypatch.setenv(f"ASTEADY_{kind}_CACHE_MAX_SIZE_MB", "1000")


@contextmanager
def started(first: int, last: int) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(first), str(last)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_of(process: subprocess.Popen[str], number: int | None = None) -> list[list[object]]:
    """So many lines, or all that are left; a last one without its end was never answered."""
    assert process.stdout is not None
    lines = (
        process.stdout.read().splitlines(keepends=True)
        if number is None
        else [process.stdout.readline() for _ in range(number)]
    )
    return [json.loads(line) for line in lines if line.endswith("\n")]


async def check(answers: list[list[object]]) -> None:
    """Every answer is right and stored, and no database is damaged."""
    async with Session(engine=FakeEngine()) as session:
        for kind, number, answer, _ in answers:
            prompt = f"prompt {number}"
            if kind == "generation":
                assert answer == f"You said: {prompt}"
                assert await session.generate(prompt, cache="only") == answer
            else:
                vector = await session.embed(prompt, cache="only")
                assert vector.tolist() == answer
    for database in Path(os.environ["ASTEADY_CACHE_DIR"]).glob("*.db"):
        with closing(sqlite3.connect(database)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert not list(Path(os.environ["ASTEADY_CACHE_DIR"]).glob("*damaged*"))


async def test_kill_at_a_random_moment_of_a_mixed_load(tally: Tally) -> None:
    draw = random.Random(1)
    answers: list[list[object]] = []
    kills = rounds(4, 200)
    for kill in range(kills):
        with started(kill * 1000, kill * 1000 + 1000) as process:
            answers += lines_of(process, draw.randrange(1, 120))
            process.kill()
            answers += lines_of(process)
    await check(answers)
    tally("kills", kills)
    tally("answers, none lost", len(answers))


async def test_one_of_four_processes_is_killed_and_started_again(tally: Tally) -> None:
    draw = random.Random(2)
    answers: list[list[object]] = []
    kills = rounds(2, 70)
    for round_number in range(kills):
        first = round_number * 200
        with (
            started(first, first + 200) as a,
            started(first, first + 200) as b,
            started(first, first + 200) as c,
            started(first, first + 200) as killed,
        ):
            answers += lines_of(killed, draw.randrange(1, 100))
            killed.kill()
            answers += lines_of(killed)
            with started(first, first + 200) as again:
                for process in (a, b, c, again):
                    answers += lines_of(process)
                    assert process.wait() == 0
    await check(answers)
    computed = Counter((kind, number) for kind, number, _, cached in answers if not cached)
    assert max(computed.values()) == 1
    tally("kills", kills)
    tally("answers, none lost", len(answers))
    tally("computations, none twice", len(computed))
