"""Print the outcome of each operation, also of concurrent ones."""

import asyncio

import asteady
from asteady.operate import CacheMonitor


async def main() -> None:
    async with asteady.Session() as session:
        monitor = CacheMonitor(session)

        async def ask(prompt: str) -> None:
            op = await monitor.run(session.generate, prompt, max_new_tokens=20)
            print(f"{op.outcome:>9}  {op.duration_s * 1000:8.2f} ms  {prompt}")

        await ask("Write a haiku about caching")
        async with asyncio.TaskGroup() as group:
            for prompt in ("Write a haiku about caching", "Explain recursion", "Explain recursion"):
                group.create_task(ask(prompt))

        await monitor.print_summary()


asyncio.run(main())
