"""Generation throughput: ours, `Llama` behind a lock, and a bare batched loop. See `engine`."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import llama_cpp

from asteady._base.requests import Completion, GenerateRequest
from asteady._base.settings import default_workers
from asteady._engine.loader import load_engine
from asteady._engine.models.resolve import ModelFile, resolve_model
from asteady._engine.plan import EngineOptions, Setup
from asteady._engine.pool import Pool
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
    # Short, as what is measured is decoding, and different from the first token on: `Llama` reuses
    # the part of a prompt that it shares with the one before, which makes answers depend on that.
    return f"{number:03d}?"


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


class Contestant(ABC):
    """Something that answers `request(number, tokens)`; `one` returns how many tokens it made."""

    @abstractmethod
    async def one(self, number: int) -> int: ...

    first = 0

    async def measured(self, count: int) -> Speed:
        """The speed of `count` calls at once, each with a prompt that was not asked before."""
        numbers = range(self.first, self.first + count)
        self.first += count
        began = clocks()
        return speed_since(began, sum(await asyncio.gather(*map(self.one, numbers))))

    @abstractmethod
    async def aclose(self) -> None: ...


class Ours(Contestant):
    """The pool, as a session sets it up. Its answers are compared with those computed alone."""

    def __init__(self, file: ModelFile, folder: Path, tokens: int) -> None:
        engine = load_engine(file, EngineOptions(), folder)
        self.setup = engine.setup
        self._tokens = tokens
        alone = load_engine(file, EngineOptions(), folder, attrs.evolve(engine.setup, width=1))
        self._expected = [digest(together(alone, [request(n, tokens)])[0]) for n in range(4)]
        alone.close()
        self._pool = Pool(engine, default_workers(), 1000)

    async def one(self, number: int) -> int:
        answer = await self._pool.run(request(number, self._tokens))
        assert isinstance(answer, Completion)
        if number < len(self._expected):
            assert digest(answer) == self._expected[number], "an answer changed"
        return answer.completion_tokens

    async def aclose(self) -> None:
        await self._pool.aclose()


class Locked(Contestant):
    """llama-cpp-python's `Llama` behind one lock in a thread."""

    def __init__(self, file: ModelFile, tokens: int, threads: int | None = None) -> None:
        self._tokens = tokens
        self._llama = llama_cpp.Llama(
            str(file.path), n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False
        )
        self._lock = threading.Lock()

    async def one(self, number: int) -> int:
        return await asyncio.to_thread(self._call, number)

    def _call(self, number: int) -> int:
        with self._lock:
            answer: Any = self._llama.create_completion(
                prompt(number), max_tokens=self._tokens, temperature=0.0, logit_bias=NO_END
            )
        return int(answer["usage"]["completion_tokens"])

    async def aclose(self) -> None:
        self._llama.close()


def best(speeds: Sequence[Speed]) -> Speed:
    """Other programs only ever slow a run, so the fastest says most."""
    return Speed(max(s.per_s for s in speeds), max(s.per_core_s for s in speeds))


def bare_loop(
    file: ModelFile, folder: Path, tokens: int, setup: Setup, contexts: int, threads: int
) -> Speed:
    """8 sequences per batch in each of so many contexts, each computed by so many threads."""
    engine = load_engine(
        file, EngineOptions(threads=threads), folder, Setup(width=8, repack=setup.repack)
    )
    counts: list[int] = []

    def loop() -> None:
        worker: Any = engine.open_worker()
        ready.wait()
        for number in range(8):
            worker.admit(engine.prepare(request(number, tokens)))
        # The prompts by the worker, the steps by hand: tokens in, logits sampled, nothing else.
        while any(not entry.decoding for entry in worker._slots.values()):
            worker.step()
        entries = list(worker._slots.values())
        batch, context = worker._step_batch, worker._context.native
        batch.native.n_tokens = len(entries)
        count = len(entries)
        for _ in range(tokens - 1):
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

    ready = threading.Barrier(contexts + 1)
    running = [threading.Thread(target=loop) for _ in range(contexts)]
    for thread in running:
        thread.start()
    ready.wait()
    began = clocks()
    for thread in running:
        thread.join()
    speed = speed_since(began, sum(counts))
    engine.close()
    return speed


async def compare(
    file: ModelFile, folder: Path, tokens: int, rounds: int, counts: Sequence[int]
) -> tuple[list[Speed], list[Speed], list[Speed], Setup]:
    """Ours, `Llama`, and the bare loop at each concurrency, the best of some rounds each.

    The bare loop is the limit for as many sequences as there are callers: up to 8, one batch of 8
    computed by all cores; beyond, a batch of 8 on each core.
    """
    ours, locked = Ours(file, folder, tokens), Locked(file, tokens)
    for contestant in (ours, locked):
        await contestant.measured(8)
    columns = []
    for count in counts:
        runs = [(await ours.measured(count), await locked.measured(count)) for _ in range(rounds)]
        columns.append(tuple(map(best, zip(*runs, strict=True))))
    await ours.aclose()
    await locked.aclose()
    cores = os.cpu_count() or 1
    limits = {}
    for few, contexts, threads in ((True, 1, cores), (False, cores, 1)):
        limits[few] = best(
            [
                await asyncio.to_thread(
                    bare_loop, file, folder, tokens, ours.setup, contexts, threads
                )
                for _ in range(rounds)
            ]
        )
    mine, theirs = zip(*columns, strict=True)
    return list(mine), list(theirs), [limits[count <= 8] for count in counts], ours.setup


def generate(folder: Path, tokens: int, counts: Sequence[int] = CONCURRENCY) -> None:
    rounds = 2
    files = {"built-in": find("builtin", folder)}
    files.update({name: large(name, folder) for name in LARGE})
    for name, file in files.items():
        length = tokens * 4 if name == "built-in" else tokens
        ours, locked, bare, setup = asyncio.run(compare(file, folder, length, rounds, counts))
        print(
            f"**{name}**, width {setup.width}, {'repacked' if setup.repack else 'plain'} weights, "
            f"{length} tokens per answer, best of {rounds}; tokens/s, and tokens per second of a "
            "core in brackets.\n"
        )
        table(
            ("concurrency", *counts),
            ("asteady", *map(shown, ours)),
            ("`Llama` behind a lock", *map(shown, locked)),
            ("ratio", *(ratio(a, b) for a, b in zip(ours, locked, strict=True))),
            ("bare loop, 8 per batch", *map(shown, bare)),
            ("share of the bare loop", *(ratio(a, b) for a, b in zip(ours, bare, strict=True))),
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
    rows: list[Sequence[object]] = [("at concurrency 8", "idle machine", "one core busy", "left")]
    file = large("Q4_0, 395 MB", folder)
    makers: dict[str, Callable[[], Contestant]] = {
        "asteady": lambda: Ours(file, folder, tokens),
        "`Llama`, default": lambda: Locked(file, tokens),
        "`Llama`, a thread per core": lambda: Locked(file, tokens, os.cpu_count()),
    }

    async def both(contestant: Contestant) -> tuple[Speed, Speed]:
        await contestant.measured(4)
        idle = await contestant.measured(8)
        with busy_core():
            taken = await contestant.measured(8)
        await contestant.aclose()
        return idle, taken

    for name, make in makers.items():
        idle, taken = asyncio.run(both(make()))
        rows.append((name, shown(idle), shown(taken), f"{taken.per_s / idle.per_s:.0%}"))
    table(*rows)
