"""What the parts of the cache's benchmark share: answers, an open cache, peers, and turns."""

from __future__ import annotations

import importlib
import logging
import sys
import tempfile
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from asteady._base.requests import Completion, Embedding
from asteady._base.settings import Settings
from asteady._cache.manager import CacheManager
from tests.benchmarks.harness import table

TEXT = "The cache remembers what was computed once, and gives it back at once. " * 8
_raw = np.random.default_rng(0).normal(size=384)
VECTOR = (_raw / np.linalg.norm(_raw)).astype(np.float32)
CAPACITY = 512
Figures = dict[str, tuple[float, float]]


def key_of(number: object) -> str:
    return f"{hash(('key', number)) & (2**256 - 1):064x}"


def completion() -> Completion:
    return Completion(
        text=TEXT,
        chunks=(TEXT[:40], TEXT[40:]),
        finish_reason="stop",
        prompt_tokens=9,
        completion_tokens=100,
        seed=42,
        model="builtin",
        fingerprint="f" * 64,
        cost_s=1.0,
    )


def embedding() -> Embedding:
    return Embedding(vector=VECTOR, tokens=9, model="builtin", fingerprint="e" * 64, cost_s=0.001)


@asynccontextmanager
async def opened(directory: str, **changes: Any) -> AsyncIterator[CacheManager]:
    manager = CacheManager(Settings(cache_dir=Path(directory) / "caches", **changes))
    await manager.open()
    try:
        yield manager
    finally:
        await manager.aclose()


def optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"{name} is not installed and is left out", file=sys.stderr)
        return None


def load_steadytext(sdist: Path | None) -> Any:
    """SteadyText's SQLite cache, without importing its models."""
    if sdist is None:
        return None
    utils: Any = types.ModuleType("utils")
    utils.logger = logging.getLogger("steadytext")
    utils.get_cache_dir = lambda: Path(tempfile.gettempdir())
    sys.modules["utils"] = utils
    sys.path.insert(0, str(sdist / "steadytext"))
    return importlib.import_module("sqlite_cache_backend").SQLiteDiskBackedFrecencyCache


async def async_per_call_us(call: Callable[[], Awaitable[object]], calls: int) -> float:
    start_s = time.perf_counter()
    for _ in range(calls):
        await call()
    return (time.perf_counter() - start_s) / calls * 1e6


async def rounds_of(runs: dict[str, Callable[[], Awaitable[float]]], rounds: int) -> Figures:
    results: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            results[name].append(await run())
    return {name: (float(np.median(found)), min(found)) for name, found in results.items()}


def show(title: str, unit: str, figures: Figures, ours: str) -> None:
    base = figures[ours][1]
    rows = [
        (name, f"{median:,.2f} ({least:,.2f})", f"{least / base:.2f}")
        for name, (median, least) in sorted(figures.items(), key=lambda item: item[1][1])
    ]
    table(title, ["", f"{unit}, median (minimum)", "minimum, asteady = 1"], rows)


async def done(value: object) -> object:
    return value
