"""Concurrency with a bound, for callers' tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio
import anyio.lowlevel

T = TypeVar("T")
R = TypeVar("R")

# Where no call suspends, each of the 64 or so workers hands over after so many: then the loop is
# held for 256 calls at most.
_TURN = 4


async def map_concurrently(
    fn: Callable[[T], Awaitable[R]],
    items: Sequence[T],
    *,
    limit: int,
    name: str = "item",
    label: Callable[[T], str] | None = None,
) -> list[R]:
    """The results of ``await fn(item)`` in the order of `items`, `limit` under way at once.

    The first error cancels the others and is raised, with a note that names its item, by its index
    or by `label`. Other tasks get their turn also while no call of `fn` suspends.
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
                where = f"{name}[{index}]" if label is None else label(item)
                exc.add_note(f"(at {where})")
                failures.append(exc)
                group.cancel_scope.cancel()
                return
            if len(results) % _TURN == 0:
                await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        for _ in range(min(limit, len(items))):
            group.start_soon(work)
    if failures:
        raise failures[0]
    return [results[index] for index in range(len(items))]
