"""Embed some texts and find the one nearest to a question."""

import asyncio

import asteady

TEXTS = [
    "Caches keep answers that are expensive to compute.",
    "The recipe needs two eggs and a cup of flour.",
    "A queue hands out work in the order it came.",
]


async def main() -> None:
    async with asteady.Session() as session:
        matrix = await session.embed(TEXTS)
        question = await session.embed("How do I remember costly results?")
        similarities = matrix @ question  # vectors have length 1, so this is the cosine
        for similarity, text in sorted(zip(similarities, TEXTS, strict=True), reverse=True):
            print(f"{similarity:5.2f}  {text}")


asyncio.run(main())
