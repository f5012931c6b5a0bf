"""Replays access traces through the eviction policies: hits, and recompute seconds saved.

    python -m tests.benchmarks.policy [--traces DIR] [--only NAME] [--quick]

`tide`, `lru` and `lfu` are the store's own code, on the store's own rows in SQLite. The others are
written down here. A trace is gzip text with one access a line, ``key<TAB>size_bytes<TAB>cost_s``.
Where the directory has a README.md with a table of expected results, tide is held against it, and
the exit code is 1 if it is more than 0.3 points off anywhere. Without --traces, a Zipf trace is
made up.
"""

from __future__ import annotations

import argparse
import gzip
import heapq
import multiprocessing
import random
import re
import sqlite3
import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import attrs

from asteady._cache.policy import POLICIES, Budget, State, remember, touch
from asteady._cache.store.eviction_index import SqliteEvictionIndex
from asteady._cache.store.schema import TABLES
from tests.benchmarks.harness import table

Access: TypeAlias = tuple[str, int, float]
Trace: TypeAlias = list[Access]
Replay: TypeAlias = Callable[[Trace, Budget], tuple[float, float]]
ALLOWED_POINTS = 0.3


@attrs.frozen
class Row:
    """One row of the table: a trace under a budget, and what tide is expected to reach."""

    trace: str
    kind: str
    capacity: int
    expected: tuple[float, float] | None = None

    @property
    def budget(self) -> Budget:
        if self.kind == "count":
            return Budget(self.capacity, 2**62)
        return Budget(2**40, self.capacity)


class Score:
    """Counts hits and saved seconds of one replay."""

    def __init__(self, trace: Trace) -> None:
        self.accesses = len(trace)
        self.total_s = sum(cost_s for _, _, cost_s in trace)
        self.hits = 0
        self.saved_s = 0.0

    def hit(self, cost_s: float) -> None:
        self.hits += 1
        self.saved_s += cost_s

    @property
    def percent(self) -> tuple[float, float]:
        return 100 * self.hits / self.accesses, 100 * self.saved_s / self.total_s


def ours(name: str) -> Replay:
    def replay(trace: Trace, budget: Budget) -> tuple[float, float]:
        policy, state, score = POLICIES[name], State(), Score(trace)
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            connection.executescript(TABLES.format(columns="model TEXT"))
            connection.execute("BEGIN")
            index = SqliteEvictionIndex(connection)
            for number, (key, size_bytes, cost_s) in enumerate(trace):
                if number % 64 == 0:  # about as many as one group commit does
                    index.flush()
                    index = SqliteEvictionIndex(connection)
                if touch(policy, index, state, budget, key, 1):
                    score.hit(cost_s)
                elif size_bytes <= budget.max_bytes:
                    remember(policy, index, state, budget, key, size_bytes, cost_s)
        return score.percent

    return replay


def gdsf(trace: Trace, budget: Budget) -> tuple[float, float]:
    """Greedy Dual Size Frequency (Cherkasova 1998)."""
    score = Score(trace)
    live: dict[str, tuple[int, float]] = {}
    heap: list[tuple[float, str]] = []
    sizes: dict[str, int] = {}
    level, used = 0.0, 0
    for key, size_bytes, cost_s in trace:
        touches, _ = live.get(key, (0, 0.0))
        if touches:
            score.hit(cost_s)
        elif size_bytes > budget.max_bytes:
            continue
        else:
            while len(live) >= budget.max_entries or used + size_bytes > budget.max_bytes:
                priority, other = heapq.heappop(heap)
                if other in live and live[other][1] == priority:
                    del live[other]
                    used -= sizes[other]
                    level = priority
            used += size_bytes
            sizes[key] = size_bytes
        priority = level + (touches + 1) * cost_s / budget.share(size_bytes)
        live[key] = (touches + 1, priority)
        heapq.heappush(heap, (priority, key))
    return score.percent


def s3fifo(trace: Trace, budget: Budget) -> tuple[float, float]:
    """S3-FIFO (Yang et al., SOSP 2023): a small queue of a tenth, a main queue, ghosts."""
    score = Score(trace)
    by_bytes = budget.max_bytes < 2**60
    limit = budget.max_bytes if by_bytes else budget.max_entries
    small: deque[str] = deque()
    main: deque[str] = deque()
    ghosts: OrderedDict[str, int] = OrderedDict()
    where: dict[str, str] = {}
    uses: dict[str, int] = {}
    weights: dict[str, int] = {}
    small_used = main_used = ghosts_used = 0

    def remember_ghost(key: str) -> None:
        nonlocal ghosts_used
        ghosts[key] = weights[key]
        ghosts_used += weights[key]
        while ghosts_used > limit - limit // 10:
            ghosts_used -= ghosts.popitem(last=False)[1]

    def evict() -> None:
        nonlocal small_used, main_used
        if small_used > limit // 10 or not main:
            while small:
                key = small.popleft()
                small_used -= weights[key]
                if uses[key] > 1:
                    uses[key] = 0
                    main.append(key)
                    where[key] = "main"
                    main_used += weights[key]
                    if main_used <= limit - limit // 10:
                        continue
                    break
                del where[key]
                remember_ghost(key)
                return
        while main:
            key = main.popleft()
            if uses[key]:
                uses[key] -= 1
                main.append(key)
                continue
            main_used -= weights[key]
            del where[key]
            return

    for key, size_bytes, cost_s in trace:
        weight = size_bytes if by_bytes else 1
        if key in where:
            uses[key] = min(3, uses[key] + 1)
            score.hit(cost_s)
            continue
        if weight > limit:
            continue
        while small_used + main_used + weight > limit:
            evict()
        weights[key], uses[key] = weight, 0
        if key in ghosts:
            ghosts_used -= ghosts.pop(key)
            main.append(key)
            where[key] = "main"
            main_used += weight
        else:
            small.append(key)
            where[key] = "small"
            small_used += weight
    return score.percent


