"""Calls to a pool over an engine with gates, and waiting for what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from asteady._engine.api import Engine
from asteady._engine.pool import Pool, PoolStatistics
from tests.engine.gated import GatedEngine, ask
from tests.waiting import until

MakePool = Callable[..., Pool]
OpenPool = Callable[[Engine, int, int], Pool]


def start(pool: Pool, name: str, chunks: int = 0) -> asyncio.Task[Any]:
    return asyncio.ensure_future(pool.run(ask(name, chunks)))


async def settle(pool: Pool, condition: Callable[[PoolStatistics], bool]) -> None:
    """Wait until the pool's numbers are so; they change in other threads."""
    await until(lambda: condition(pool.statistics()))


async def queued(pool: Pool, count: int) -> None:
    """Wait until so many requests are in the queue: prepared, and without a slot."""
    await until(lambda: len(pool._queue) == count)


def admissions(engine: GatedEngine) -> list[str]:
    return [line.removeprefix("admit ") for line in engine.log if line.startswith("admit")]
