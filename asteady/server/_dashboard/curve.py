"""The share of requests that caches of other sizes would answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from asteady._base.requests import Key
from asteady.operate import Access
from asteady.operate._sizing import ReuseDistances

# The page has room for so many points.
_POINTS = 60
# Computing a curve takes up to some milliseconds on the event loop.
_EVERY_S = 10.0
_MAX_KEYS = 4096


class CapacityCurve:
    """Learns from accesses; the points are computed when they are asked for, at most every 10 s."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._distances = ReuseDistances(_MAX_KEYS)
        self._clock = clock
        self._computed_s = 0.0
        self._found: dict[str, Any] | None = None
        self._capacity = 0

    def add(self, key: Key, uses: int, cost_s: float) -> None:
        # How large the entry is does not matter to capacities in entries.
        self._distances.add(Access(key=key, size_bytes=0, cost_s=cost_s), uses)

    def points(self, capacity: int) -> dict[str, Any] | None:
        """Capacities in entries with the miss ratios from 0 to 1 that they would give.

        `now` is that at `capacity`, `best` that of an unlimited cache. None if nothing was asked.
        """
        now_s = self._clock()
        if self._found is None or capacity != self._capacity or now_s > self._computed_s + _EVERY_S:
            self._computed_s, self._capacity = now_s, capacity
            self._found = self._compute(capacity)
        return self._found

    def _compute(self, capacity: int) -> dict[str, Any] | None:
        distances = self._distances
        if not distances.accesses:
            return None
        curve = distances.curve("entries")
        last = max(curve.capacities[-1] if curve.capacities else 1, 2 * capacity)
        steps = range(_POINTS)
        capacities = sorted({round(last ** (step / (_POINTS - 1))) for step in steps} | {capacity})
        return {
            "accesses": distances.accesses,
            "capacity": capacity,
            "now": 1 - curve.hit_rate(capacity),
            "best": 1 - (curve.hits[-1] if curve.hits else 0.0),
            "capacities": capacities,
            "miss_ratios": [1 - curve.hit_rate(each) for each in capacities],
        }