def steadytext(trace: Trace, budget: Budget) -> tuple[float, float]:
    """SteadyText's score: frequency / (1 + age in s), evicting to 80 %; an access a second."""
    score = Score(trace)
    live: dict[str, list[int]] = {}  # key: [uses, last use, size]
    used = 0
    for now, (key, size_bytes, cost_s) in enumerate(trace):
        entry = live.get(key)
        if entry is not None:
            entry[0] += 1
            entry[1] = now
            score.hit(cost_s)
            continue
        if size_bytes > budget.max_bytes:
            continue
        live[key] = [1, now, size_bytes]
        used += size_bytes
        if len(live) > budget.max_entries or used > budget.max_bytes:
            ranked = sorted(live, key=lambda k: (live[k][0] / (1 + now - live[k][1]), k))
            for other in ranked:
                if len(live) <= 0.8 * budget.max_entries and used <= 0.8 * budget.max_bytes:
                    break
                used -= live.pop(other)[2]
    return score.percent


REPLAYS: dict[str, Replay] = {
    "tide": ours("tide"),
    "LRU": ours("lru"),
    "LFU": ours("lfu"),
    "S3-FIFO": s3fifo,
    "GDSF": gdsf,
    "SteadyText": steadytext,
}


def read(path: Path) -> Trace:
    first: dict[str, Access] = {}
    trace = []
    with gzip.open(path, "rt") as file:
        for line in file:
            key, size_bytes, cost_s = line.rstrip("\n").split("\t")
            # A key keeps its first size and cost.
            trace.append(first.setdefault(key, (key, int(size_bytes), float(cost_s))))
    return trace


def made_up(accesses: int) -> Trace:
    """Zipf with exponent 1 over 20,000 keys, a third of them large and dear."""
    chance = random.Random(0)
    keys = [
        (f"{n:05}", chance.choice([500, 1500, 8000]), chance.random() * 3) for n in range(20000)
    ]
    weights = [1 / (rank + 1) for rank in range(len(keys))]
    return chance.choices(keys, weights, k=accesses)


def expected_rows(directory: Path) -> list[Row]:
    """The rows of a table with the columns trace, budget, capacity, ... TIDE, if there is one."""
    readme = directory / "README.md"
    rows: list[Row] = []
    head: list[str] = []
    for line in readme.read_text().splitlines() if readme.exists() else ():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if "TIDE" in cells and "capacity" in cells:
            head = cells
        elif head and len(cells) == len(head) and re.fullmatch(r"\d+", cells[2]):
            hits, saved = map(float, cells[head.index("TIDE")].split("/"))
            rows.append(Row(cells[0], cells[1], int(cells[2]), (hits, saved)))
    return rows


def default_rows(name: str, trace: Trace) -> list[Row]:
    distinct = {key: size_bytes for key, size_bytes, _ in trace}
    total = sum(distinct.values())
    return [Row(name, "count", max(64, len(distinct) // part)) for part in (100, 10)] + [
        Row(name, "bytes", total // part) for part in (100, 10)
    ]


def job(
    work: tuple[Path | None, Row, int, list[str]],
) -> tuple[Row, dict[str, tuple[float, float]]]:
    directory, row, accesses, names = work
    name = f"{row.trace}.tsv.gz"
    trace = made_up(accesses) if directory is None else read(directory / name)
    return row, {name: REPLAYS[name](trace, row.budget) for name in names}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, help="a directory of traces, *.tsv.gz")
    parser.add_argument("--only", default="", help="traces whose name contains this")
    parser.add_argument("--policy", action="append", choices=list(REPLAYS))
    parser.add_argument("--accesses", type=int, default=100_000, help="of the made-up trace")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    directory: Path | None = arguments.traces
    if directory is None:
        rows = default_rows("zipf", made_up(arguments.accesses))
    else:
        rows = expected_rows(directory) or [
            row
            for path in sorted(directory.glob("*.tsv.gz"))
            for row in default_rows(path.name.removesuffix(".tsv.gz"), read(path))
        ]
    names = arguments.policy or list(REPLAYS)
    work = [
        (directory, row, arguments.accesses, names) for row in rows if arguments.only in row.trace
    ]
    worst = 0.0
    lines = []
    sums = dict.fromkeys(names, (0.0, 0.0))
    with multiprocessing.Pool(arguments.processes) as pool:
        for row, found in pool.imap(job, work):
            cells = [f"{hits:.1f} / {saved:.1f}" for hits, saved in found.values()]
            if row.expected is not None and "tide" in found:
                off = [
                    ours - theirs for ours, theirs in zip(found["tide"], row.expected, strict=True)
                ]
                worst = max(worst, *map(abs, off))
                cells.append(" / ".join(f"{points:+.1f}" for points in off))
            for name, (hits, saved) in found.items():
                sums[name] = (sums[name][0] + hits, sums[name][1] + saved)
            lines.append([row.trace, row.kind, row.capacity, *cells])
            print(*lines[-1], file=sys.stderr, flush=True)
    means = [f"{hits / len(lines):.1f} / {saved / len(lines):.1f}" for hits, saved in sums.values()]
    compared = any(row.expected for row in rows)
    lines.append(["mean", "", "", *means, *([f"at most {worst:.2f}"] if compared else [])])
    table(
        "Percent of accesses that hit / of recompute seconds saved",
        ["trace", "budget", "capacity", *names, *(["tide - expected"] if compared else [])],
        lines,
    )
    return 1 if worst > ALLOWED_POINTS else 0


if __name__ == "__main__":
    sys.exit(main())
