"""Learn from the accesses to a cache how large it should be."""

import asyncio
import random

import asteady
from asteady.operate import CacheOptimizer


async def main() -> None:
    async with asteady.Session(generation_cache_capacity=4) as session:
        order = random.Random(42)
        async with CacheOptimizer(session) as optimizer:
            for _ in range(120):
                number = min(int(order.expovariate(0.2)), 20)
                await session.generate(f"Describe item {number}", max_new_tokens=3)

        print(optimizer.recommend(target=0.95))
        print(optimizer.recommend(target=0.95, by="hits"))
        print("\nTop prompts to keep cached:")
        for use in optimizer.get_cache_priorities(5):
            print(f"  {use.saves_s:.3f} s: {use.prompt} (seed {use.seed}), used {use.count} times")


asyncio.run(main())
