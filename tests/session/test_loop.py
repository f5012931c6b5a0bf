"""The event loop stays alive while every worker computes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import anyio
import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from asteady import Session

pytestmark = pytest.mark.anyio

LONG = "caches and queues " * 60


@pytest.fixture
def _no_blocking() -> Iterator[BlockBuster]:
    """A call that blocks, made by asteady's own code on the loop's thread, is an error."""
    with blockbuster_ctx("asteady") as blockbuster:
        yield blockbuster


async def test_the_loops_thread_hardly_computes_while_every_worker_does() -> None:
    computed_s: list[float] = []

    async def tick() -> None:
        while True:
            before_s = time.thread_time()
            await asyncio.sleep(0.001)
            computed_s.append(time.thread_time() - before_s)

    async with Session(workers=2) as session:
        await session.load()
        ticker = asyncio.create_task(tick())
        await asyncio.gather(
            *(session.generate(f"{n} {LONG}", max_new_tokens=64) for n in range(6)),
            *(session.generate(f"prompt {n}", max_new_tokens=64) for n in range(20)),
            session.embed([f"text {n}" for n in range(100)]),
        )
        ticker.cancel()
    # Of this thread alone, so that it does not depend on what else the machine does.
    assert sorted(computed_s)[int(len(computed_s) * 0.99)] < 0.050


@pytest.mark.usefixtures("_no_blocking")
async def test_nothing_blocks_the_loop() -> None:
    async with Session(workers=2) as session:
        await session.load()
        text = await session.generate("hi", max_new_tokens=8)
        assert await session.generate("hi", max_new_tokens=8) == text
        await session.embed(["a", "b"])
        assert await session.is_cached("hi", max_new_tokens=8)
        async with session.stream("hello", max_new_tokens=8) as stream:
            await stream.read()
        with anyio.move_on_after(0.01):
            await session.generate("hi", max_new_tokens=2000, temperature=2.0)
        await session.cache.get_cache_stats()
        await session.cache.clear_all_caches()
