"""Time a prompt cold and warm, then compare other cache sizes by replay."""

import asyncio
import random

import asteady
from asteady.operate import CacheBenchmark


async def main() -> None:
    async with asteady.Session() as session:
        benchmark = CacheBenchmark(session)
        timing = await benchmark.benchmark_single_prompt(
            "Write a comprehensive guide to Python decorators", iterations=20, max_new_tokens=40
        )
        print(f"Cold cache: {timing.cold_time_s:.3f} s")
        print(f"Warm cache: {timing.warm_avg_s:.6f} s ± {timing.warm_std_s:.6f} s")
        print(f"Speed-up: {timing.speedup:,.0f}x")

        order = random.Random(42)
        with benchmark.recording():
            for _ in range(100):
                number = min(int(order.expovariate(0.3)), 15)
                await session.generate(f"Describe item {number}", max_new_tokens=3)
        for size, result in (await benchmark.benchmark_cache_sizes(None, [1, 2, 4, 8, 16])).items():
            print(f"{size:3} entries: {result.hit_rate:5.1f} % hits")
        print("enough:", await benchmark.find_optimal_cache_size())


asyncio.run(main())
