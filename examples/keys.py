"""What makes a new key, and what does not."""

import asyncio

import asteady


async def main() -> None:
    async with asteady.Session() as session:
        await session.generate("Write a haiku", max_new_tokens=10)
        for told, cached in {
            "the same": await session.is_cached("Write a haiku", max_new_tokens=10),
            "a default, spelled out": await session.is_cached(
                "Write a haiku", max_new_tokens=10, seed=42, temperature=0
            ),
            "another seed": await session.is_cached("Write a haiku", max_new_tokens=10, seed=7),
            "another length": await session.is_cached("Write a haiku", max_new_tokens=11),
            "another space": await session.is_cached("Write a haiku ", max_new_tokens=10),
        }.items():
            print(f"{told:<25} {'cached' if cached else 'another key'}")
        print("in", session.cache.directory)


asyncio.run(main())
