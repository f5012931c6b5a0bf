"""Measures how far the sampled miss-ratio curve is from the exact one, as Markdown.

    python -m tests.benchmarks.sizing --traces DIR [--max-keys N] [NAME ...]

DIR has files of accesses as `asteady bench --accesses` reads them. The exact rates are those of LRU
caches of 60 capacities, evenly spaced by ratio, up to all keys; errors are in points.
"""

from __future__ import annotations

import argparse
import time
from collections import OrderedDict
from pathlib import Path

from asteady.operate import Access, Curve
from asteady.operate._benchmark import read_accesses
from asteady.operate._sizing import ReuseDistances

POINTS = 60


def exact(accesses: list[Access], capacity: float, unit: str) -> tuple[float, float]:
    """The shares of hits and of cost saved, of an LRU cache of this capacity."""
    cache: OrderedDict[str, int] = OrderedDict()
    used = hits = 0
    saved_s = 0.0
    for access in accesses:
        size = access.size_bytes if unit == "bytes" else 1
        size_before = cache.pop(access.key, None)
        if size_before is not None:
            hits += 1
            saved_s += access.cost_s
            used -= size_before
        cache[access.key] = size
        used += size
        while used > capacity:
            used -= cache.popitem(last=False)[1]
    return hits / len(accesses), saved_s / sum(access.cost_s for access in accesses)


def errors(accesses: list[Access], curve: Curve, unit: str) -> list[str]:
    """Mean and largest error of the hit rate and of the rate of seconds saved."""
    sizes = {access.key: access.size_bytes if unit == "bytes" else 1 for access in accesses}
    largest = sum(sizes.values())
    hits, saved = [], []
    for capacity in (largest ** (n / POINTS) for n in range(1, POINTS + 1)):
        hit_rate, saved_rate = exact(accesses, capacity, unit)
        hits.append(100 * abs(hit_rate - curve.hit_rate(capacity)))
        saved.append(100 * abs(saved_rate - curve.saved_rate(capacity)))
    return [f"{sum(found) / len(found):.2f} / {max(found):.2f}" for found in (hits, saved)]


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
        distances = ReuseDistances(options.max_keys)
        for access in accesses:
            distances.add(access)
        each_us = 1e6 * (time.perf_counter() - began_s) / len(accesses)
        columns = [
            column
            for unit in ("entries", "bytes")
            for column in errors(accesses, distances.curve(unit), unit)
        ]
        keys = len({access.key for access in accesses})
        print(
            f"| {file.name.split('.')[0]} | {len(accesses):,} | {keys:,} |"
            f" {distances.rate:.3f} | {' | '.join(columns)} | {each_us:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
