"""Trace calls, analyse them, and explain why an entry is kept."""

import asyncio
import tempfile
from pathlib import Path

import asteady
from asteady.operate import CacheInspector

CASES = [
    ("Write a hello world program", 42),
    ("Write a hello world program", 42),
    ("Explain recursion", 42),
    ("Write a hello world program", 100),
    ("Explain recursion", 42),
]


async def main() -> None:
    async with asteady.Session() as session:
        inspector = CacheInspector(session)
        for prompt, seed in CASES:
            trace = await inspector.trace_generation(prompt, seed=seed, max_new_tokens=12)
            print(f"{trace.outcome:>9} {trace.duration_s:8.4f} s  {prompt} (seed {seed})")
        print(inspector.analyze())

        with tempfile.TemporaryDirectory() as directory:
            path = await inspector.export(Path(directory) / "cache_trace.json")
            print(f"exported {path.stat().st_size} bytes")

        for entry in await session.cache.generation.entries(1, "touches"):
            print(await inspector.explain(entry.key))


asyncio.run(main())
