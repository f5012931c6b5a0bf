"""``asteady bench``"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import TYPE_CHECKING

import attrs

from asteady._base.errors import InvalidRequestError
from asteady._session.session import Session
from asteady.cli._common import (
    Commands,
    activities_of,
    add_json,
    add_max_new_tokens,
    add_model,
    add_seed,
)
from asteady.cli._progress import add_quiet, progress

if TYPE_CHECKING:
    from asteady.operate import PromptTiming

_SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048)


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure what the cache saves",
        description="Time one prompt with and without the cache, or replay recorded accesses at"
        " several cache sizes.",
    )
    parser.add_argument(
        "prompt", nargs="?", default="Write a haiku about caching", help="default: %(default)s"
    )
    parser.add_argument("--iterations", type=int, default=10, metavar="N", help="default: 10")
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
        help="with --accesses: cache capacities to replay at, in entries",
    )
    parser.add_argument(
        "--policy", choices=("tide", "lru", "lfu"), help="with --accesses; default: tide"
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
        print(json.dumps(attrs.asdict(timing), ensure_ascii=False))
        return 0
    print(f"prompt        {timing.prompt}")
    print(f"cold          {timing.cold_time_s:.6f} s")
    print(f"warm          {timing.warm_avg_s:.6f} s ± {timing.warm_std_s:.6f} s")
    print(f"speed-up      {timing.speedup:,.0f}x")
    return 0


async def _time(options: argparse.Namespace) -> PromptTiming:
    # Imported here, so that other commands start faster.
    from asteady.operate import CacheBenchmark

    async with (
        Session(generation_model=options.model, context_tokens=options.context) as session,
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
    results = await CacheBenchmark().benchmark_cache_sizes(
        accesses, options.sizes or _SIZES, policy=options.policy or "tide"
    )
    if options.json:
        print(json.dumps([attrs.asdict(result) for result in results.values()]))
        return 0
    print(f"{'entries':>10} {'hits %':>8} {'saved %':>8} {'computed s':>12}")
    for size, result in results.items():
        print(
            f"{size:>10,} {result.hit_rate:>8.2f} {result.saved_rate:>8.2f}"
            f" {result.compute_s:>12,.1f}"
        )
    return 0
