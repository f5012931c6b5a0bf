"""``asteady bench``"""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

import attrs

from asteady._base.errors import InvalidRequestError
from asteady.cli._common import (
    Commands,
    activities_of,
    add_json,
    add_max_new_tokens,
    add_model,
    add_seed,
    make_session,
)
from asteady.cli._output import Column, as_json, can_print, print_table
from asteady.cli._progress import add_quiet, progress

if TYPE_CHECKING:
    from asteady.operate import PromptTiming, Replayed

_SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048)


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure what the cache saves",
        description="Time one prompt with and without the cache, or replay recorded accesses at"
        " several cache sizes.",
        examples=(
            'asteady bench "Write a haiku about caching" --model smollm2',
            "asteady bench --accesses accesses.tsv --sizes 64 256",
        ),
    )
    parser.add_argument(
        "prompt",
        nargs="?",
        default="Write a haiku about caching",
        help="the prompt that is timed; default: %(default)s",
    )
    parser.add_argument(
        "--iterations",
        type=int,
        default=10,
        metavar="N",
        help="how often it is answered from the cache; default: %(default)s",
    )
    add_seed(parser)
    add_max_new_tokens(parser)
    add_model(parser)
    parser.add_argument(
        "--accesses",
        metavar="FILE",
        help="replay this file: tab-separated lines of key, bytes and seconds, plain or gzipped",
    )
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        metavar="N",
        help="with --accesses: the cache sizes to replay at, in entries; default: "
        + " ".join(map(str, _SIZES)),
    )
    parser.add_argument(
        "--policy",
        choices=("tide", "lru", "lfu"),
        help="with --accesses: by which policy entries are evicted; default: tide",
    )
    add_json(parser)
    add_quiet(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if options.accesses is not None:
        return asyncio.run(_replay(options))
    if options.sizes is not None or options.policy is not None:
        raise InvalidRequestError(
            "--sizes and --policy need --accesses FILE, a file written by"
            " CacheBenchmark.save_accesses (docs/operate/benchmark.md)"
        )
    timing = asyncio.run(_time(options))
    if options.json:
        print(as_json(attrs.asdict(timing)))
        return 0
    about = "±" if can_print("±") else "+-"
    print(f"prompt    {timing.prompt}")
    print(f"cold      {_time_shown(timing.cold_time_s)}")
    spread = _time_shown(timing.warm_std_s)
    print(f"warm      {_time_shown(timing.warm_avg_s)} {about} {spread}")
    print(f"speed-up  {timing.speedup:,.0f}x")
    return 0


def _time_shown(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds * 1e6:.3g} {'µs' if can_print('µ') else 'us'}"


async def _time(options: argparse.Namespace) -> PromptTiming:
    # Imported here, so that other commands start faster.
    from asteady.operate import CacheBenchmark

    async with (
        make_session(generation_model=options.model, context_tokens=options.context) as session,
        progress(options, activities_of(session), "measuring"),
    ):
        return await CacheBenchmark(session).benchmark_single_prompt(
            options.prompt,
            iterations=options.iterations,
            seed=options.seed,
            max_new_tokens=options.max_new_tokens,
        )


async def _replay(options: argparse.Namespace) -> int:
    from asteady.operate import CacheBenchmark
    from asteady.operate._benchmark import read_accesses

    accesses = read_accesses(options.accesses)
    if not accesses:
        raise InvalidRequestError(f"the file {options.accesses} contains no accesses")
    sizes = options.sizes or _SIZES
    benchmark = CacheBenchmark()
    results: dict[int, Replayed] = {}
    async with progress(options, tuple, "replaying") as line:
        for done, size in enumerate(sizes):
            line.count(f"replaying {len(accesses):,} accesses", done, len(sizes))
            results |= await benchmark.benchmark_cache_sizes(
                accesses, [size], policy=options.policy or "tide"
            )
    if options.json:
        print(as_json([attrs.asdict(result) for result in results.values()]))
        return 0
    print_table(
        [
            Column(title=title, right=True)
            for title in ("entries", "hits %", "saved %", "computed s")
        ],
        [
            (
                f"{size:,}",
                f"{result.hit_rate:.2f}",
                f"{result.saved_rate:.2f}",
                f"{result.compute_s:,.1f}",
            )
            for size, result in results.items()
        ],
    )
    return 0
