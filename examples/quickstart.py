"""Generate twice: the second answer comes from the cache, and is the same byte for byte."""

import asyncio
import time

import asteady


async def main() -> None:
    async with asteady.Session() as session:
        for _ in range(2):
            began = time.perf_counter()
            answer = await session.complete("Write a haiku about caching", seed=42)
            took_ms = (time.perf_counter() - began) * 1000
            print(answer.text)
            print(f"-- {took_ms:.1f} ms, {'from the cache' if answer.cached else 'computed'}\n")


asyncio.run(main())
