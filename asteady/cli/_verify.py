"""``asteady verify``"""

from __future__ import annotations

import argparse
import asyncio
import sys
from functools import partial
from typing import TYPE_CHECKING

from asteady._base.errors import InvalidRequestError
from asteady.cli._common import (
    DIFFERENT,
    NOT_COMPARED,
    Commands,
    add_json,
    make_session,
    read_file,
    settings_as_found,
)
from asteady.cli._output import as_json, columns_of
from asteady.cli._progress import Progress, add_quiet, duration, progress

if TYPE_CHECKING:
    from asteady._base.activity import Activity
    from asteady._session.session import Session
    from asteady.operate._verify import VerifyDifference, VerifyPlan, VerifyRequest, VerifyStep

_BUDGET_S = 60.0
_TABLE_COLUMNS = 56
_NARROW_COLUMNS = 40


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "verify",
        help="check that answers do not depend on other requests",
        description=(
            "Compute the same requests alone, in other orders, at every concurrency, between"
            " cancellations, after other prompts and in a second process, and compare all bytes."
            " Stops at the first difference. Does what fits into about a minute, or with --thorough"
            " all of it. With --cache, compute a sample of the stored answers again and compare."
            " The exit code is 0 if all are the same, 1 if one differs, and 2 if they cannot be"
            " compared."
        ),
        examples=(
            "asteady verify smollm2",
            "asteady verify --cache --requests 100",
        ),
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="the model to verify; default: that of the settings",
    )
    parser.add_argument(
        "--requests",
        type=int,
        default=24,
        metavar="N",
        help="how many requests are compared; default: %(default)s",
    )
    parser.add_argument(
        "--prompts", metavar="FILE", help="use the lines of this text file as prompts"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="the most tokens of each answer; default: 24",
    )
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument(
        "--thorough", action="store_true", help="all requests in all steps, however long it takes"
    )
    how_long.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help=f"do what fits into about so many seconds; default: {_BUDGET_S:g}",
    )
    parser.add_argument(
        "--cache",
        action="store_true",
        help="compute stored answers again (of entries that include their request)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="the random seed by which --cache chooses entries; default: 0",
    )
    parser.add_argument(
        "--embedding", action="store_true", help="verify embeddings instead of generated text"
    )
    add_json(parser, "print the report as JSON")
    add_quiet(parser)
    parser.set_defaults(run=run, failure=NOT_COMPARED)


def run(options: argparse.Namespace) -> int:
    for name, others in (
        ("--prompts", True),
        ("--max-new-tokens", True),
        ("--budget", True),
        ("--thorough", True),
        ("--seed", False),
    ):
        given = getattr(options, name[2:].replace("-", "_")) not in (None, False)
        if given and options.cache == others:
            raise InvalidRequestError(
                f"{name} {'cannot be used' if others else 'can only be used'} with --cache"
            )
    if options.cache:
        return asyncio.run(_run_cache(options))
    requests = options.requests if options.prompts is None else _read(options)
    return asyncio.run(_run(options, requests))


async def _run(options: argparse.Namespace, requests: int | list[VerifyRequest]) -> int:
    # Imported here, so that other commands start faster.
    from asteady.operate._verify import report_as_record, verify

    if not options.quiet:
        print(
            "asteady: computing some answers alone, which says how long it takes", file=sys.stderr
        )
    budget_s = _BUDGET_S if options.budget is None else options.budget
    # Without the cache: nothing is written, and no lock of another process is waited for.
    async with (
        make_session(disable_cache=True) as session,
        progress(options, partial(_loading, session), "computing some answers alone") as line,
    ):
        shown = _Shown(options, line)
        report = await verify(
            session,
            model=options.model,
            kind="embedding" if options.embedding else "generation",
            requests=requests,
            max_new_tokens=24 if options.max_new_tokens is None else options.max_new_tokens,
            budget_s=None if options.thorough else budget_s,
            planned=shown.plan,
            progress=shown.step,
        )
    if options.json:
        print(as_json(report_as_record(report), indent=2))
    else:
        _print_row("all", f"{report.comparisons:,}", f"{report.reused:,}")
    if report.ok and len(report.steps) < report.plan.steps and not options.quiet:
        print(
            f"asteady: the time was up after {len(report.steps)} of {report.plan.steps} steps",
            file=sys.stderr,
        )
    return 0 if report.difference is None else _show(report.difference, options.json)


