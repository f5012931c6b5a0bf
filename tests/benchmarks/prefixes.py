"""Measures the time to the first token behind a long system prompt, with and without `prefix`.

    python -m tests.benchmarks.prefixes [--model builtin] [--rules 84] [--rounds 9]

The answers are computed anew each time (``cache="bypass"``), by one worker, for questions that
differ. Quote ratios of one run only.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
import time

from asteady import Prefix, Session
from tests.benchmarks.harness import in_turns, table


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="builtin")
    parser.add_argument(
        "--rules", type=int, default=84, help="the prompt's length; 84: 1,500 tokens"
    )
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(arguments.model, arguments.rules, arguments.rounds, folder))


async def measure(model: str, rules: int, rounds: int, folder: str) -> None:
    system = " ".join(
        f"Rule {number}: be kind to queues, and to caches." for number in range(rules)
    )
    loop = asyncio.get_running_loop()
    numbers = itertools.count()
    async with Session(generation_model=model, workers=1, cache_dir=folder) as session:
        await session.load("generation")

        async def first_token_s(prefix: Prefix | None) -> float:
            question = f"Question {next(numbers)}: what is a cache?"
            messages = [
                {"role": "system", "content": system},
                {"role": "user", "content": question},
            ]
            began = time.perf_counter()
            if prefix is None:
                stream = session.stream(messages=messages, cache="bypass", max_new_tokens=4)
            else:
                stream = prefix.stream(question, cache="bypass", max_new_tokens=4)
            async with stream as chunks:
                async for _ in chunks:
                    took = time.perf_counter() - began
                    break
            return took

        def run(prefix: Prefix | None) -> float:
            return asyncio.run_coroutine_threadsafe(first_token_s(prefix), loop).result()

        prefix = session.prefix(system)
        answer = await prefix.complete("Hi", cache="bypass", max_new_tokens=1)
        found = await asyncio.to_thread(
            in_turns, {"without": lambda: run(None), "with": lambda: run(prefix)}, rounds
        )
        told = session.statistics().prefixes[f"generation:{model}"]
        rows = [
            (name, f"{median * 1e3:.0f}", f"{least * 1e3:.0f}")
            for name, (median, least) in found.items()
        ]
        median, least = (found["without"][n] / found["with"][n] for n in (0, 1))
        table(
            f"{model}: {answer.prompt_tokens} tokens, of which {told.reused_tokens // told.reused}"
            f" reused, in {told.size_bytes / 2**20:.1f} MB",
            ["prefix declared", "first token after, ms, median", "least"],
            [*rows, ("ratio", f"{median:.1f}", f"{least:.1f}")],
        )


if __name__ == "__main__":
    main()
