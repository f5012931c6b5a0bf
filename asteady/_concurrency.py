"""Concurrency with a bound, for callers' tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

T = TypeVar("T")
R = TypeVar("R")


async def map_concurrently(
    fn: Callable[[T], Awaitable[R]], items: Sequence[T], *, limit: int, name: str = "item"
) -> list[R]:
    """The results of ``await fn(item)`` in the order of `items`, `limit` under way at once.

    The first error cancels the others and is raised, with a note that names its item's index.
    Cancelling cancels those under way; no further one is started.
    """
    results: dict[int, R] = {}
    failures: list[Exception] = []
    waiting = iter(enumerate(items))

    async def work() -> None:
        # All workers draw from one iterator; nothing is awaited between drawing and starting.
        for index, item in waiting:
            try:
                results[index] = await fn(item)
            except Exception as exc:
                exc.add_note(f"(at {name}[{index}])")
                failures.append(exc)
                group.cancel_scope.cancel()
                return

    async with anyio.create_task_group() as group:
        for _ in range(min(limit, len(items))):
            group.start_soon(work)
    if failures:
        raise failures[0]
    return [results[index] for index in range(len(items))]
