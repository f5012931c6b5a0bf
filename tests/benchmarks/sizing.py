"""Measures how far the sampled miss-ratio curve is from the exact one, as Markdown.

    python -m tests.benchmarks.sizing --traces DIR [--max-keys N] [NAME ...]

DIR has files of accesses as `asteady bench --accesses` reads them. Errors are in points, at 60
capacities evenly spaced by ratio, up to the largest that matters.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from asteady.operate._accesses import Access, read_accesses
from asteady.operate._shards import Curve, Shards

POINTS = 60


def taken(accesses: list[Access], max_keys: int) -> Shards:
    shards = Shards(max_keys)
    for access in accesses:
        shards.add(access)
    return shards


def errors(exact: Curve, sampled: Curve, rate: Callable[[Curve, float], float]) -> list[float]:
    last = exact.capacities[-1]
    return [
        100 * abs(rate(exact, capacity) - rate(sampled, capacity))
        for capacity in (last ** (n / POINTS) for n in range(1, POINTS + 1))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--max-keys", type=int, default=8192)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    print(f"At most {options.max_keys:,} keys; mean / largest error in points.\n")
    print("| trace | accesses | keys | rate | entries: hits | saved | bytes: hits | saved | us |")
    print("|---|---|---|---|---|---|---|---|---|")
    for file in sorted(options.traces.glob("*.tsv*")):
        if options.names and not any(name in file.name for name in options.names):
            continue
        accesses = read_accesses(file)
        began_s = time.perf_counter()
        sampled = taken(accesses, options.max_keys)
        each_us = 1e6 * (time.perf_counter() - began_s) / len(accesses)
        exact = taken(accesses, len(accesses))
        columns = []
        for true, guessed in (
            (exact.by_entries(), sampled.by_entries()),
            (exact.by_bytes(), sampled.by_bytes()),
        ):
            for rate in (Curve.hit_rate, Curve.saved_rate):
                found = errors(true, guessed, rate)
                columns.append(f"{sum(found) / len(found):.2f} / {max(found):.2f}")
        print(
            f"| {file.name.split('.')[0]} | {len(accesses):,} | {exact.unique:,.0f} |"
            f" {sampled.rate:.3f} | {' | '.join(columns)} | {each_us:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