async def _run_cache(options: argparse.Namespace) -> int:
    from asteady.operate._verify import report_as_record, verify_cache

    async with (
        make_session(settings_as_found()) as session,
        progress(options, partial(_loading, session), "reading the cache") as line,
    ):
        report = await verify_cache(
            session,
            model=options.model,
            kind="embedding" if options.embedding else "generation",
            requests=options.requests,
            seed=options.seed or 0,
            progress=lambda done: line.say(f"{done:,} compared"),
        )
    if options.json:
        print(as_json(report_as_record(report), indent=2))
    else:
        rows = {"computed again": report.compared, "the same": report.same}
        rows["different"] = len(report.differences)
        for name, count in {**rows, **report.skipped, "all entries": report.entries}.items():
            print(f"{name:<36}{count:>8,}")
        for each in report.differences:
            print(f"\n{each.key}\n{as_json(each.request)}\n{each.where}")
    if report.remedy is not None:
        print(f"asteady: {report.remedy}", file=sys.stderr)
    if report.differences:
        print(
            f"asteady: {len(report.differences)} of {report.compared} entries differ from what is"
            f" computed; the first in {report.differences[0].where}",
            file=sys.stderr,
        )
    return 0 if report.ok else DIFFERENT


def _show(difference: VerifyDifference, silent: bool) -> int:
    if not silent:
        for title, requests in (
            ("request", [difference.request]),
            ("answered before it", difference.before),
            ("answered beside it", difference.beside),
        ):
            for request in requests:
                print(f"{title}: {as_json(request)}")
    print(
        f"asteady: {difference.step}: an answer differs from the one given alone in"
        f" {difference.where}",
        file=sys.stderr,
    )
    return DIFFERENT


def _loading(session: Session) -> list[Activity]:
    """What is waited for before there are answers."""
    activities = session.statistics().activities
    return [each for each in activities if each.phase not in ("prompt", "waiting")]


class _Shown:
    """What is printed while it goes on: the plan, the table's rows, and the step in progress."""

    def __init__(self, options: argparse.Namespace, line: Progress) -> None:
        self._options = options
        self._line = line
        self._steps = self._done = 0

    def plan(self, plan: VerifyPlan) -> None:
        self._steps = plan.steps
        self._next()
        what = f"{plan.requests} requests in {plan.steps} steps"
        if not plan.complete:
            what = (
                f"{plan.requests} of {plan.all_requests} requests in {plan.steps} of"
                f" {plan.all_steps} steps; all of them take about"
                f" {duration(plan.all_seconds)} (--thorough)"
            )
        if plan.most_new_tokens is not None:
            what = f"the first {plan.most_new_tokens} tokens of the answers to {what}"
        if not self._options.quiet:
            print(f"asteady: about {duration(plan.seconds)} for {what}", file=sys.stderr)
        if not self._options.json:
            _print_row("STEP", "COMPARISONS", "REUSED", "SECONDS")

    def step(self, step: VerifyStep) -> None:
        self._done += 1
        self._next()
        if not self._options.json:
            _print_row(step.name, f"{step.comparisons:,}", f"{step.reused:,}", f"{step.took_s:.2f}")

    def _next(self) -> None:
        self._line.erase()
        self._line.count("verifying", self._done, self._steps)


def _print_row(name: str, comparisons: str, reused: str, seconds: str = "") -> None:
    # A row is printed when its step is done, so the widths do not depend on what is in them.
    row = f"{name:<26}{comparisons:>12}{reused:>8}{seconds:>10}".rstrip()
    if sys.stdout.isatty() and columns_of(sys.stdout) < _TABLE_COLUMNS:
        row = f"{name:<{_NARROW_COLUMNS - 12}}{comparisons:>12}"
    print(row, flush=True)


def _read(options: argparse.Namespace) -> list[VerifyRequest]:
    lines = read_file("--prompts", options.prompts).splitlines()
    name = "text" if options.embedding else "prompt"
    requests: list[VerifyRequest] = [{name: line} for line in lines if line.strip()]
    if not requests:
        raise InvalidRequestError(f"--prompts {options.prompts}: the file has no prompts")
    return requests
