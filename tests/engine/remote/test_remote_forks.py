"""A forked child leaves the event loop of its parent's requests alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, gc, os, sys

import asteady, asteady.server
from asteady._engine import pool
from asteady.testing import FakeEngine
from starlette.applications import Starlette
from tests.serving import serving

def child():
    # As if it dropped what it has of its parent's session, and no frame of the parent's threads
    # kept it.
    for each in gc.get_objects():
        if isinstance(each, pool.Pool | pool._WorkerState):
            each.__dict__.clear()
    gc.collect()

async def main():
    engine = FakeEngine()
    async with asteady.Session(engine=engine, workers=2, cache_dir=sys.argv[1]) as there:
        app = Starlette()
        app.mount("/v1", asteady.server.openai(there))
        async with serving(app) as address:
            async with asteady.Session(
                generation_model=f"openai+{address}", workers=2, cache_dir=sys.argv[2]
            ) as session:
                await session.generate("first")
                process = os.fork()
                if process == 0:
                    child()
                    os._exit(0)
                os.waitpid(process, 0)
                engine.hold()
                one = asyncio.create_task(session.generate("one"))
                await engine.wait_computed(2)
                # The loop of the requests waits for events, and must be woken.
                two = asyncio.create_task(session.generate("two"))
                await engine.wait_computed(3)
                engine.resume()
                print(await one, "and", await two)

asyncio.run(asyncio.wait_for(main(), 60))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_does_not_close_the_loop_of_its_parents_requests(tmp_path: Path) -> None:
    directories = [str(tmp_path / name) for name in ("there", "here")]
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, *directories],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (found.stdout, found.stderr) == ("You said: one and You said: two\n", "")
