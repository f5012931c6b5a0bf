"""Measures the cache, and its peers in turns with it.

    python -m tests.benchmarks.cache [--part NAME ...] [--rounds N] [--steadytext DIR]

Parts: warm, disk, put, mixed, size. --steadytext names SteadyText's unpacked sdist; its SQLite
backend is loaded from there without the rest of it. Peers that are not installed are left out.

Every figure is a median over rounds in turns, with the least in brackets. Quote ratios of one run:
other programs on the machine change every figure.
"""

# it looks at files, and waits for what tells nobody

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import logging
import os
import sys
import tempfile
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite
import numpy as np

from asteady._requests import Completion, Embedding
from asteady._settings import Settings
from asteady.cache._cache import Cache
from asteady.cache._manager import CacheManager
from tests.benchmarks.harness import table

TEXT = "The cache remembers what was computed once, and gives it back at once. " * 8
VECTOR = np.random.default_rng(0).normal(size=384).astype(np.float32)
CAPACITY = 512
ARGUMENTS: dict[str, Any] = {
    "seed": 42,
    "max_new_tokens": 100,
    "temperature": 0.7,
    "stop": ("\n\n",),
}
Figures = dict[str, tuple[float, float]]


def key_of(number: object) -> str:
    return f"{hash(('key', number)) & (2**256 - 1):064x}"


def completion() -> Completion:
    return Completion(
        text=TEXT,
        chunks=(TEXT[:40], TEXT[40:]),
        finish_reason="stop",
        prompt_tokens=9,
        completion_tokens=100,
        seed=42,
        model="builtin",
        fingerprint="f" * 64,
        cost_s=1.0,
    )


def embedding() -> Embedding:
    return Embedding(vector=VECTOR, tokens=9, model="builtin", fingerprint="e" * 64, cost_s=0.001)


@asynccontextmanager
async def opened(directory: str, **changes: Any) -> AsyncIterator[CacheManager]:
    manager = CacheManager(Settings(cache_dir=Path(directory) / "caches", **changes))
    await manager.open()
    try:
        yield manager
    finally:
        await manager.aclose()


# -- peers ----------------------------------------------------------------------------------------


def optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"{name} is not installed and is left out", file=sys.stderr)
        return None


def load_steadytext(sdist: Path | None) -> Any:
    """SteadyText's SQLite cache, without importing its models."""
    if sdist is None:
        return None
    utils: Any = types.ModuleType("utils")
    utils.logger = logging.getLogger("steadytext")
    utils.get_cache_dir = lambda: Path(tempfile.gettempdir())
    sys.modules["utils"] = utils
    sys.path.insert(0, str(sdist / "steadytext"))
    return importlib.import_module("sqlite_cache_backend").SQLiteDiskBackedFrecencyCache


async def async_per_call_us(call: Callable[[], Awaitable[object]], calls: int) -> float:
    start_s = time.perf_counter()
    for _ in range(calls):
        await call()
    return (time.perf_counter() - start_s) / calls * 1e6


async def rounds_of(runs: dict[str, Callable[[], Awaitable[float]]], rounds: int) -> Figures:
    results: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            results[name].append(await run())
    return {name: (float(np.median(found)), min(found)) for name, found in results.items()}


def show(title: str, unit: str, figures: Figures, ours: str) -> None:
    base = figures[ours][1]
    rows = [
        (name, f"{median:,.2f} ({least:,.2f})", f"{least / base:.2f}")
        for name, (median, least) in sorted(figures.items(), key=lambda item: item[1][1])
    ]
    table(title, ["", f"{unit}, median (least)", "of the least, ours = 1"], rows)


# -- warm hits ------------------------------------------------------------------------------------


class Front:
    """The session's way to a warm hit, and nothing else of it."""

    def __init__(self, cache: Cache[Completion]) -> None:
        self._recall = cache.recall

    async def generate(
        self, prompt: str, *, model: str | None = None, cache: str = "use", **options: Any
    ) -> str:
        alias = (prompt, model, *options, *options.values(), *map(type, options.values()))
        answer = self._recall(alias)
        assert answer is not None
        return answer.text


