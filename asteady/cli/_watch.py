"""``asteady cache stats --watch``: the statistics again and again."""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from asteady._base.errors import InvalidRequestError
from asteady.cli._common import opened_manager, settings_as_found
from asteady.cli._output import console_of, rich_table
from asteady.cli._stats import Stats, hit_rate, print_stats, saved, stats_table

if TYPE_CHECKING:
    from rich.console import Console, Group

DEFAULT_INTERVAL_S = 2.0

Show = Callable[[Stats, str], None]
"""Called with the statistics, and with what happened since the last time."""


def watch(interval_s: float, *, as_json: bool) -> int:
    """Print the statistics until Ctrl-C, which is how it ends: the exit code is 0."""
    if not 0 < interval_s < math.inf:
        raise InvalidRequestError(
            f"--watch {interval_s:g} is not allowed: it is a number of seconds above 0"
        )
    with suppress(KeyboardInterrupt):
        asyncio.run(_watch(interval_s, as_json))
    return 0


async def _watch(interval_s: float, as_json: bool) -> None:
    before: Stats | None = None
    async with opened_manager(settings_as_found()) as manager:
        with _display(as_json) as show:
            while True:
                now = await manager.get_cache_stats()
                show(now, "" if before is None else _changes(before, now, interval_s))
                before = now
                await asyncio.sleep(interval_s)


@contextmanager
def _display(as_json: bool) -> Iterator[Show]:
    console = None if as_json else console_of(sys.stdout)
    if console is None:
        yield _print_json if as_json else _print
        return
    from rich.live import Live

    with Live(console=console, auto_refresh=False) as live:

        def show(stats: Stats, changes: str) -> None:
            live.update(_rendered(console, stats, changes), refresh=True)

        yield show


def _rendered(console: Console, stats: Stats, changes: str) -> Group:
    from rich.console import Group
    from rich.text import Text

    now = Text(time.strftime("%H:%M:%S  ") + changes, style="dim")
    return Group(rich_table(*stats_table(stats)), Text(f"\n{saved(stats)}"), now)


def _print_json(stats: Stats, changes: str) -> None:
    print(json.dumps(stats), flush=True)


def _print(stats: Stats, changes: str) -> None:
    print(time.strftime("%H:%M:%S  ") + changes)
    print_stats(stats)
    print(flush=True)


def _changes(before: Stats, now: Stats, seconds: float) -> str:
    def since(name: str) -> int:
        return sum(int(now[kind][name]) - int(before[kind][name]) for kind in now)

    hits, misses = since("all_hits"), since("all_misses")
    return f"in the last {seconds:g} s: {hits:,} hits, {misses:,} misses ({hit_rate(hits, misses)})"
