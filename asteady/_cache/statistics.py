"""The counters of a cache, and its statistics under their public names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from asteady._cache.policy import Budget


@attrs.define
class Latency:
    """The number and total duration of the store's operations, waiting included."""

    count: int = 0
    total_s: float = 0.0

    @property
    def mean_s(self) -> float:
        return self.total_s / self.count if self.count else 0.0


@attrs.define
class Counters:
    """Since this process opened the cache; each call is counted once: hit, miss or coalesced."""

    hits: int = 0
    misses: int = 0
    coalesced: int = 0
    coalesced_across_processes: int = 0
    evictions: int = 0
    declined: int = 0
    oversized: int = 0
    damaged: int = 0
    errors: int = 0
    saved_s: float = 0.0


def described(
    now: Counters, flushed: Counters, totals: Mapping[str, Any], budget: Budget
) -> dict[str, Any]:
    """The statistics of one cache under their public names.

    `now` is what this process has counted, `flushed` the part of it that is already in the
    database, `totals` the database's own row: the sums over all processes and runs.
    """
    lookups = now.hits + now.misses
    return {
        "size": totals.get("entries", 0),
        "capacity": budget.max_entries,
        "hits": now.hits,
        "misses": now.misses,
        "coalesced": now.coalesced,
        "coalesced_across_processes": now.coalesced_across_processes,
        "evictions": now.evictions,
        "total_size_bytes": totals.get("size_bytes", 0),
        "max_size_bytes": budget.max_bytes,
        "hit_rate": now.hits / lookups if lookups else 0.0,
        "errors": now.errors,
        "declined": now.declined,
        "oversized": now.oversized,
        "damaged": now.damaged,
        "seconds_saved": now.saved_s,
        "policy": totals.get("policy", ""),
        "phi": totals.get("phi", 0.0),
        "tide_level": totals.get("level", 0.0),
        "ghosts": totals.get("ghosts_once", 0) + totals.get("ghosts_more", 0),
        "all_hits": totals.get("hits", 0) + now.hits - flushed.hits,
        "all_misses": totals.get("misses", 0) + now.misses - flushed.misses,
        "all_coalesced": totals.get("coalesced", 0) + now.coalesced - flushed.coalesced,
        "all_evictions": totals.get("evictions", 0),
        "all_seconds_saved": totals.get("saved_s", 0.0) + now.saved_s - flushed.saved_s,
    }
