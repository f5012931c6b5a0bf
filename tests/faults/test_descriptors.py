"""A process that may open few files, or no more at all, still answers."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.faults.campaign import rounds
from tests.faults.conftest import Tally

pytest.importorskip("resource", reason="limits are set as on Unix")

FIRST_REQUESTS = """
import asyncio, json, os, resource, sys
from asteady import Session

limit, requests = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
settings = {"max_pending": requests, "probe": False, "generation_cache_capacity": 9999}
# What else a server has open.
others = [os.dup(0) for _ in range(limit // 2)]

async def main():
    async with Session(**settings) as session:
        asked = [session.generate(f"p {number}", max_new_tokens=1) for number in range(requests)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        stored = len(await session.cache.generation.keys())
        errors = session.cache.generation.counters.errors
    print(json.dumps([[repr(a) for a in answers if not isinstance(a, str)], stored, errors]))

asyncio.run(main())
"""

NONE_LEFT = """
import asyncio, json, logging, os, resource, sys
from contextlib import suppress
from asteady import Session

requests = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
settings = {"max_pending": requests, "probe": False, "generation_cache_capacity": 9999}
lines = []
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: lines.append(record.getMessage())
logging.getLogger("asteady").addHandler(handler)

async def main():
    async with Session(**settings) as session:
        await session.generate("first", max_new_tokens=1)
        taken = [os.open(os.devnull, os.O_RDONLY)]
        with suppress(OSError):
            while True:
                taken.append(os.dup(taken[0]))
        asked = [session.generate(f"p {number}", max_new_tokens=1) for number in range(requests)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for descriptor in taken:
            os.close(descriptor)
        stored = len(await session.cache.generation.keys())
        errors = session.cache.generation.counters.errors
        await session.generate("last", max_new_tokens=1)
    assert session.cache.generation.counters.errors == errors
    print(json.dumps([[repr(a) for a in answers if not isinstance(a, str)], stored, errors, lines]))

asyncio.run(main())
"""


def run(program: str, *arguments: int) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("limit", [256, *rounds(0, 1) * [192, 128, 96]])
def test_hundreds_of_first_requests_with_few_descriptors(limit: int, tally: Tally) -> None:
    failed, stored, errors = run(FIRST_REQUESTS, limit, 800)
    assert (failed, stored, errors) == ([], 800, 0)
    tally("answers", stored)


def test_requests_without_any_descriptor_left(tally: Tally) -> None:
    requests = rounds(100, 1000)
    failed, stored, errors, lines = run(NONE_LEFT, requests)
    assert (failed, stored) == ([], requests + 1)
    # Counted each time, and logged once.
    assert errors >= 1
    assert [line for line in lines if "a lock of the" in line] == lines
    assert len(lines) == 1
    assert "Too many open files" in lines[0]
    tally("answers", stored)
    tally("computed without a lock", errors)