async def warm(rounds: int, steadytext: Any) -> None:
    calls = 20_000
    answer = completion()
    prompt = "Write a haiku about caching"
    with tempfile.TemporaryDirectory() as directory:
        async with opened(directory) as manager:
            front = Front(manager.generation)
            alias = (prompt, None, *ARGUMENTS, *ARGUMENTS.values(), *map(type, ARGUMENTS.values()))
            await manager.generation.put(key_of(0), answer, alias=alias)
            recall = manager.generation.recall
            runs: dict[str, Callable[[], Awaitable[float]]] = {}

            async def our_recall() -> float:
                await manager.generation.get(key_of(0))  # awake
                start_s = time.perf_counter()
                for _ in range(calls):
                    recall(alias)
                return (time.perf_counter() - start_s) / calls * 1e6

            async def our_call() -> float:
                await manager.generation.get(key_of(0))
                return await async_per_call_us(lambda: front.generate(prompt, **ARGUMENTS), calls)

            runs["asteady, Cache.recall"] = our_recall
            runs["asteady, as a session does"] = our_call
            if async_lru := optional("async_lru"):

                @async_lru.alru_cache(maxsize=CAPACITY)  # type: ignore[untyped-decorator]
                async def cached_lru(prompt: str, **options: Any) -> Completion:
                    return answer

                runs["async-lru"] = partial(
                    async_per_call_us, lambda: cached_lru(prompt, **ARGUMENTS), calls
                )
            if theine := optional("theine"):

                @theine.Memoize(CAPACITY, None)  # type: ignore[untyped-decorator]
                async def cached_theine(prompt: str, **options: Any) -> Completion:
                    return answer

                runs["theine"] = partial(
                    async_per_call_us, lambda: cached_theine(prompt, **ARGUMENTS), calls
                )
            if aiocache := optional("aiocache"):

                @aiocache.cached()  # type: ignore[untyped-decorator]
                async def cached_aiocache(prompt: str, **options: Any) -> Completion:
                    return answer

                runs["aiocache"] = partial(
                    async_per_call_us, lambda: cached_aiocache(prompt, **ARGUMENTS), calls // 10
                )
            if cashews := optional("cashews"):
                memory = cashews.Cache()
                memory.setup("mem://")

                @memory(ttl="1h")  # type: ignore[untyped-decorator]
                async def cached_cashews(
                    prompt: str, seed: int, max_new_tokens: int, temperature: float, stop: Any
                ) -> Completion:
                    return answer

                runs["cashews"] = partial(
                    async_per_call_us, lambda: cached_cashews(prompt, **ARGUMENTS), calls // 10
                )
            if diskcache := optional("diskcache"):
                disk = diskcache.Cache(f"{directory}/diskcache")
                disk[alias] = answer.text

                async def disk_get() -> object:
                    return disk[alias]

                runs["diskcache (blocks)"] = partial(async_per_call_us, disk_get, calls // 10)
                runs["diskcache in a thread"] = partial(
                    async_per_call_us, lambda: asyncio.to_thread(disk.get, alias), calls // 20
                )
            if steadytext:
                old = steadytext(CAPACITY, "warm", 50.0, Path(directory))
                old.set(repr(alias), answer.text)

                async def steady_get() -> object:
                    return old.get(repr(alias))

                runs["SteadyText (blocks)"] = partial(async_per_call_us, steady_get, calls // 20)
            show("A warm hit", "us", await rounds_of(runs, rounds), "asteady, as a session does")


# -- hits on disk ---------------------------------------------------------------------------------


async def disk(rounds: int, steadytext: Any) -> None:
    calls = 300
    with tempfile.TemporaryDirectory() as directory:
        async with opened(directory) as manager:
            filled: list[tuple[Cache[Any], Any]] = [
                (manager.generation, completion()),
                (manager.embedding, embedding()),
            ]
            for cache, answer in filled:
                for number in range(200):
                    await cache.put(key_of(number), answer)
            numbers = iter(range(10**9))

            async def get(cache: Cache[Any]) -> object:
                found = await cache.get(key_of(next(numbers) % 200))
                assert found is not None
                return found

            async def cold(cache: Cache[Any]) -> float:
                total_s = 0.0
                for _ in range(calls):
                    cache._memory.clear()
                    start_s = time.perf_counter()
                    await get(cache)
                    total_s += time.perf_counter() - start_s
                return total_s / calls * 1e6

            path = Path(directory) / "caches" / "generation_cache.db"
            async with aiosqlite.connect(path) as raw:
                sql = "SELECT text FROM entry JOIN answer USING (slot) WHERE key = ?"

                async def one_hop() -> object:
                    return await raw.execute_fetchall(sql, (key_of(7),))

                async def plain() -> object:
                    cursor = await raw.execute(sql, (key_of(7),))
                    return await cursor.fetchone()

                runs: dict[str, Callable[[], Awaitable[float]]] = {
                    "one raw hop: the same select by aiosqlite": partial(
                        async_per_call_us, one_hop, calls
                    ),
                    "asteady, a completion": partial(cold, manager.generation),
                    "asteady, an embedding": partial(cold, manager.embedding),
                    "aiosqlite, execute and fetchone": partial(async_per_call_us, plain, calls),
                }
                if diskcache := optional("diskcache"):
                    store = diskcache.Cache(f"{directory}/diskcache")
                    store["key"] = TEXT
                    runs["diskcache (blocks)"] = partial(
                        async_per_call_us, lambda: done(store.get("key")), calls
                    )
                    runs["diskcache in a thread"] = partial(
                        async_per_call_us, lambda: asyncio.to_thread(store.get, "key"), calls
                    )
                if steadytext:
                    old = steadytext(CAPACITY, "disk", 50.0, Path(directory))
                    old.set("key", TEXT)
                    runs["SteadyText (blocks)"] = partial(
                        async_per_call_us, lambda: done(old.get("key")), calls
                    )
                figures = await rounds_of(runs, rounds)
    show("A hit on disk, memory cold", "us", figures, "one raw hop: the same select by aiosqlite")


async def done(value: object) -> object:
    return value


# -- puts -----------------------------------------------------------------------------------------


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


# -- mixed ----------------------------------------------------------------------------------------


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
                manager.embedding._memory.clear()
                for name, (get, set_) in contenders.items():
                    found[name].append(await run(get, set_))
            for name, figures in found.items():
                rows.append([name, *(f"{value:,.1f}" for value in np.median(figures, axis=0))])
    table(
        "1,000 tasks at once, 8 look-ups and 2 puts each",
        ["", "all done, ms", "stall of the loop, p99.9, ms", "longest, ms"],
        rows,
    )


# -- size -----------------------------------------------------------------------------------------


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


PARTS = {"warm": warm, "disk": disk, "put": put, "mixed": mixed, "size": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", choices=list(PARTS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steadytext", type=Path, help="SteadyText's unpacked sdist")
    arguments = parser.parse_args()
    steadytext = load_steadytext(arguments.steadytext)
    for name in arguments.part or PARTS:
        asyncio.run(PARTS[name](arguments.rounds, steadytext))


if __name__ == "__main__":
    main()
