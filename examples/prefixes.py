"""Compute a long system prompt once, and answer many questions behind it, with the same bits."""

import asyncio

import asteady

SYSTEM = " ".join(f"Rule {number}: be kind to queues, and to caches." for number in range(80))
QUESTIONS = ["What is a cache?", "What is a queue?", "Name one rule.", "Who are you?"]


async def main() -> None:
    async with asteady.Session() as session:
        chat = session.prefix(SYSTEM)
        print(await chat.generate("Say hello", max_new_tokens=8))
        answers = await asyncio.gather(
            *(chat.generate(question, max_new_tokens=8) for question in QUESTIONS)
        )
        print(answers)

        told = session.statistics().prefixes["generation:builtin"]
        print(f"{told.reused} prompts began with a state, {told.reused_tokens} tokens saved")

        # The same request as without the prefix: the answer is there already.
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": QUESTIONS[0]},
        ]
        assert await session.is_cached(messages=messages, max_new_tokens=8)
        again = await session.complete(messages=messages, max_new_tokens=8, cache="bypass")
        assert again.text == answers[0]


asyncio.run(main())
