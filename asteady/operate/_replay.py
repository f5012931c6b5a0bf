"""Accesses replayed through the cache's real policy, at any budget, without computing anything."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import attrs

from asteady._base.requests import Key
from asteady._cache.policy import POLICIES, Budget, Row, State, remember, touch
from asteady.operate._accesses import Access


@attrs.frozen(kw_only=True)
class Replayed:
    """What a cache of this capacity would have done. Rates are in percent.

    `compute_s` is what its misses would have cost, `saved_rate` the share of all cost that its hits
    would have saved.
    """

    capacity: int
    accesses: int
    hits: int
    hit_rate: float
    saved_rate: float
    compute_s: float


def replay(accesses: Iterable[Access], budget: Budget, policy: str = "tide") -> Replayed:
    """Look up each access, and remember what is not there, as the store does."""
    rules, ledger, state = POLICIES[policy], _Ledger(), State()
    count = hits = 0
    saved_s = compute_s = 0.0
    for access in accesses:
        count += 1
        if touch(rules, ledger, state, budget, access.key, 1):
            hits += 1
            saved_s += access.cost_s
            continue
        compute_s += access.cost_s
        if access.size_bytes <= budget.max_bytes:
            remember(rules, ledger, state, budget, access.key, access.size_bytes, access.cost_s)
    total_s = saved_s + compute_s
    return Replayed(
        capacity=budget.max_entries,
        accesses=count,
        hits=hits,
        hit_rate=100 * hits / count if count else 0.0,
        saved_rate=100 * saved_s / total_s if total_s else 0.0,
        compute_s=compute_s,
    )


class _Ledger:
    """A `Ledger` in memory: heaps whose stale entries are skipped when they come up."""

    def __init__(self) -> None:
        self._rows: dict[Key, Row] = {}
        self._live: list[tuple[float, Key]] = []
        self._ghosts: list[tuple[float, Key]] = []

    def find(self, key: Key) -> Row | None:
        return self._rows.get(key)

    def save(self, row: Row) -> None:
        self._rows[row.key] = row
        if row.live:
            heapq.heappush(self._live, (row.priority, row.key))
            # As many stale ones as living ones, and it is made anew.
            if len(self._live) > 64 + 4 * len(self._rows):
                self._live = [(r.priority, r.key) for r in self._rows.values() if r.live]
                heapq.heapify(self._live)
        else:
            heapq.heappush(self._ghosts, (row.turn, row.key))

    def remove(self, row: Row) -> None:
        self._rows.pop(row.key, None)

    def lowest(self) -> Row | None:
        while self._live:
            priority, key = self._live[0]
            row = self._rows.get(key)
            if row is not None and row.live and row.priority == priority:
                return row
            heapq.heappop(self._live)
        return None

    def drop_oldest_ghost(self) -> int | None:
        while self._ghosts:
            turn, key = heapq.heappop(self._ghosts)
            row = self._rows.get(key)
            if row is not None and not row.live and row.turn == turn:
                del self._rows[key]
                return row.touches
        return None
