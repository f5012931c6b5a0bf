"""Measures the engine and prints what docs/performance.md quotes, as Markdown.

    nox -s bench -- engine [--only FIGURE ...] [--model NAME ...] [--rounds N]

Everything is measured in turns with what it is compared with, and the ratios are medians of those
of each round. Quote ratios of one run only: other programs on the machine, and the clock of its
processors, change every figure.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import itertools
import json
import multiprocessing
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import llama_cpp

from asteady._base.requests import EmbedRequest, GenerateRequest
from asteady._base.settings import default_workers
from asteady._engine.api import Engine
from asteady._engine.cores import Cores
from asteady._engine.loader import load_engine, probe_report
from asteady._engine.machine import usable_cores
from asteady._engine.models.resolve import ModelFile
from asteady._engine.plan import EngineOptions, Setup
from asteady._engine.pool import Pool
from tests.benchmarks.harness import table
from tests.benchmarks.models import MODELS, UnavailableError, find, model_file
from tests.benchmarks.throughput import (
    Bare,
    BareModel,
    Contestant,
    Llama,
    Ours,
    Server,
    best_bare,
    request,
)
from tests.engine.driving import digest, together

OURS = "asteady"
_PROMPT_TOKENS = 1000
_HISTORY_TOKENS = 1500


@attrs.frozen(kw_only=True)
class Run:
    """What a figure is measured with."""

    model: str
    file: ModelFile
    folder: Path
    rounds: int
    tokens: int
    comparisons: int
    requests: Sequence[int]
    server: str | None
    cores: int = attrs.Factory(usable_cores)

    def title(self, text: str) -> str:
        return f"{self.model}: {text}"


# Prompts. Each is asked for once, and differs from all others from its beginning, as `Llama` and
# asteady reuse what a prompt shares with another.

_numbers = itertools.count(100)


def short_prompts(count: int) -> list[str]:
    return [f"{next(_numbers)}? " for _ in range(count)]


def long_text(engine: Any, tokens: int) -> str:
    """A text of about so many tokens."""
    number = next(_numbers)
    sentences = [f"{number} notes."]
    while True:
        made = len(sentences)
        sentences += [
            f"Note {each}: the cache of room {each * number % 97} was empty at {each % 24} o'clock."
            for each in range(made, made + 4)
        ]
        text = " ".join(sentences)
        if len(engine.vocab.tokenize(text, special=False)) >= tokens:
            return text


# In turns.


@attrs.frozen
class Found:
    """The median of what a run returned, and the median ratios of asteady's to it: of the values,
    and of the processor time that they took in this process and its children."""

    value: float
    ratio: float
    processor_ratio: float


def in_rounds(runs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Found]:
    """The order is reversed from round to round, so that none always follows the same one."""
    values: dict[str, list[float]] = {name: [] for name in runs}
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        names = list(runs)
        for name in reversed(names) if number % 2 else names:
            began = sum(os.times()[:4])
            values[name].append(runs[name]())
            spent[name].append(sum(os.times()[:4]) - began)

    def ratio(columns: Mapping[str, list[float]], name: str) -> float:
        pairs = zip(columns[OURS], columns[name], strict=True)
        return statistics.median(ours / max(1e-3, other) for ours, other in pairs)

    return {
        name: Found(statistics.median(column), ratio(values, name), ratio(spent, name))
        for name, column in values.items()
    }


def report(title: str, unit: str, found: Mapping[str, Found], digits: int = 1) -> None:
    # A server's processor time is not known here.
    rows = [
        (
            name,
            f"{each.value:.{digits}f}",
            *(
                ("", "")
                if name == OURS
                else (
                    f"{each.ratio:.2f}",
                    "" if "server" in name else f"{each.processor_ratio:.2f}",
                )
            ),
        )
        for name, each in found.items()
    ]
    table(title, ("", unit, "asteady's ratio to it", "of processor time"), rows)


def rates(
    contestants: Mapping[str, Contestant], run: Run, count: int, tokens: int
) -> dict[str, Found]:
    """Tokens per second of `count` answers at once; all contestants get the same prompts."""
    prompts = [short_prompts(count) for _ in range(run.rounds)]
    for contestant in contestants.values():
        contestant.answer(short_prompts(count), 4)

    def measured(contestant: Contestant) -> Callable[[], float]:
        left = iter(prompts)
        return lambda: count * tokens / contestant.seconds(next(left), tokens)

    return in_rounds({name: measured(each) for name, each in contestants.items()}, run.rounds)


@contextlib.contextmanager
def closing(contestants: Mapping[str, Contestant]) -> Iterator[None]:
    try:
        yield
    finally:
        for contestant in contestants.values():
            contestant.close()


def llamas(run: Run, context_tokens: int = 2048) -> dict[str, Contestant]:
    """`Llama` with each number of threads that may be its best."""
    counts = sorted({1, max(1, run.cores // 2), run.cores})
    return {
        f"`Llama`, threads={threads}": Llama(run.file.path, threads, context_tokens)
        for threads in counts
    }


def servers(run: Run, slots: int, context_tokens: int) -> dict[str, Contestant]:
    if run.server is None:
        return {}
    name = f"`llama-server -np {slots}`"
    return {name: Server(run.server, run.file.path, run.cores, slots, context_tokens)}


# From the start of a process to its first answer.

_FIRST = {
    OURS: """
