"""Measures the engine and prints what docs/performance.md quotes, as Markdown.

    python -m tests.benchmarks.engine [--part NAME ...] [--tokens N] [--folder DIR]

Parts: overhead, generate, busy, embed, memory, stalls, cold. Quote ratios of one run only: other
programs on the machine, and the clock of its processors, change every figure.

The peers are what people do today, llama-cpp-python's `Llama` behind one lock in a thread, and the
limit, the same llama.cpp decoding 8 sequences per batch in a bare loop.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp

from asteady._base.requests import EmbedRequest, GenerateRequest
from asteady._base.settings import default_workers
from asteady._engine.loader import load_engine
from asteady._engine.plan import EngineOptions, Setup
from asteady._engine.pool import Pool
from tests.benchmarks.throughput import (
    CONCURRENCY,
    busy,
    find,
    generate,
    large,
    prompt,
    request,
    table,
)

# Python between two decodes.


def overhead(folder: Path, tokens: int) -> None:
    engine = load_engine(find("builtin", folder), EngineOptions(), folder, Setup(width=8))
    spent = 0.0
    original = llama_cpp.llama_decode

    def timed(*arguments: Any) -> int:
        nonlocal spent
        began = time.thread_time()
        code: int = original(*arguments)
        spent += time.thread_time() - began
        return code

    rows: list[Sequence[object]] = [("µs per token and sequence", *(f"width {w}" for w in (1, 8)))]
    for name, options in {
        "greedy": {},
        "sampled, top_k 40, top_p 0.95": {"temperature": 1.0, "top_k": 40, "top_p": 0.95},
        "with 2 stop strings": {"stop": ["\n\n\n\n", "never"]},
        "with logprobs=5": {"logprobs": 5},
    }.items():
        cells = []
        for width in (1, 8):
            worker: Any = engine.open_worker()
            for number in range(width):
                worker.admit(
                    engine.prepare(
                        GenerateRequest.of(prompt(number), max_new_tokens=300, **options)  # type: ignore[arg-type]
                    )
                )
            while any(not entry.decoding for entry in worker._slots.values()):
                worker.step()
            llama_cpp.llama_decode = timed
            spent, count, began = 0.0, 0, time.thread_time()
            for _ in range(200):
                count += len(worker._slots)
                worker.step()
            total = time.thread_time() - began
            llama_cpp.llama_decode = original
            worker.close()
            cells.append(f"{(total - spent) / max(1, count) * 1e6:.0f}")
        rows.append((name, *cells))
    engine.close()
    table(*rows)


# Embedding.


def embed(folder: Path, tokens: int) -> None:
    file = find("builtin", folder, "embedding")
    texts = [f"{number}: the cache remembers what was asked of it before" for number in range(400)]
    peers = {
        "`Llama.embed`, default": llama_cpp.Llama(str(file.path), embedding=True, verbose=False),
        "`Llama.embed`, one thread": llama_cpp.Llama(
            str(file.path), embedding=True, verbose=False, n_threads=1, n_threads_batch=1
        ),
    }

    def peer(llama: llama_cpp.Llama) -> float:
        llama.embed(texts[0])
        began = time.perf_counter()
        for text in texts[:100]:
            llama.embed(text, normalize=True)
        return 100 / (time.perf_counter() - began)

    async def session() -> float:
        pool = Pool(load_engine(file, EngineOptions(), folder), default_workers(), 1000)
        await asyncio.gather(*[pool.run(EmbedRequest.of(text)) for text in texts[:4]])
        began = time.perf_counter()
        await asyncio.gather(*[pool.run(EmbedRequest.of(text)) for text in texts])
        speed = len(texts) / (time.perf_counter() - began)
        await pool.aclose()
        return speed

    # Turn about, so that what else runs meets all alike.
    runs = [[asyncio.run(session()), *(peer(llama) for llama in peers.values())] for _ in range(5)]
    middle = [sorted(column)[2] for column in zip(*runs, strict=True)]
    for llama in peers.values():
        llama.close()
    table(
        ("median of 5 runs", "asteady", *peers),
        ("texts/s", *(f"{speed:.0f}" for speed in middle)),
        ("asteady is faster by", "", *(f"{middle[0] / speed:.1f}" for speed in middle[1:])),
    )


# Memory, in processes of their own.

MEMORY = """
import asyncio, sys
from pathlib import Path
from asteady._engine.pool import Pool
from tests.benchmarks.engine import LlamaEngine, EngineOptions, Setup, find, request
folder, workers = Path(sys.argv[1]), int(sys.argv[3])
engine = load_engine(find(sys.argv[2], folder), EngineOptions(context_tokens=512), folder,
                          Setup())
