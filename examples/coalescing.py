"""A hundred callers ask the same thing at the same time; it is computed once."""

import asyncio

import asteady


async def main() -> None:
    async with asteady.Session() as session:
        prompt = "Explain recursion in one sentence"
        answers = await asyncio.gather(*(session.generate(prompt) for _ in range(100)))
        print(answers[0])
        stats = (await session.cache.get_cache_stats())["generation"]
        print(
            f"{len(answers)} callers, {len(set(answers))} answer:",
            f"{stats['misses']} computed, {stats['coalesced']} waited for it,",
            f"{stats['hits']} from the cache",
        )


asyncio.run(main())
