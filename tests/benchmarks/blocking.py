"""Measures what a warm answer costs without await, against the ways people would write it.

    python -m tests.benchmarks.blocking

On a fake engine: no model takes part in a hit. Quote ratios of one run only.
"""

from __future__ import annotations

import asyncio
import functools
import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

from asteady import blocking
from asteady.testing import FakeEngine
from tests.benchmarks.harness import in_turns, per_call_us, table

CALLS = 20_000
ROUND_TRIPS = 1_000


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ASTEADY_CACHE_DIR"] = folder
        with blocking.Session(engine=FakeEngine()) as session:
            report(session)


def report(session: blocking.Session) -> None:
    behind = session.awaitable
    session.generate("hi", seed=7)
    session.embed("hi")
    lock, held = threading.Lock(), {("hi", 7): "text"}
    (loop,) = blocking.run(_loop)

    def looked_up() -> str:
        with lock:
            return held["hi", 7]

    @functools.lru_cache
    def remembered(prompt: str, *, seed: int) -> str:
        return prompt

    async def awaited() -> float:
        async def many() -> None:
            for _ in range(CALLS):
                await behind.generate("hi", seed=7)

        began = loop.time()
        await many()
        return (loop.time() - began) / CALLS * 1e6

    def threadsafe() -> str:
        return asyncio.run_coroutine_threadsafe(behind.generate("hi", seed=7), loop).result()

    def threads() -> float:
        def work() -> None:
            for _ in range(CALLS // 4):
                session.generate("hi", seed=7)

        def all_of_them() -> None:
            with ThreadPoolExecutor(4) as executor:
                for future in [executor.submit(work) for _ in range(4)]:
                    future.result()

        return per_call_us(all_of_them, 1) / CALLS

    found = in_turns(
        {
            "a dictionary behind a lock": lambda: per_call_us(looked_up, CALLS),
            "functools.lru_cache": lambda: per_call_us(lambda: remembered("hi", seed=7), CALLS),
            "await session.generate, on its loop": lambda: blocking.run(awaited),
            "blocking generate": lambda: per_call_us(lambda: session.generate("hi", seed=7), CALLS),
            "blocking embed": lambda: per_call_us(lambda: session.embed("hi"), CALLS),
            "blocking generate, 4 threads": threads,
            "blocking complete, one round trip": lambda: per_call_us(
                lambda: session.complete("hi", seed=7), ROUND_TRIPS
            ),
            "run_coroutine_threadsafe(generate)": lambda: per_call_us(threadsafe, ROUND_TRIPS),
        },
        rounds=9,
    )
    one = found["blocking generate"]
    table(
        "A warm answer without await",
        ["", "µs, median", "µs, least", "to blocking generate"],
        [
            (name, f"{median:.2f}", f"{least:.2f}", f"{least / one[1]:.2f}")
            for name, (median, least) in found.items()
        ],
    )


async def _loop() -> tuple[asyncio.AbstractEventLoop]:
    return (asyncio.get_running_loop(),)


if __name__ == "__main__":
    main()
