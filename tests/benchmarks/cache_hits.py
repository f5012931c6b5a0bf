"""Hits of the cache, in memory and on disk, beside those of its peers."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite

from asteady._base.requests import Completion
from asteady._cache.cache import Cache
from asteady._session.pipeline import alias_of
from asteady._session.session import Session
from asteady.testing import FakeEngine
from tests.benchmarks.cache_peers import (
    CAPACITY,
    TEXT,
    async_per_call_us,
    completion,
    done,
    embedding,
    key_of,
    opened,
    optional,
    rounds_of,
    show,
)

ARGUMENTS: dict[str, Any] = {
    "seed": 42,
    "max_new_tokens": 100,
    "temperature": 0.7,
    "stop": ("\n\n",),
}


async def warm(rounds: int, steadytext: Any) -> None:
    calls = 20_000
    answer = completion()
    prompt = "Write a haiku about caching"
    with tempfile.TemporaryDirectory() as directory:
        async with Session(engine=FakeEngine(), cache_dir=Path(directory) / "caches") as session:
            await session.generate(prompt, **ARGUMENTS)
            chat = session.prefix("Be brief.")
            await chat.generate(prompt, **ARGUMENTS)
            emails = session.namespace("emails")
            await emails.generate(prompt, **ARGUMENTS)
            alias = alias_of(prompt, None, ARGUMENTS)
            runs: dict[str, Callable[[], Awaitable[float]]] = {}
            for name, caller in (
                ("asteady, a session", session),
                ("asteady, a namespace", emails),
                ("asteady, a prefix", chat),
            ):
                runs[name] = partial(
                    async_per_call_us, partial(caller.generate, prompt, **ARGUMENTS), calls
                )
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
            show("A warm hit", "us", await rounds_of(runs, rounds), "asteady, a session")


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
                    cache.memory.clear()
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
