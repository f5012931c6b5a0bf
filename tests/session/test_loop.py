"""The event loop stays alive while every worker computes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

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


# A loop that does nothing, in a process of its own, beside two threads that compute without the
# interpreter's lock: what a machine as busy as this costs a loop.
IDLE_LOOP = """
import asyncio, hashlib, sys, threading
from tests.session.test_loop import p99, tick

def compute():
    data = bytes(2**20)
    while True:
        hashlib.sha256(data).digest()

async def main():
    stalls, busy = [], []
    for _ in range(2):
        threading.Thread(target=compute, daemon=True).start()
    ticker = asyncio.create_task(tick(stalls, busy))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    ticker.cancel()
    print(p99(stalls))

asyncio.run(main())
"""


async def tick(stalls: list[float], busy: list[float]) -> None:
    """Note how late the loop is at each tick, and how long its thread computed since the last."""
    while True:
        before, computed = time.perf_counter(), time.thread_time()
        await asyncio.sleep(0.001)
        stalls.append(time.perf_counter() - before - 0.001)
        busy.append(time.thread_time() - computed)


def p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


async def test_the_ticker_hardly_stalls_while_every_worker_computes(
    record_property: Callable[[str, object], None],
) -> None:
    stalls: list[float] = []
    busy: list[float] = []
    async with Session(workers=2) as session:
        await session.load()
        with subprocess.Popen(
            [sys.executable, "-c", IDLE_LOOP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        ) as idle_loop:
            assert idle_loop.stdout is not None
            assert idle_loop.stdout.readline() == "ready\n"
            ticker = asyncio.create_task(tick(stalls, busy))
            await asyncio.gather(
                *(session.generate(f"{n} {LONG}", max_new_tokens=64) for n in range(6)),
                *(session.generate(f"prompt {n}", max_new_tokens=64) for n in range(20)),
                session.embed([f"text {n}" for n in range(100)]),
            )
            ticker.cancel()
            idle_s = float(idle_loop.communicate()[0])
    report = (
        f"{len(stalls)} ticks, 99 % stalled under {p99(stalls) * 1e3:.1f} ms (a loop that does"
        f" nothing: {idle_s * 1e3:.1f} ms), worst {max(stalls):.3f} s; 99 % computed under"
        f" {p99(busy) * 1e3:.1f} ms"
    )
    record_property("stalls", report)
    assert p99(busy) < 0.050, report
    assert p99(stalls) < 0.050 + 3 * idle_s, report


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
