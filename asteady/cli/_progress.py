"""What a command waits for, on one line of the terminal that standard error is."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import attrs

from asteady._base.activity import NOTICEABLE_S, Activity
from asteady.cli._output import columns_of, console_of, is_dumb

if TYPE_CHECKING:
    from rich.console import Console

    from asteady._base.requests import Completion

_INTERVAL_S = 0.1
_BAR_COLUMNS = 24
# A bar that is shorter says less than the numbers after it.
_LEAST_BAR_COLUMNS = 8
_ERASE_TO_END = "\x1b[K"


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


@attrs.frozen(kw_only=True)
class Status:
    """What the line says: how much is done, if `total` is not 0, with `measure` in words."""

    text: str
    done: int = 0
    total: int = 0
    measure: str = ""


class Progress:
    """A line that appears when something takes half a second, and vanishes with `hide`.

    With rich it has colours, and a bar of lines. Without, it is plain text without control
    sequences: blanks erase it. A dumb terminal gets a line of its own for each new text.
    `otherwise` is what it says while nothing of the activities is going on; the time begins anew
    with it.
    """

    def __init__(self, activities: Callable[[], Sequence[Activity]], otherwise: str) -> None:
        self._activities = activities
        console = console_of(sys.stderr)
        # The old terminal of Windows shows control sequences themselves.
        self._console = None if console is None or console.legacy_windows else console
        self._painted = 0
        self._hidden = False
        self._printed = ""  # on a dumb terminal
        self.say(otherwise)

    def say(self, text: str) -> None:
        """Say this while nothing of the activities is going on."""
        self.erase()
        self._count: tuple[int, int] | None = None
        self._otherwise = text
        self._began = perf_counter()

    def count(self, text: str, done: int, total: int) -> None:
        """Say this, and none of the activities; with a bar, unless `total` is 0: unknown."""
        if self._count is None:
            self._began = perf_counter()
        self._otherwise, self._count = text, (done, total)

    async def run(self) -> None:
        await asyncio.sleep(NOTICEABLE_S)
        while not self._hidden:
            self._paint(self._status())
            await asyncio.sleep(_INTERVAL_S)

    def hide(self) -> None:
        """Erase the line; it does not come back."""
        if not self._hidden:
            self._hidden = True
            self.erase()

    def _status(self) -> Status:
        seconds = perf_counter() - self._began
        if self._count is not None:
            return status_of_count(self._otherwise, *self._count, seconds)
        return status_of(self._activities(), self._otherwise, seconds)

    def _paint(self, status: Status) -> None:
        columns = columns_of(sys.stderr) - 1
        if is_dumb():
            if status.text != self._printed:
                self._printed = status.text
                print(f"asteady: {status.text}", file=sys.stderr, flush=True)
        elif self._console is not None:
            sys.stderr.write(f"\r{rich_line(self._console, status, columns)}{_ERASE_TO_END}")
            self._painted = 1
        else:
            text = plain_line(status, columns)
            sys.stderr.write("\r" + text.ljust(self._painted))
            self._painted = len(text)
        sys.stderr.flush()

    def erase(self) -> None:
        """Erase the line until its next turn, so that other lines may be printed."""
        if not self._painted:
            return
        blank = _ERASE_TO_END
        if self._console is None:
            # With room for the ^C that the terminal has written behind it.
            columns = max(self._painted, min(self._painted + 2, columns_of(sys.stderr) - 1))
            blank = " " * columns + "\r"
        sys.stderr.write("\r" + blank)
        sys.stderr.flush()
        self._painted = 0


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


def status_of(activities: Sequence[Activity], otherwise: str, seconds: float) -> Status:
    """The oldest activity, or `otherwise` and for how many seconds."""
    if not activities:
        return Status(text=otherwise, measure=f"{seconds:.0f} s")
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
    if not now.total:
        return Status(text=text, measure=f"{now.seconds:.0f} s")
    if now.phase == "prompt":
        measure = f"{now.done:,} of {now.total:,} tokens"
    else:
        measure = f"{now.done / 1e6:,.0f} of {now.total / 1e6:,.0f} MB"
    measure += _time_left(now.done, now.total, now.seconds)
    return Status(text=text, done=min(now.done, now.total), total=now.total, measure=measure)


def status_of_count(text: str, done: int, total: int, seconds: float) -> Status:
    """So many of so many, or of an unknown number, for so many seconds."""
    if not total:
        return Status(text=text, measure=f"{done:,} so far")
    measure = f"{done:,} of {total:,}{_time_left(done, total, seconds)}"
    return Status(text=text, done=min(done, total), total=total, measure=measure)


def _time_left(done: int, total: int, seconds: float) -> str:
    """How long it still takes at this speed, once that can be told."""
    if seconds < 3 or not 0 < done < total:
        return ""
    left_s = seconds * (total - done) / done
    return f", {duration(left_s)} left"


def duration(seconds: float) -> str:
    """A rough time: seconds, minutes or hours."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def plain_line(status: Status, columns: int) -> str:
    """The status in at most `columns` characters."""
    text, bar = _fit(status, columns)
    if not bar:
        return text
    full = bar * status.done // status.total
    return f"{text} [{'#' * full}{'.' * (bar - full)}] {status.measure}"


def rich_line(console: Console, status: Status, columns: int) -> str:
    """The same with rich's bar and colours, which take no columns."""
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    text, bar = _fit(status, columns)
    shown = Text(text)
    shown.highlight_regex("^asteady:", "dim")
    parts: list[Text | ProgressBar] = [shown]
    if bar:
        parts = [
            shown.append(" "),
            # As wide as the plain one with its brackets.
            ProgressBar(total=status.total, completed=status.done, width=bar + 2),
            Text(f" {status.measure}"),
        ]
    with console.capture() as captured:
        console.print(*parts, sep="", end="", no_wrap=True, crop=False, overflow="ignore")
    return captured.get()


def _fit(status: Status, columns: int) -> tuple[str, int]:
    """The text and the width of the bar; without room for a bar 0, and the measure in the text."""
    text = f"asteady: {status.text}"
    if not status.total:
        return _cut(f"{text}, {status.measure}", columns), 0
    bar = min(_BAR_COLUMNS, columns - len(text) - len(status.measure) - 4)
    if bar >= _LEAST_BAR_COLUMNS:
        return text, bar
    # What is downloaded may have a long name; how far it is matters more.
    room = columns - len(status.measure) - 1
    return _cut(f"{_cut(text, max(room, 12))} {status.measure}", columns), 0


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
