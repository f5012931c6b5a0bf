"""kill -9 in the middle of everything: what was answered is in the cache of the next process."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from asteady import Session

pytestmark = pytest.mark.anyio

PROGRAM = """
import asyncio, sys
from asteady import Session

async def main():
    async with Session(workers=2, generation_cache_capacity=10_000) as session:
        async def ask(number):
            await session.generate(f"prompt {number}", max_new_tokens=4)
            # In one write, so that a line is there whole or not at all.
            sys.stdout.write(f"{number}\\n")
            sys.stdout.flush()

        number = 0
        while True:
            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(ask(number))
                    number += 1

asyncio.run(main())
"""


@pytest.mark.parametrize("answers", [1, 13, 50])
async def test_every_answer_that_was_printed_is_in_the_cache(answers: int) -> None:
    numbers = killed_after(answers)
    assert len(numbers) >= answers
    async with Session(generation_cache_capacity=10_000) as session:
        missing = [
            number
            for number in numbers
            if not await session.is_cached(f"prompt {number}", max_new_tokens=4)
        ]
        assert missing == []
    database = Path(os.environ["ASTEADY_CACHE_DIR"]) / "generation_cache.db"
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def killed_after(answers: int) -> list[int]:
    """Kill the program once it has printed so many answers; all that it had printed by then."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        printed = [process.stdout.readline() for _ in range(answers)]
        process.send_signal(signal.SIGKILL)
        printed += process.stdout.read().splitlines(keepends=True)
    assert process.returncode == -signal.SIGKILL
    return [int(line) for line in printed if line.endswith("\n")]
