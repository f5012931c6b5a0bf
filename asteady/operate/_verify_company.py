"""The smallest company in which an answer still differs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


async def smallest_company(
    company: Sequence[T], differs: Callable[[list[T]], Awaitable[bool]], tries: int
) -> list[T]:
    """A part of `company`, in its order, in which ``await differs(part)`` is still true.

    Delta debugging (`ddmin` of Zeller & Hildebrandt, "Simplifying and Isolating Failure-Inducing
    Input", IEEE Transactions on Software Engineering 28(2), 2002): parts of half the size, then
    what remains without one of them, then smaller parts. Without the limit of `tries` nobody could
    be taken away from the result; a difference that does not show again leaves `company` as it is.
    """
    beside = list(company)
    parts = 2
    while len(beside) > 1:
        size = -(-len(beside) // parts)
        starts = range(0, len(beside), size)
        tests = [(beside[start : start + size], 2) for start in starts]
        if len(tests) > 2:  # of two halves each is what remains without the other
            tests += [(beside[:at] + beside[at + size :], max(parts - 1, 2)) for at in starts]
        for part, next_parts in tests:
            if tries == 0:
                return beside
            tries -= 1
            if await differs(part):
                beside, parts = part, next_parts
                break
        else:
            if size == 1:
                break
            parts = min(2 * parts, len(beside))
    return beside
