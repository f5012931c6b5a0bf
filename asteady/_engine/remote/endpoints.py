"""Which server is asked next: the least busy one; those that failed are set aside for a while.

No I/O and no clock: times are arguments, in seconds of any clock that only moves forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import attrs

from asteady._engine.remote.reference import Address

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 16.0


@attrs.define(eq=False)
class Endpoint:
    """One server of a model, and how it is doing.

    It is set aside until `until_s`. `verified` says that it serves the model that it should; a
    server that could not be reached may be another one when it is back.
    """

    address: Address
    in_flight: int = 0
    failures: int = 0
    failed_s: float | None = None
    until_s: float = 0.0
    verified: bool = False

    @property
    def suspect(self) -> bool:
        """Whether it failed, not only by being busy, and has not been found well since."""
        return self.failures > 0 and not self.verified

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Within the block it has one more request."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def succeeded(self) -> None:
        self.failures = 0
        self.failed_s = None

    def failed(
        self, now_s: float, began_s: float, *, at_least_s: float = 0.0, jitter: float = 1.0
    ) -> None:
        """Set it aside, the longer the more often it failed in a row.

        A request that began before the last failure fails with it, and does not count again.
        `jitter` is a factor that keeps many clients from coming back at once.
        """
        if self.failed_s is None or began_s >= self.failed_s:
            self.failures += 1
            self.failed_s = now_s
            pause_s = min(FIRST_PAUSE_S * 2 ** (self.failures - 1), LONGEST_PAUSE_S) * jitter
            self.until_s = now_s + pause_s
        self.until_s = max(self.until_s, now_s + at_least_s)


def least_busy(
    endpoints: Sequence[Endpoint], now_s: float, but: Sequence[Endpoint] = ()
) -> Endpoint | None:
    """The one with the fewest requests of those that are not set aside, the first of equals."""
    there = [each for each in endpoints if each.until_s <= now_s and each not in but]
    return min(there, key=lambda each: each.in_flight, default=None)


def first_back_s(endpoints: Sequence[Endpoint]) -> float:
    """When the first one is no longer set aside."""
    return min(each.until_s for each in endpoints)
