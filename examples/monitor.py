"""Tell what became of each operation, also when several run at once."""

import asyncio

import asteady
from asteady.operate import CacheMonitor


async def main() -> None:
    async with asteady.Session() as session:
        monitor = CacheMonitor(session)

        async def ask(prompt: str) -> None:
            told = await monitor.run(session.generate, prompt, max_new_tokens=20)
            print(f"{told.outcome:>9}  {told.duration_s * 1000:8.2f} ms  {prompt}")

        await ask("Write a haiku about caching")
        async with asyncio.TaskGroup() as group:
            for prompt in ("Write a haiku about caching", "Explain recursion", "Explain recursion"):
                group.create_task(ask(prompt))

        await monitor.print_summary()


asyncio.run(main())