import asyncio, sys, asteady
async def main():
    async with asteady.Session(cache_dir=sys.argv[1], generation_model=sys.argv[2]) as session:
        await session.complete(sys.argv[3], raw=True, max_new_tokens=int(sys.argv[4]))
asyncio.run(main())
""",
    "`Llama`": """
import sys, llama_cpp
llama = llama_cpp.Llama(sys.argv[2], n_threads=int(sys.argv[5]), verbose=False)
llama.create_completion(sys.argv[3], max_tokens=int(sys.argv[4]), temperature=0.0)
llama.close()
""",
}


def python(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return done.stdout.strip()


def first(run: Run) -> None:
    prompt, tokens = "The three things that a cache has to know are", 20

    def measured(code: str, cache: Path | None, threads: int = 0) -> float:
        with tempfile.TemporaryDirectory() as fresh:
            began = time.perf_counter()
            python(code, cache or fresh, run.file.path, prompt, tokens, threads)
            return time.perf_counter() - began

    peers = {
        f"`Llama`, threads={threads}": functools.partial(measured, _FIRST["`Llama`"], None, threads)
        for threads in sorted({max(1, run.cores // 2), run.cores})
    }
    found = in_rounds({OURS: lambda: measured(_FIRST[OURS], None), **peers}, run.rounds)
    report(run.title(f"process start to end, {tokens} tokens, nothing cached"), "s", found, 2)
    with tempfile.TemporaryDirectory() as kept:
        measured(_FIRST[OURS], Path(kept))
        cached = [measured(_FIRST[OURS], Path(kept)) for _ in range(run.rounds)]
    print(f"\nThe same answer from the cache in a new process: {statistics.median(cached):.2f} s")


# A lone request.


def lone(run: Run) -> None:
    tokens = 2 * run.tokens
    contestants = {OURS: Ours(run.file, run.folder), **llamas(run), **servers(run, 1, 2048)}
    with closing(contestants):
        report(
            run.title(f"1 request, {tokens} tokens"), "tokens/s", rates(contestants, run, 1, tokens)
        )


# The first token after a long prompt.


def prompt(run: Run) -> None:
    ours = Ours(run.file, run.folder)
    contestants: dict[str, Contestant] = {OURS: ours, **llamas(run)}
    texts = [long_text(ours.engine, _PROMPT_TOKENS) for _ in range(run.rounds)]
    with closing(contestants):
        for contestant in contestants.values():
            contestant.answer(short_prompts(1), 2)

        def measured(contestant: Contestant) -> Callable[[], float]:
            left = iter(texts)
            return lambda: contestant.seconds([next(left)], 1)

        found = in_rounds({name: measured(each) for name, each in contestants.items()}, run.rounds)
        count = ours.answers[0].prompt_tokens
    report(run.title(f"first token after a prompt of {count} tokens"), "s", found, 2)


# Several requests at once.


def concurrent(run: Run) -> None:
    model = BareModel(run.file.path)
    for count in run.requests:
        ours = Ours(run.file, run.folder)
        bare = best_bare(model, short_prompts(count), 8, run.cores)
        contestants: dict[str, Contestant] = {
            OURS: ours,
            f"bare loop, {bare.name}": bare,
            "the same without flash attention": Bare(
                model, count, *bare.shape, flash_attention=False
            ),
            "`Llama` behind a lock": Llama(run.file.path, run.cores),
            **servers(run, min(count, 8), 512),
        }
        with closing(contestants):
            found = rates(contestants, run, count, run.tokens)
        title = f"{count} requests, {run.tokens} tokens each; width {ours.widths.width}"
        report(run.title(title), "tokens/s", found)
    model.close()


# The third turn of a chat.

_AFRESH = """
import sys, json
from pathlib import Path
from asteady._engine.loader import load_engine
from asteady._engine.plan import EngineOptions, Setup
from tests.benchmarks.models import find
from tests.benchmarks.throughput import request
from tests.engine.driving import digest, together
folder = Path(sys.argv[1])
engine = load_engine(find(sys.argv[2], folder), EngineOptions(), folder, Setup())
for text in json.load(sys.stdin):
    print(digest(together(engine, [request(text, 16, logprobs=3)])[0]))