async def main():
    pool = Pool(engine, workers, 100)
    await asyncio.gather(*[pool.run(request(n, 4)) for n in range(workers * 3)])
    status = Path("/proc/self/status").read_text()
    print([int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")][0])
    await pool.aclose()
asyncio.run(main())
"""


def python(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return done.stdout.strip()


def memory(folder: Path, tokens: int) -> None:
    file = large("Q8_0, 425 MB", folder)
    rows: list[Sequence[object]] = [("workers", "resident memory, MB")]
    for workers in (1, 2, 4):
        kilobytes = int(python(MEMORY, folder, file.path, workers))
        rows.append((workers, f"{kilobytes / 1000:.0f}"))
    print(f"Weights: {file.size_bytes / 1e6:.0f} MB, contexts of 512 positions.\n")
    table(*rows)


# The event loop, while every worker computes.


def stalls(folder: Path, tokens: int) -> None:
    file = large("Q4_0, 395 MB", folder)

    async def main() -> list[float]:
        pool = Pool(load_engine(file, EngineOptions(), folder), default_workers(), 100)
        tasks = [
            asyncio.ensure_future(pool.run(request(number, 4 * tokens))) for number in range(8)
        ]
        seen = []
        while not all(task.done() for task in tasks):
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            seen.append(time.perf_counter() - before - 0.001)
        await asyncio.gather(*tasks)
        await pool.aclose()
        return sorted(seen)

    seen = asyncio.run(main())
    table(
        ("delay of a 1 ms ticker, ms", "median", "99 %", "99.9 %", "longest", "ticks"),
        (
            "8 answers, all cores",
            *(f"{seen[int(len(seen) * q)] * 1e3:.2f}" for q in (0.5, 0.99, 0.999)),
            f"{seen[-1] * 1e3:.1f}",
            len(seen),
        ),
    )


# From a cold process.

COLD = """
import time
began = time.perf_counter()
import asyncio, sys, asteady
async def main():
    async with asteady.Session(cache_dir=sys.argv[1]) as session:
        async with session.stream(sys.argv[2], max_new_tokens=8) as stream:
            async for chunk in stream:
                print(time.perf_counter() - began)
                break
asyncio.run(main())
"""


def cold(folder: Path, tokens: int) -> None:
    with tempfile.TemporaryDirectory() as fresh:
        first = float(python(COLD, fresh, "first"))
        known = min(float(python(COLD, fresh, f"other {number}")) for number in range(3))
        cached = min(float(python(COLD, fresh, "first")) for _ in range(3))
    table(
        ("seconds from `import asteady` to the first chunk", ""),
        ("first time ever: digest, probe, load", f"{first:.2f}"),
        ("later process, another prompt", f"{known:.2f}"),
        ("later process, cached answer", f"{cached:.2f}"),
    )


PARTS: dict[str, Callable[[Path, int], None]] = {
    part.__name__: part for part in (overhead, generate, busy, embed, memory, stalls, cold)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--folder", type=Path, help="where the large models are kept")
    parser.add_argument("--concurrency", nargs="*", type=int, default=CONCURRENCY)
    arguments = parser.parse_args()
    PARTS["generate"] = functools.partial(generate, counts=arguments.concurrency)
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        for name in arguments.part:
            print(f"#### {name}\n", flush=True)
            PARTS[name](folder, arguments.tokens)


if __name__ == "__main__":
    main()
