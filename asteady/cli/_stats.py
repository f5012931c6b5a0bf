"""The statistics of the caches as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asteady._base.settings import MEBIBYTE
from asteady.cli._output import Column, print_table

# The most important ones; `--json` prints all.
_ROWS = {
    "entries": "size",
    "of at most": "capacity",
    "bytes": "total_size_bytes",
    "of at most ": "max_size_bytes",
    "hits": "all_hits",
    "misses": "all_misses",
    "coalesced": "all_coalesced",
    "evictions": "all_evictions",
    "ghosts": "ghosts",
    "policy": "policy",
    "phi": "phi",
    "tide level": "tide_level",
}

Stats = Mapping[str, Mapping[str, Any]]
"""What `CacheManager.get_cache_stats` returns."""


def stats_table(caches: Stats) -> tuple[list[Column], list[list[str]]]:
    """The columns and rows."""
    rows = [
        [label.strip(), *(_shown(cache[name]) for cache in caches.values())]
        for label, name in _ROWS.items()
    ]
    rows.append(
        [
            "hit rate",
            *(hit_rate(cache["all_hits"], cache["all_misses"]) for cache in caches.values()),
        ]
    )
    return [Column(title=""), *(Column(title=name, right=True) for name in caches)], rows


def print_stats(caches: Stats) -> None:
    print_table(*stats_table(caches))
    print(f"\n{saved(caches)}")


def saved(caches: Stats) -> str:
    saved_s = sum(cache["all_seconds_saved"] for cache in caches.values())
    return f"the caches have saved {_duration(saved_s)} of computing"


def shared_line(server: Mapping[str, Any]) -> str:
    """What `CacheManager.shared_statistics` returned, or its "error"."""
    if "error" in server:
        return str(server["error"])
    used = f"{server['used_memory_bytes'] / MEBIBYTE:,.0f}"
    if server["max_memory_bytes"]:
        used += f" of {server['max_memory_bytes'] / MEBIBYTE:,.0f}"
    return (
        f"shared cache: {server['keys']:,} keys in {used} MB, {server['evictions']:,} evictions"
        f" ({server['policy']}, version {server['version']})"
    )


def hit_rate(hits: int, misses: int) -> str:
    return f"{hits / (hits + misses):.1%}" if hits + misses else "-"


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _duration(seconds: float) -> str:
    minutes, rest_s = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest_s:.0f} s" if minutes else f"{rest_s:.3g} s"
