"""However a program ends, the interpreter does too, and quietly."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

import asteady
from asteady._session import default as _default

PROGRAMS = {
    "the default session is closed with asyncio.run": """
async def main():
    await asteady.generate("hi", max_new_tokens=2)
asyncio.run(main())
""",
    "the default session of a loop that is just closed": """
loop = asyncio.new_event_loop()
loop.run_until_complete(asteady.generate("hi", max_new_tokens=2))
loop.close()
""",
    "a session that is never closed": """
async def main():
    session = await asteady.Session().open()
    await session.generate("hi", max_new_tokens=2)
asyncio.run(main())
""",
    "a session that is open in a loop that just stops": """
loop = asyncio.new_event_loop()
session = loop.run_until_complete(asteady.Session().open())
loop.run_until_complete(session.generate("hi", max_new_tokens=2))
""",
    "the main task fails with computations under way": """
async def main():
    async with asteady.Session() as session:
        for n in range(20):
            task = asyncio.create_task(session.generate(f"{n}"))
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.sleep(0)
        raise SystemExit(0)
asyncio.run(main())
""",
    "several loops, one after another": """
for _ in range(3):
    asyncio.run(asteady.generate("hi", max_new_tokens=2))
""",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_the_interpreter_exits(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import asyncio, asteady\n{program}\nprint('end')"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "never awaited" not in done.stderr
    assert "Task was destroyed" not in done.stderr
    assert "Traceback" not in done.stderr
    if "SystemExit" not in program:
        assert done.stdout == "end\n"


def test_without_a_loop_there_is_no_cache_manager() -> None:
    with pytest.raises(asteady.SessionError, match="running event loop"):
        asteady.get_cache_manager()


def test_sessions_of_closed_loops_are_let_go() -> None:
    for _ in range(3):
        asyncio.run(asteady.embed("hi"))
    loops = [loop for loop in _default._sessions if loop.is_closed()]
    assert len(loops) <= 1
