"""Puts into full caches: alone, among look-ups, and the size of the files that they leave."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from asteady._base.requests import Completion
from asteady._cache.cache import Cache
from tests.benchmarks.cache_peers import (
    CAPACITY,
    VECTOR,
    done,
    embedding,
    key_of,
    opened,
    optional,
    rounds_of,
    show,
)
from tests.benchmarks.harness import table


async def put(rounds: int, steadytext: Any) -> None:
    count = 1920
    numbers = iter(range(10**9))
    with tempfile.TemporaryDirectory() as directory:
        async with opened(directory, embedding_cache_capacity=CAPACITY) as manager:

            async def ours(flights: int, fresh: bool) -> float:
                async def some() -> None:
                    for _ in range(count // flights):
                        assert await manager.embedding.put(key_of(next(numbers)), embedding())

                if fresh:
                    await manager.embedding.clear()
                start_s = time.perf_counter()
                await asyncio.gather(*(some() for _ in range(flights)))
                return (time.perf_counter() - start_s) / count * 1e6

            async def ours_cpu() -> float:
                start_s = time.process_time()
                await ours(64, False)
                return (time.process_time() - start_s) / count * 1e6

            while (await manager.embedding.statistics())["ghosts"] < 3 * CAPACITY:
                await ours(64, False)
            runs: dict[str, Callable[[], Awaitable[float]]] = {
                "asteady, 64 in flight, full, each evicting one": partial(ours, 64, False),
                "the same, CPU time of the process": ours_cpu,
                "asteady, one at a time, full": partial(ours, 1, False),
            }
            blob = VECTOR.tobytes()
            if diskcache := optional("diskcache"):
                store = diskcache.Cache(f"{directory}/diskcache", size_limit=1_500_000)

                async def into_diskcache() -> float:
                    start_s = time.perf_counter()
                    for _ in range(400):
                        store[key_of(next(numbers))] = blob
                    return (time.perf_counter() - start_s) / 400 * 1e6

                runs["diskcache (blocks), full"] = into_diskcache
            if steadytext:
                old = steadytext(CAPACITY, "put", 2.0, Path(directory))

                async def into_steadytext() -> float:
                    start_s = time.perf_counter()
                    for _ in range(100):
                        old.set(key_of(next(numbers)), VECTOR)
                    return (time.perf_counter() - start_s) / 100 * 1e6

                runs["SteadyText (blocks), full"] = into_steadytext
            show(
                "A put of 384 float32, committed",
                "us",
                await rounds_of(runs, rounds),
                "asteady, 64 in flight, full, each evicting one",
            )


@contextlib.asynccontextmanager
async def ticking() -> AsyncIterator[list[float]]:
    """Collects by how much each sleep of a millisecond is late, in ms."""
    late_ms: list[float] = []

    async def tick() -> None:
        while True:
            start_s = time.perf_counter()
            await asyncio.sleep(0.001)
            late_ms.append((time.perf_counter() - start_s) * 1e3 - 1)

    task = asyncio.ensure_future(tick())
    try:
        yield late_ms
    finally:
        task.cancel()


async def mixed(rounds: int, steadytext: Any) -> None:
    """1,000 tasks at once, each 8 look-ups and 2 puts over Zipf-like keys, memory tier cold."""
    weights = 1 / np.arange(1, 2001)
    picks = np.random.default_rng(1).choice(2000, size=10_000, p=weights / weights.sum())
    keys = [key_of(int(pick)) for pick in picks]
    rows = []

    async def run(
        get: Callable[[str], Awaitable[object]], set_: Callable[[str], Awaitable[object]]
    ) -> tuple[float, float, float]:
        async def one(mine: Iterable[str]) -> None:
            for number, key in enumerate(mine):
                if number % 5 == 4:
                    await set_(key)
                else:
                    await get(key)

        async with ticking() as late_ms:
            start_s = time.perf_counter()
            await asyncio.gather(*(one(keys[n * 10 : n * 10 + 10]) for n in range(1000)))
            took_s = time.perf_counter() - start_s
            await asyncio.sleep(0.005)
        return took_s * 1e3, float(np.percentile(late_ms, 99.9)), max(late_ms)

    with tempfile.TemporaryDirectory() as directory:
        async with opened(directory, embedding_cache_capacity=CAPACITY) as manager:
            contenders: dict[str, tuple[Any, Any]] = {
                "asteady": (
                    manager.embedding.get,
                    lambda key: manager.embedding.put(key, embedding()),
                )
            }
            blob = VECTOR.tobytes()
            if diskcache := optional("diskcache"):
                store = diskcache.Cache(f"{directory}/diskcache", size_limit=1_500_000)
                contenders["diskcache in a thread"] = (
                    lambda key: asyncio.to_thread(store.get, key),
                    lambda key: asyncio.to_thread(store.set, key, blob),
                )
            if steadytext:
                old = steadytext(CAPACITY, "mixed", 2.0, Path(directory))
                contenders["SteadyText in a thread"] = (
                    lambda key: asyncio.to_thread(old.get, key),
                    lambda key: asyncio.to_thread(old.set, key, blob),
                )
                contenders["SteadyText (blocks)"] = (
                    lambda key: done(old.get(key)),
                    lambda key: done(old.set(key, blob)),
                )
            found: dict[str, list[tuple[float, float, float]]] = {n: [] for n in contenders}
            for _ in range(rounds):
                manager.embedding.memory.clear()
                for name, (get, set_) in contenders.items():
                    found[name].append(await run(get, set_))
            for name, figures in found.items():
                rows.append([name, *(f"{value:,.1f}" for value in np.median(figures, axis=0))])
    table(
        "1,000 tasks at once, 8 look-ups and 2 puts each",
        ["", "all done, ms", "stall of the loop, p99.9, ms", "longest, ms"],
        rows,
    )


async def size(rounds: int, steadytext: Any) -> None:
    """File sizes after many puts of answers of several sizes into a full cache."""
    rows = []
    chance = np.random.default_rng(2)
    lengths = {
        "embeddings of 384": None,
        "short texts, 20 to 200": (20, 200),
        "texts, 100 to 4,000": (100, 4000),
        "long texts, 1,000 to 40,000": (1000, 40000),
    }
    for name, bounds in lengths.items():
        megabytes = 4.0
        puts = 100_000 if bounds is None else 20_000
        with tempfile.TemporaryDirectory() as directory:
            changes = {
                "embedding_cache_capacity": 10**6,
                "embedding_cache_max_size_mb": megabytes,
                "generation_cache_capacity": 10**6,
                "generation_cache_max_size_mb": megabytes,
            }
            async with opened(directory, **changes) as manager:
                cache: Cache[Any]
                cache = manager.embedding if bounds is None else manager.generation

                async def some(
                    numbers: Iterator[int], name: str, cache: Cache[Any], bounds: Any
                ) -> None:
                    for number in numbers:
                        if bounds is None:
                            answer: Any = embedding()
                        else:
                            text = "x" * int(chance.integers(*bounds))
                            answer = Completion(
                                text=text,
                                chunks=(text,),
                                finish_reason="stop",
                                prompt_tokens=9,
                                completion_tokens=9,
                                seed=42,
                                model="builtin",
                                fingerprint="f" * 64,
                                cost_s=float(chance.random()),
                            )
                        await cache.put(key_of((name, number)), answer)

                numbers = iter(range(puts))
                await asyncio.gather(*(some(numbers, name, cache, bounds) for _ in range(64)))
                statistics = await cache.statistics()
                path = Path(directory) / "caches" / f"{cache.kind}_cache.db"
                database = os.path.getsize(path)
                log = os.path.getsize(f"{path}-wal")
            budget = statistics["max_size_bytes"]
            allowed = 1.3 * budget + 2**20
            rows.append(
                [
                    name,
                    f"{puts:,}",
                    f"{statistics['size']:,}",
                    f"{statistics['total_size_bytes'] / budget:.2f}",
                    f"{database / budget:.2f}",
                    f"{log / budget:.2f}",
                    "yes" if database + log <= allowed else "NO",
                ]
            )
    table(
        "File sizes after many puts, as parts of a byte budget of 4 MB",
        ["", "puts", "entries", "counted", "database", "log", "both within 1.3 budgets + 1 MB"],
        rows,
    )
