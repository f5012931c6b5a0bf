"""What a command waits for, on one line of the terminal that standard error is."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

from asteady._base.activity import NOTICEABLE_S, Activity
from asteady._base.requests import Completion

_INTERVAL_S = 0.1
_BAR_COLUMNS = 24
# A bar that is shorter says less than the numbers after it.
_LEAST_BAR_COLUMNS = 8
_COLUMNS = 80  # of a terminal that does not say


def add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="do not say on standard error what is waited for, nor how it went; errors are shown",
    )


def speaks(options: argparse.Namespace) -> bool:
    """Whether a command says on standard error what it does."""
    return not options.quiet and sys.stderr is not None and sys.stderr.isatty()


class Progress:
    """A line that appears when something takes half a second, and vanishes with `hide`.

    It is plain text, without colours and control sequences: blanks erase it. `otherwise` is what it
    says while nothing of the activities is going on; the number of seconds begins anew with it.
    """

    def __init__(self, activities: Callable[[], Sequence[Activity]], otherwise: str) -> None:
        self._activities = activities
        self._painted = 0
        self._hidden = False
        self.say(otherwise)

    def say(self, otherwise: str) -> None:
        """Erase the line until its next turn, so that other lines may be printed."""
        self._erase()
        self._otherwise = otherwise
        self._began = perf_counter()

    async def run(self) -> None:
        await asyncio.sleep(NOTICEABLE_S)
        while not self._hidden:
            seconds = perf_counter() - self._began
            self._paint(line(self._activities(), self._otherwise, seconds, _columns() - 1))
            await asyncio.sleep(_INTERVAL_S)

    def hide(self) -> None:
        """Erase the line; it does not come back."""
        if not self._hidden:
            self._hidden = True
            self._erase()

    def _erase(self) -> None:
        if self._painted:
            self._paint("")
            sys.stderr.write("\r")
            sys.stderr.flush()

    def _paint(self, text: str) -> None:
        sys.stderr.write("\r" + text.ljust(self._painted))
        sys.stderr.flush()
        self._painted = len(text)


@asynccontextmanager
async def progress(
    options: argparse.Namespace, activities: Callable[[], Sequence[Activity]], otherwise: str
) -> AsyncIterator[Progress]:
    """Show within the block what is going on, or `otherwise` if nothing of these activities is."""
    shown = Progress(activities, otherwise)
    if not speaks(options):
        yield shown
        return
    painting = asyncio.create_task(shown.run())
    try:
        yield shown
    finally:
        painting.cancel()
        shown.hide()


def line(activities: Sequence[Activity], otherwise: str, seconds: float, columns: int) -> str:
    """The oldest activity in at most `columns` characters, with a bar if there is a measure."""
    if not activities:
        return _cut(f"asteady: {otherwise}, {seconds:.0f} s", columns)
    now = activities[0]
    name = Path(now.subject).name
    match now.phase:
        case "downloading":
            text = f"downloading {now.subject}"
        case "identifying":
            text = f"reading {name}"
        case "loading":
            text = f"loading {name}"
        case "prompt":
            text = "computing the prompt"
        case "waiting":
            text = "waiting for another process that computes this answer"
    text = f"asteady: {text}"
    if not now.total:
        return _cut(f"{text}, {now.seconds:.0f} s", columns)
    if now.phase == "prompt":
        measure = f"{now.done:,} of {now.total:,} tokens"
    else:
        measure = f"{now.done / 1e6:,.0f} of {now.total / 1e6:,.0f} MB"
    bar = min(_BAR_COLUMNS, columns - len(text) - len(measure) - 4)
    if bar < _LEAST_BAR_COLUMNS:
        return _cut(f"{text} {measure}", columns)
    full = bar * now.done // now.total
    return f"{text} [{'#' * full}{'.' * (bar - full)}] {measure}"


def summary(answer: Completion, first_s: float, took_s: float) -> str:
    """How an answer went: its tokens, their speed, the time to the first one, and its source."""
    count = answer.completion_tokens
    parts = [f"{count:,} {'token' if count == 1 else 'tokens'}"]
    if answer.cached:
        parts.append("from the cache")
    else:
        if count > 1 and took_s > first_s:
            parts.append(f"{(count - 1) / (took_s - first_s):,.1f} tokens/s")
        parts.append(f"first after {first_s:.2f} s")
    if answer.finish_reason == "length":
        parts.append("cut by --max-new-tokens or the context")
    return ", ".join(parts)


def _cut(text: str, columns: int) -> str:
    return text if len(text) <= columns else text[: max(columns - 3, 0)] + "..."[: max(columns, 0)]


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _COLUMNS
    except (OSError, ValueError):
        return _COLUMNS
