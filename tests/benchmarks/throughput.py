"""Generation throughput: ours, `Llama` behind a lock, and a bare batched loop. See `engine`."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import llama_cpp

from asteady._requests import Completion, GenerateRequest
from asteady._settings import default_workers
from asteady.engine._llama import LlamaEngine
from asteady.engine._models import ModelFile, resolve_model
from asteady.engine._pool import Pool
from asteady.engine._setup import EngineOptions, Setup
from tests.engine.driving import digest, together
from tests.gguf_files import write_llama

LARGE = {
    "Q4_0, 395 MB": {"weights": "Q4_0", "layers": 24},
    "Q8_0, 425 MB": {"weights": "Q8_0", "layers": 12},
}
CONCURRENCY = (1, 2, 4, 8, 16)


def find(reference: str, folder: Path, kind: Any = "generation") -> ModelFile:
    return resolve_model(reference, kind=kind, cache_dir=folder)


def large(name: str, folder: Path) -> ModelFile:
    path = folder / f"{name.split(',')[0]}.gguf"
    if not path.exists():
        write_llama(
            path,
            width=1536,
            heads=24,
            kv_heads=8,
            feed_forward=4096,
            vocabulary_size=32000,
            context=2048,
            **LARGE[name],  # type: ignore[arg-type]  # two of its keywords
        )
    return find(str(path), folder)


def prompt(number: int) -> str:
    return f"Question {number}: what does a cache remember?"


# A trained model would end its answers where it likes; every answer shall be equally long.
NO_END = dict.fromkeys(range(8), -100.0)


def request(number: int, tokens: int) -> GenerateRequest:
    return GenerateRequest.of(prompt(number), raw=True, max_new_tokens=tokens, logit_bias=NO_END)


def table(*rows: Sequence[object]) -> None:
    print("| " + " | ".join(map(str, rows[0])) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows[1:]:
        print("| " + " | ".join(map(str, row)) + " |")
    print(flush=True)


# Generation throughput.


@attrs.frozen
class Speed:
    """Tokens by the clock's seconds, and by those that this process had a core. Other programs on
    the machine slow the first, and change the second little."""

    per_s: float
    per_core_s: float


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def speed_since(began: tuple[float, float], tokens: int) -> Speed:
    now = clocks()
    return Speed(tokens / (now[0] - began[0]), tokens / (now[1] - began[1]))


async def measured(count: int, one: Callable[[int], Awaitable[int]]) -> Speed:
    """The speed of `count` calls at once, after one call to warm up."""
    await one(1000)
    began = clocks()
    return speed_since(began, sum(await asyncio.gather(*map(one, range(count)))))


async def ours(
    file: ModelFile, folder: Path, tokens: int, counts: Sequence[int]
) -> tuple[list[Speed], Setup]:
    engine = LlamaEngine.load(file, EngineOptions(), folder)
    alone = LlamaEngine.load(
        file, EngineOptions(), folder, Setup(width=1, repack=engine.setup.repack)
    )
    checked = [request(number, tokens) for number in range(4)]
    expected = {
        number: digest(answer)
        for number, one in enumerate(checked)
        for answer in together(alone, [one])
    }
    alone.close()
    pool = Pool(engine, default_workers(), 1000)

    async def one(number: int) -> int:
        answer = await pool.run(request(number, tokens))
        assert isinstance(answer, Completion)
        assert expected.get(number, digest(answer)) == digest(answer), "an answer changed"
        return answer.completion_tokens

    speeds = [await measured(count, one) for count in counts]
    setup = engine.setup
    await pool.aclose()
    return speeds, setup


async def locked_llama(
    file: ModelFile, tokens: int, counts: Sequence[int], threads: int | None
) -> list[Speed]:
    llama = llama_cpp.Llama(
        str(file.path), n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    lock = threading.Lock()

    def call(number: int) -> int:
        with lock:
            answer: Any = llama.create_completion(
                prompt(number), max_tokens=tokens, temperature=0.0, logit_bias=NO_END
            )
        return int(answer["usage"]["completion_tokens"])

    async def one(number: int) -> int:
        return await asyncio.to_thread(call, number)

    speeds = [await measured(count, one) for count in counts]
    llama.close()
    return speeds


def bare_loop(file: ModelFile, folder: Path, tokens: int, setup: Setup) -> Speed:
    """8 sequences per batch in each of as many threads as we use."""
    engine = LlamaEngine.load(file, EngineOptions(), folder, Setup(width=8, repack=setup.repack))
    counts: list[int] = []

    def loop() -> None:
        worker: Any = engine.open_worker()
        for number in range(8):
            worker.admit(engine.prepare(request(number, tokens)))
        # The prompts by the worker, the steps by hand: tokens in, logits sampled, nothing else.
        while any(not entry.decoding for entry in worker._slots.values()):
            worker.step()
        ready.wait()
        entries = list(worker._slots.values())
        batch, context = worker._step_batch, worker._context.native
        batch.native.n_tokens = len(entries)
        count = 0
        for _ in range(tokens):
            for place, entry in enumerate(entries):
                batch.tokens[place] = entry.token
                batch.positions[place] = entry.position
                batch.sequences[place] = worker._sequence_ids[entry.sequence]
                entry.position += 1
            assert llama_cpp.llama_decode(context, batch.native) == 0
            for place, entry in enumerate(entries):
                entry.token = llama_cpp.llama_sampler_sample(entry.sampler, context, place)
            count += len(entries)
        counts.append(count)
        worker.close()

    workers = default_workers()
    ready = threading.Barrier(workers + 1)
    threads = [threading.Thread(target=loop) for _ in range(workers)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = clocks()
    for thread in threads:
        thread.join()
    speed = speed_since(began, sum(counts))
    engine.close()
    return speed


def generate(folder: Path, tokens: int) -> None:
    files = {"built-in": find("builtin", folder)}
    files.update({name: large(name, folder) for name in LARGE})
    for name, file in files.items():
        length = tokens * 4 if name == "built-in" else tokens
        speeds, setup = asyncio.run(ours(file, folder, length, CONCURRENCY))
        peer = asyncio.run(locked_llama(file, length, CONCURRENCY, None))
        peer_2 = asyncio.run(locked_llama(file, length, (1, 8), os.cpu_count()))
        limit = bare_loop(file, folder, length, setup)
        print(
            f"**{name}**, width {setup.width}, {'repacked' if setup.repack else 'plain'} weights, "
            f"{length} tokens per answer; tokens/s, and tokens per second of a core in brackets. "
            f"`Llama` with a thread per core: {shown(peer_2[0])} at 1, {shown(peer_2[1])} at 8. "
            f"Bare loop, 8 per batch and worker: {shown(limit)}.\n"
        )
        table(
            ("concurrency", *CONCURRENCY),
            ("asteady", *map(shown, speeds)),
            ("`Llama` behind a lock", *map(shown, peer)),
            ("ratio", *(ratio(a, b) for a, b in zip(speeds, peer, strict=True))),
            ("share of the bare loop", *(ratio(speed, limit) for speed in speeds)),
        )


def shown(speed: Speed) -> str:
    return f"{speed.per_s:.0f} ({speed.per_core_s:.0f})"


def ratio(one: Speed, other: Speed) -> str:
    return f"{one.per_s / other.per_s:.2f} ({one.per_core_s / other.per_core_s:.2f})"


# With one core taken by another process.


def _spin() -> None:
    while True:
        pass


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def busy(folder: Path, tokens: int) -> None:
    rows: list[Sequence[object]] = [("at concurrency 8", "as it is", "one core more busy", "kept")]
    file = large("Q4_0, 395 MB", folder)
    measures: dict[str, Callable[[], list[Speed]]] = {
        "asteady": lambda: asyncio.run(ours(file, folder, tokens, (8,)))[0],
        "`Llama`, default": lambda: asyncio.run(locked_llama(file, tokens, (8,), None)),
        "`Llama`, a thread per core": lambda: asyncio.run(
            locked_llama(file, tokens // 2, (8,), os.cpu_count())
        ),
    }
    for name, measure in measures.items():
        (idle,) = measure()
        with busy_core():
            (taken,) = measure()
        rows.append((name, shown(idle), shown(taken), f"{taken.per_s / idle.per_s:.0%}"))
    table(*rows)
