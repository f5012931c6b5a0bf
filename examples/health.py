"""Check the cache's health in the background while the program works."""

import asyncio

import asteady
from asteady.operate import CacheHealth, ProductionCacheMonitor


def report(health: CacheHealth) -> None:
    print("healthy" if health.healthy else "not healthy", *health.warnings, sep="\n  - ")


async def main() -> None:
    async with asteady.Session() as session, asyncio.TaskGroup() as group:
        monitor = ProductionCacheMonitor(session, min_lookups=5)
        watching = group.create_task(monitor.watch(60.0, report))

        for topic in ("caches", "queues", "trees", "graphs", "heaps"):
            await session.generate(f"Tell me about {topic}", max_new_tokens=5)

        report(await monitor.check_cache_health(alert_threshold=50.0))
        watching.cancel()


asyncio.run(main())
