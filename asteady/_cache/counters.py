"""What a cache counts."""

from __future__ import annotations

import attrs


@attrs.define
class Counters:
    """Since this process opened the cache; each call is counted once: hit, miss or coalesced."""

    hits: int = 0
    misses: int = 0
    coalesced: int = 0
    coalesced_across_processes: int = 0
    coalesced_across_machines: int = 0
    shared_hits: int = 0
    shared_misses: int = 0
    shared_errors: int = 0
    evictions: int = 0
    declined: int = 0
    oversized: int = 0
    damaged: int = 0
    delayed: int = 0
    errors: int = 0
    saved_s: float = 0.0


@attrs.define(weakref_slot=True)
class NamespaceLookups:
    """The calls under one namespace; each counts once: hit, miss or coalesced."""

    hits: int = 0
    misses: int = 0
    coalesced: int = 0
