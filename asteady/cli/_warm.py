"""``asteady warm``"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from asteady._base.requests import DEFAULT_SEED
from asteady.cli._common import (
    Commands,
    activities_of,
    add_json,
    add_max_new_tokens,
    add_model,
    add_namespace,
    calls_under,
    make_session,
    read_standard_input_bytes,
)
from asteady.cli._output import as_json
from asteady.cli._progress import add_quiet, progress

if TYPE_CHECKING:
    from asteady.operate import WarmProgress, WarmReport


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "warm",
        help="compute answers in advance",
        description="Compute and store the answers to the prompts of a file. Cached answers are"
        " skipped, so the command can be stopped and run again.",
        examples=("asteady warm prompts.jsonl --budget 60",),
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        help='JSON Lines; each line is a string, or an object with "prompt" or "messages" and'
        ' optionally "seed", "priority", "namespace" and other options; - is standard input',
    )
    parser.add_argument(
        "--seed",
        type=int,
        action="append",
        metavar="N",
        help="compute each prompt with this seed; may be given several times; default:"
        f" {DEFAULT_SEED}",
    )
    parser.add_argument(
        "--concurrency",
        type=int,
        default=4,
        metavar="N",
        help="how many prompts are computed at once; default: %(default)s",
    )
    add_max_new_tokens(parser)
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="stop after this time")
    add_model(parser)
    add_namespace(parser, 'tag the answers with this namespace, as "emails/marketing"')
    add_json(parser, "print the report as JSON")
    add_quiet(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if options.file == "-":
        raw = read_standard_input_bytes("a file of prompts")
    else:
        raw = Path(options.file).read_bytes()
    report = asyncio.run(_warm(raw, options))
    for failure in report.failed:
        print(f"asteady: {failure}", file=sys.stderr)
    if options.json:
        record = {
            "warmed": report.warmed,
            "already_cached": report.already_cached,
            "failed": [str(failure) for failure in report.failed],
            "skipped": report.skipped,
            "duplicates": report.duplicates,
            "seconds": report.seconds,
        }
        print(as_json(record))
    else:
        print(report)
    return 1 if report.failed else 0


async def _warm(raw: bytes, options: argparse.Namespace) -> WarmReport:
    # Imported here, so that other commands start faster.
    from asteady._session.generation import context_of
    from asteady._session.warm import JsonLines, warm

    async with make_session(
        generation_model=options.model, context_tokens=options.context
    ) as session:
        activities = activities_of(session)
        async with progress(options, activities, "computing the first answers") as line:

            def show(progress: WarmProgress) -> None:
                line.count("warming", progress.done, progress.total or 0)

            return await warm(
                context_of(calls_under(session, options.namespace)),
                JsonLines(raw),
                seeds=options.seed,
                concurrency=options.concurrency,
                budget_s=options.budget,
                max_new_tokens=options.max_new_tokens,
                on_progress=show,
            )
