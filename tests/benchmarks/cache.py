"""Measures the cache, and its peers in turns with it.

    python -m tests.benchmarks.cache [--part NAME ...] [--rounds N] [--steadytext DIR]

Parts: warm, disk, put, mixed, size. --steadytext names SteadyText's unpacked sdist; its SQLite
backend is loaded from there without the rest of it. Peers that are not installed are left out.

Every figure is a median over rounds in turns, with the least in brackets. Quote ratios of one run:
other programs on the machine change every figure.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from tests.benchmarks.cache_hits import disk, warm
from tests.benchmarks.cache_peers import load_steadytext
from tests.benchmarks.cache_puts import mixed, put, size

PARTS = {"warm": warm, "disk": disk, "put": put, "mixed": mixed, "size": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", choices=list(PARTS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steadytext", type=Path, help="SteadyText's unpacked sdist")
    arguments = parser.parse_args()
    steadytext = load_steadytext(arguments.steadytext)
    for name in arguments.part or PARTS:
        asyncio.run(PARTS[name](arguments.rounds, steadytext))


if __name__ == "__main__":
    main()
