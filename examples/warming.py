"""Warm the cache from a file with priorities; a second run finds everything cached."""

import asyncio
import json
import tempfile
from pathlib import Path

import asteady
from asteady.operate import WarmProgress

PROMPTS = [
    {"prompt": "Create a validation response", "priority": "high"},
    {"prompt": "Generate test data", "seeds": [42, 100]},
    {"prompt": "Explain recursion", "priority": "low"},
    {"prompt": "", "priority": "low"},
]


def show(progress: WarmProgress) -> None:
    print(f"{progress.done}/{progress.total} {progress.outcome}: {progress.prompt}")


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "prompts.jsonl"
        file.write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS), "utf-8")
        async with asteady.Session() as session:
            for _ in range(2):
                report = await session.warm(
                    file, budget_s=60.0, max_new_tokens=10, on_progress=show
                )
                print(report)
            print("not warmed:", *report.failed, sep="\n  ")


asyncio.run(main())
