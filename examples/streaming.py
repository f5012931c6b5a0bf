"""Read an answer while it is computed; a second reader joins late and misses nothing."""

import asyncio

import asteady


async def read(session: asteady.Session, name: str) -> str:
    text = ""
    async with session.stream("Write a short poem about the sea") as stream:
        async for chunk in stream:
            text += chunk
    print(f"{name} read {len(text)} characters in {len(stream.answer.chunks)} chunks")
    return text


async def main() -> None:
    async with asteady.Session() as session, asyncio.TaskGroup() as group:
        first = group.create_task(read(session, "first"))
        await asyncio.sleep(0.01)
        second = group.create_task(read(session, "second"))
    assert first.result() == second.result()
    print(first.result())


asyncio.run(main())
