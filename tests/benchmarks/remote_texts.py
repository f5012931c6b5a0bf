"""Texts that are embedded by ``asteady serve``, one by one and as lists.

    python -m tests.benchmarks.remote_texts --rounds 11

Each round embeds 1,000 short texts that are new, at once, with each length of lists in turn: by a
new session in this process, which has no cache, and a server beside it with the built-in model.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from unittest.mock import patch

import asteady
from asteady._engine.remote import batches, engine
from tests.benchmarks.harness import table
from tests.benchmarks.server_load import Server, serving

TEXTS = 1000
LENGTHS = (1, 8, 32, 128)


async def seconds(server: Server, texts: list[str], length: int) -> tuple[float, float, float]:
    """How long all took, and the processor time of both processes."""
    reference = f"openai+http://127.0.0.1:{server.port}/v1#builtin"
    with (
        patch.object(batches, "MOST_TEXTS", length),
        patch.object(engine, "MOST_TEXTS", length),
        tempfile.TemporaryDirectory() as folder,
    ):
        async with asteady.Session(
            embedding_model=reference, cache_dir=folder, disable_cache=True
        ) as session:
            await session.embed(f"{texts[0]}, again")
            used_s, own_s, began_s = server.used_s(), time.process_time(), time.perf_counter()
            await asyncio.gather(*map(session.embed, texts))
            took_s = time.perf_counter() - began_s
            return took_s, time.process_time() - own_s, server.used_s() - used_s


async def main(rounds: int) -> None:
    found: dict[int, list[tuple[float, float, float]]] = {length: [] for length in LENGTHS}
    async with serving("builtin") as server:
        for number in range(rounds):
            for length in LENGTHS:
                texts = [f"short text {number} {length} {each}" for each in range(TEXTS)]
                found[length].append(await seconds(server, texts, length))
    one_by_one = [took_s for took_s, *_ in found[1]]
    rows = []
    for length in LENGTHS:
        took, own, used = ([times[at] for times in found[length]] for at in range(3))
        ratio = statistics.median(a / b for a, b in zip(one_by_one, took, strict=True))
        rows.append(
            [
                length,
                *(f"{statistics.median(times):.2f}" for times in (took, own, used)),
                f"{min(took):.2f}",
                f"{ratio:.2f}",
            ]
        )
    table(
        f"{TEXTS:,} short texts, embedded by asteady serve ({rounds} rounds)",
        ["texts a request", "s", "own CPU s", "server's CPU s", "least s", "times as fast"],
        rows,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    asyncio.run(main(parser.parse_args().rounds))