engine.close()
"""


class Chat:
    """The raw prompts of the three turns of a chat."""

    def __init__(self, engine: Any) -> None:
        self.history = long_text(engine, _HISTORY_TOKENS // 2)
        self.second = self.history + "\nUser: and then?\n" + long_text(engine, _HISTORY_TOKENS // 2)
        self.third = self.second + "\nAnswer: so it was.\nUser: and what became of the caches, in"
        self.third += " one sentence, if anybody knows?\nAnswer:"


def chat(run: Run) -> None:
    ours = Ours(run.file, run.folder)
    context_tokens = 4096
    if ours.engine.context_tokens < _HISTORY_TOKENS + 200:
        print(f"\n{run.model}: no chat, the context has {ours.engine.context_tokens} tokens")
        ours.close()
        return
    contestants: dict[str, Contestant] = {
        OURS: ours,
        "`Llama`, which keeps the last prompt": Llama(run.file.path, run.cores, context_tokens),
        **servers(run, 1, context_tokens),
    }
    chats = [Chat(ours.engine) for _ in range(run.rounds)]

    def measured(contestant: Contestant) -> Callable[[], float]:
        left = iter(chats)

        def third_turn() -> float:
            turns = next(left)
            contestant.answer([turns.history], 1)
            contestant.answer([turns.second], 1)
            return contestant.seconds([turns.third], 1)

        return third_turn

    with closing(contestants):
        found = in_rounds({name: measured(each) for name, each in contestants.items()}, run.rounds)
        answer = ours.answers[0]
        afresh_s = ours.seconds([long_text(ours.engine, answer.prompt_tokens)], 1)
        title = (
            f"first token of a third turn of {answer.prompt_tokens} tokens, "
            f"{answer.reused_tokens} of them reused; {afresh_s:.2f} s afresh"
        )
        report(run.title(title), "s", found, 3)
        texts = [turns.third for turns in chats]
        mine = [digest(each) for each in answers_of(ours.engine, chats)]
    done = subprocess.run(
        [sys.executable, "-c", _AFRESH, str(run.folder), str(run.file.path)],
        input=json.dumps(texts),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    different = sum(a != b for a, b in zip(mine, done.stdout.split(), strict=True))
    print(f"\n{different} of {len(mine)} third turns differ from a fresh process's (logprobs too)")


def answers_of(engine: Any, chats: Sequence[Chat]) -> list[Any]:
    """The third turns, by one worker that has computed the turns before them."""
    worker = engine.open_worker()
    answers = []
    for turns in chats:
        for text in (turns.history, turns.second, turns.third):
            worker.admit(engine.prepare(request(text, 16, logprobs=3)))
            while not (done := [e.answer for e in worker.step() if hasattr(e, "answer")]):
                pass
        answers += done
    worker.close()
    return answers


# With some of the cores taken by another program.


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


def taken(run: Run) -> None:
    ours = Ours(run.file, run.folder)
    contestants: dict[str, Contestant] = {
        OURS: ours,
        f"`Llama`, threads={run.cores}": Llama(run.file.path, run.cores),
    }
    rows = []
    with closing(contestants):
        for name, contestant in contestants.items():
            what: dict[str, Callable[[], float]] = {
                "1 request": functools.partial(_rate, contestant, 1, 2 * run.tokens),
                "8 requests": functools.partial(_rate, contestant, 8, run.tokens),
                "prompt of 1,000 tokens": functools.partial(_prompt_rate, contestant, ours.engine),
            }
            for title, measure in what.items():
                pairs = []
                for _ in range(run.rounds):
                    idle = measure()
                    with busy_core():
                        pairs.append((idle, measure()))
                idle, left = (statistics.median(column) for column in zip(*pairs, strict=True))
                kept = statistics.median(after / before for before, after in pairs)
                rows.append((name, title, f"{idle:.1f}", f"{left:.1f}", f"{kept:.0%}"))
    title = run.title(f"one of {run.cores} cores taken by a busy loop")
    table(title, ("", "tokens/s", "before", "taken", "kept"), rows)


def _rate(contestant: Contestant, count: int, tokens: int) -> float:
    return count * tokens / contestant.seconds(short_prompts(count), tokens)


def _prompt_rate(contestant: Contestant, engine: Any) -> float:
    text = long_text(engine, _PROMPT_TOKENS)
    return _PROMPT_TOKENS / contestant.seconds([text], 1)


# Memory, in processes of their own.

_MEMORY = {
    OURS: """
