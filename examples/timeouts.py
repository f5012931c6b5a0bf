"""Time limits and cancellation: the computation stops when nobody waits for it any more."""

import asyncio

import asteady


async def main() -> None:
    async with asteady.Session() as session:
        await session.load("generation")
        try:
            await asyncio.wait_for(
                session.generate("Tell me a very long story", max_new_tokens=2000, temperature=3.0),
                timeout=0.05,
            )
        except TimeoutError:
            print("too slow; its worker is free again")
        print(await session.generate("Say hello"))


asyncio.run(main())
