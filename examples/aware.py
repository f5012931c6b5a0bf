"""Answer at once with a cached fallback, and compute the primary prompt in the background."""

import asyncio

import asteady
from asteady.operate import CacheAwareGenerator

PRIMARY = "Explain how a frecency cache weighs frequency against recency"
FALLBACK = "Explain caching"


async def main() -> None:
    async with asteady.Session() as session:
        aware = CacheAwareGenerator(session)
        await session.generate(FALLBACK, max_new_tokens=30)
        for _ in range(2):
            text, used_fallback = await aware.generate_with_fallback(
                PRIMARY, FALLBACK, background=True, max_new_tokens=30
            )
            print("fallback:" if used_fallback else "primary:", text, "\n")
            await aware.wait_background()

        _, stats = await aware.batch_generate_optimized(
            ["Explain recursion", PRIMARY, FALLBACK, "Explain recursion"], max_new_tokens=30
        )
        print(stats)


asyncio.run(main())