import asyncio, sys, asteady
from pathlib import Path
async def main():
    async with asteady.Session(cache_dir=sys.argv[1], generation_model=sys.argv[2]) as session:
        calls = [session.complete(f"{n}? ", raw=True, max_new_tokens=24)
                 for n in range(int(sys.argv[3]))]
        await asyncio.gather(*calls)
        print(Path("/proc/self/status").read_text())
asyncio.run(main())
""",
    "`Llama`": """
import sys, llama_cpp
from pathlib import Path
llama = llama_cpp.Llama(sys.argv[2], verbose=False)
for n in range(int(sys.argv[3])):
    llama.create_completion(f"{n}? ", max_tokens=24, temperature=0.0)
print(Path("/proc/self/status").read_text())
llama.close()
""",
}


def memory(run: Run) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        # Once before, so that what is measured has the width that the probe found.
        probe_report(run.file, EngineOptions(), Path(cache))
        for name, code in _MEMORY.items():
            for count in (1, 8, 32) if name == OURS else (1,):
                status = python(code, cache, run.file.path, count).splitlines()
                sizes = {
                    line.split(":")[0]: int(line.split()[1]) for line in status if "kB" in line
                }
                rows.append((name, count, *(sizes[key] // 1024 for key in ("VmHWM", "VmRSS"))))
    title = f"memory; the file has {run.file.size_bytes / 2**20:.0f} MB"
    table(run.title(title), ("", "requests", "most, MB", "afterwards, MB"), rows)


# Bits.


class _RandomCores(Cores):
    """Another number of threads at each call."""

    def __init__(self) -> None:
        super().__init__(threads=1)
        self._draw = random.Random(1)
        self.seen: dict[int, int] = {}

    def share(self) -> int:
        threads = self._draw.randint(1, self.budget + 1)
        self.seen[threads] = self.seen.get(threads, 0) + 1
        return threads


class _Growing:
    """An engine whose width grows by one now and then while requests wait, to what it may be."""

    def __init__(self, engine: Any, most: int) -> None:
        self._engine = engine
        self._most = most
        self._growing = False
        self.width = 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def widen(self, widened: Callable[[], None]) -> None:
        def grow() -> None:
            self.width += 1
            self._growing = False
            widened()

        if self.width < self._most and not self._growing:
            self._growing = True
            timer = threading.Timer(0.5, grow)
            timer.daemon = True
            timer.start()


def bits(run: Run) -> None:
    options = EngineOptions()
    most = probe_report(run.file, options, run.folder).width
    alone = load_engine(run.file, options, run.folder, Setup(), cores=Cores(1, 1))
    head = long_text(alone, 560)
    texts = [f"{head} {number}" if number < 3 else head[: 11 * number] for number in range(40)]
    requests = [
        request(text, 4 + number % 9, logprobs=3, **({} if number % 3 else {"temperature": 1.0}))
        for number, text in enumerate(texts)
    ]
    expected = [digest(together(alone, [each])[0]) for each in requests]
    alone.close()
    cores = _RandomCores()
    draw = random.Random(2)
    different = compared = reused = 0
    widths: set[int] = set()

    async def some(count: int) -> None:
        nonlocal different, compared, reused
        engine: Engine = _Growing(
            load_engine(run.file, options, run.folder, Setup(), cores=cores), most
        )
        pool = Pool(engine, 2, 1000)

        async def one(number: int) -> None:
            nonlocal different, compared, reused
            answer: Any = await pool.run(requests[number])
            widths.add(engine.width)
            compared += 1
            reused += answer.reused_tokens > 0
            different += digest(answer) != expected[number]

        await asyncio.gather(*(one(draw.randrange(len(requests))) for _ in range(count)))
        await pool.aclose()

    while compared < run.comparisons:
        asyncio.run(some(min(100, run.comparisons - compared)))
    table(
        run.title("answers (text and logprobs) against each computed alone by one thread"),
        ("comparisons", "different", "with a reused prompt", "widths", "calls by threads"),
        [(compared, different, reused, sorted(widths), dict(sorted(cores.seen.items())))],
    )


# Python between two decodes.


def overhead(run: Run) -> None:
    engine = load_engine(run.file, EngineOptions(), run.folder, Setup(width=8))
    spent = 0.0
    original = llama_cpp.llama_decode

    def timed(*arguments: Any) -> int:
        nonlocal spent
        began = time.thread_time()
        code: int = original(*arguments)
        spent += time.thread_time() - began
        return code

    rows = []
    for name, options in {
        "greedy": {},
        "sampled, top_k 40, top_p 0.95": {"temperature": 1.0, "top_k": 40, "top_p": 0.95},
        "with 2 stop strings": {"stop": ["\n\n\n\n", "never"]},
        "with logprobs=5": {"logprobs": 5},
    }.items():
        cells = []
        for width in (1, 8):
            worker: Any = engine.open_worker()
            for text in short_prompts(width):
                job = GenerateRequest.of(text, max_new_tokens=300, **options)  # type: ignore[arg-type]
                worker.admit(engine.prepare(job))
            while any(not entry.decoding for entry in worker._slots.values()):
                worker.step()
            llama_cpp.llama_decode = timed
            spent, count, began = 0.0, 0, time.thread_time()
            for _ in range(4 * run.tokens):
                count += len(worker._slots)
                worker.step()
            total = time.thread_time() - began
            llama_cpp.llama_decode = original
            worker.close()
            cells.append(f"{(total - spent) / max(1, count) * 1e6:.0f}")
        rows.append((name, *cells))
    engine.close()
    table(run.title("Python between two steps"), ("µs per token", "width 1", "width 8"), rows)


# Embedding, by the built-in model.


def embed(run: Run) -> None:
    file = find("builtin", run.folder, "embedding")
    texts = [f"{number}: the cache remembers what was asked of it before" for number in range(200)]
    peers = {
        f"`Llama.embed`, threads={threads}": llama_cpp.Llama(
            str(file.path),
            embedding=True,
            verbose=False,
            n_threads=threads,
            n_threads_batch=threads,
        )
        for threads in sorted({1, run.cores})
    }

    def peer(llama: llama_cpp.Llama) -> float:
        began = time.perf_counter()
        for text in texts[:50]:
            llama.embed(text, normalize=True)
        return 50 / (time.perf_counter() - began)

    async def session() -> float:
        pool = Pool(load_engine(file, EngineOptions(), run.folder), default_workers(), 1000)
        await asyncio.gather(*[pool.run(EmbedRequest.of(text)) for text in texts[:4]])
        began = time.perf_counter()
        await asyncio.gather(*[pool.run(EmbedRequest.of(text)) for text in texts])
        speed = len(texts) / (time.perf_counter() - began)
        await pool.aclose()
        return speed

    runs: dict[str, Callable[[], float]] = {OURS: lambda: asyncio.run(session())}
    runs.update({name: functools.partial(peer, llama) for name, llama in peers.items()})
    report("built-in model: embedding", "texts/s", in_rounds(runs, run.rounds), 0)
    for llama in peers.values():
        llama.close()


# The event loop, while every worker computes.


def stalls(run: Run) -> None:
    async def main() -> list[float]:
        engine = load_engine(run.file, EngineOptions(), run.folder)
        pool = Pool(engine, default_workers(), 100)
        tasks = [
            asyncio.ensure_future(pool.run(request(text, 4 * run.tokens)))
            for text in short_prompts(8)
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
    middle = (f"{seen[int(len(seen) * q)] * 1e3:.2f}" for q in (0.5, 0.99, 0.999))
    table(
        run.title("delay of a ticker of 1 ms during 8 answers, ms"),
        ("median", "99 %", "99.9 %", "longest", "ticks"),
        [(*middle, f"{seen[-1] * 1e3:.1f}", len(seen))],
    )


FIGURES: dict[str, Callable[[Run], None]] = {
    "first": first,
    "lone": lone,
    "prompt": prompt,
    "concurrent": concurrent,
    "chat": chat,
    "taken": taken,
    "memory": memory,
    "bits": bits,
    "overhead": overhead,
    "embed": embed,
    "stalls": stalls,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=FIGURES, default=list(FIGURES))
    parser.add_argument("--model", nargs="*", choices=MODELS, default=list(MODELS[:3]))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--comparisons", type=int, default=200, help="of the figure `bits`")
    parser.add_argument(
        "--requests", type=int, nargs="*", default=[8, 16], help="of the figure `concurrent`"
    )
    parser.add_argument("--folder", type=Path, help="where models that are made are kept")
    parser.add_argument(
        "--llama-server", default=shutil.which("llama-server"), help="default: that on PATH"
    )
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        for model in arguments.model:
            try:
                file = model_file(model, folder)
            except UnavailableError as exc:
                print(f"\n{model}: {exc}", flush=True)
                continue
            run = Run(
                model=model,
                file=file,
                folder=folder,
                rounds=arguments.rounds,
                tokens=arguments.tokens,
                comparisons=arguments.comparisons,
                requests=arguments.requests,
                server=arguments.llama_server,
            )
            for name in arguments.only:
                if name != "embed" or model == arguments.model[0]:
                    FIGURES[name](run)


if __name__ == "__main__":
    main()
