"""What the benchmarks of the cache share: a machine's description, medians in turns, a table."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence


def machine() -> str:
    """The machine in one line, without its name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()[0]
    return (
        f"{cores}-core {platform.machine()}, {platform.system()}, Python "
        f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}, load {load:.1f}"
    )


FIGURES: list[dict[str, object]] = []
"""The tables that were printed, for ``--figures``."""


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a Markdown table under a heading."""
    cells = [[str(cell) for cell in row] for row in rows]
    FIGURES.append({"title": title, "machine": machine(), "head": [*head], "rows": cells})
    print(f"\n### {title}\n\n_{machine()}_\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in cells:
        print("| " + " | ".join(row) + " |")
    sys.stdout.flush()


def per_call_us(call: Callable[[], object], calls: int) -> float:
    """Microseconds a call, over one run of so many."""
    start_s = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start_s) / calls * 1e6


def in_turns(
    runs: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, tuple[float, float]]:
    """Run each in turn, several rounds; the median and the least of its results.

    In turns, because what else the machine does changes from one second to the next. The least is
    what the code takes when nothing else is in its way.
    """
    results: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            results[name].append(run())
    return {name: (statistics.median(found), min(found)) for name, found in results.items()}
