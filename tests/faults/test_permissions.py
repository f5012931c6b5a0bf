"""Caches whose files or directory lose their permissions, at rest and in use."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.faults.campaign import rounds
from tests.faults.conftest import Tally

# As root may do everything, it becomes another user first.
PROGRAM = """
import asyncio, logging, os, shutil, sys, tempfile
from pathlib import Path
from asteady import Session, StoreError
from asteady.testing import FakeEngine

messages = []

class Noting(logging.Handler):
    def emit(self, record):
        messages.append(record.getMessage())

logging.getLogger("asteady").addHandler(Noting(logging.WARNING))

def session_on(directory):
    return Session(engine=FakeEngine(), cache_dir=directory)

async def ask(session, *prompts):
    for prompt in prompts:
        async with asyncio.timeout(60):
            assert await session.generate(prompt) == f"You said: {prompt}"

OLD, NEW = [[f"{age} {number}" for number in range(5)] for age in ("old", "new")]

async def main(root, name, mode, in_use):
    async with session_on(root / "warm") as session:
        await ask(session, "import everything before the home directory is out of reach")
    if os.getuid() == 0:
        os.chown(root, 65534, 65534)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    directory = root / "caches"
    path = directory / name
    async with session_on(directory) as session:
        await ask(session, *OLD)
        if in_use:
            path.chmod(mode)
            await ask(session, *OLD, *NEW)
            await asyncio.sleep(1.2)  # the cache looks at its files twice a second
            await ask(session, *OLD, *NEW, "one more")
            path.chmod(0o700)
            await healed(session)
    if not in_use:
        path.chmod(mode)
        async with session_on(directory) as session:
            await ask(session, *OLD, *NEW, *NEW)
            path.chmod(0o700)
            await healed(session)
    async with session_on(directory) as session:
        for prompt in (*OLD, *NEW):
            assert await session.is_cached(prompt), prompt
    assert len(messages) == len(set(messages)), messages
    print(len(messages))

async def healed(session):
    async with asyncio.timeout(60):
        while (await session.cache.generation.statistics())["pending_writes"]:
            await asyncio.sleep(0.05)
        # A database that could not be opened is opened again in the background.
        while True:
            try:
                return await session.cache.check_open()
            except StoreError:
                await asyncio.sleep(0.05)

root = Path(tempfile.mkdtemp())
try:
    asyncio.run(main(root, sys.argv[1], int(sys.argv[2], 8), sys.argv[3] == "in use"))
finally:
    shutil.rmtree(root, ignore_errors=True)
"""


FAULTS = [
    ("generation_cache.db", 0o000, "at rest"),
    (".", 0o555, "at rest"),
    (".", 0o000, "in use"),
    ("generation_cache.db", 0o000, "in use"),
    ("generation_cache.db", 0o444, "at rest"),
    ("generation_cache.db", 0o444, "in use"),
    (".", 0o000, "at rest"),
    (".", 0o555, "in use"),
    ("locks", 0o000, "at rest"),
    ("locks", 0o000, "in use"),
]


@pytest.mark.parametrize(("name", "mode", "when"), FAULTS[: rounds(3, len(FAULTS))])
def test_permissions(name: str, mode: int, when: str, tally: Tally) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, oct(mode)[2:], when],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tally("log entries", int(done.stdout))
