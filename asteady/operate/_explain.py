"""Why an entry is kept, or next to go."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import attrs

from asteady._base.errors import InvalidRequestError
from asteady._base.requests import Key
from asteady._cache.store.api import Entry
from asteady._cache.store.stored_request import shown

if TYPE_CHECKING:
    from asteady._cache.cache import Cache
    from asteady._session.session import Session


@attrs.frozen(kw_only=True)
class Explanation:
    """Where an entry stands among the others; `str` of it says so in words.

    `goes_after` counts the entries that would go before it if room were needed now; `entry` is
    None, and the numbers are 0, if there is no such entry.
    """

    key: Key
    cache: str | None
    entry: Entry | None
    goes_after: int
    entries: int
    share_of_budget: float
    full: bool
    text: str

    def __str__(self) -> str:
        return self.text


async def explain(session: Session, key: Key) -> Explanation:
    """See `CacheInspector.explain`."""
    # Uses are told to the store within a second; an entry's place may lag by as much.
    listed = [
        (cache, await cache.entries(-1, "priority"))
        for cache in (session.cache.generation, session.cache.embedding)
    ]
    found = [
        (cache, entries, place)
        for cache, entries in listed
        for place, entry in enumerate(entries)
        if entry.key == key or entry.key.startswith(key.lower())
    ]
    # A whole key, which may be the beginning of others where somebody made them up.
    found = [one for one in found if one[1][one[2]].key == key] or found
    if len(found) > 1:
        raise InvalidRequestError(f"{len(found)} entries have keys that begin with {key!r}")
    if found:
        return await _in_cache(*found[0])
    return Explanation(
        key=key,
        cache=None,
        entry=None,
        goes_after=0,
        entries=0,
        share_of_budget=0.0,
        full=False,
        text=f"No cache has an entry {key[:12]}...: it was never kept, was evicted, or removed.",
    )


async def _in_cache(cache: Cache[Any], entries: list[Entry], place: int) -> Explanation:
    entry, goes_after = entries[place], len(entries) - 1 - place
    stats = await cache.statistics()
    capacity, max_bytes = stats["capacity"], stats["max_size_bytes"]
    share = max(entry.size_bytes / max_bytes, 1 / capacity)
    # Another entry of mean size no longer fits.
    size_bytes = stats["total_size_bytes"]
    mean_bytes = size_bytes / max(1, len(entries))
    full = len(entries) >= capacity or size_bytes + mean_bytes > max_bytes
    return Explanation(
        key=entry.key,
        cache=cache.kind,
        entry=entry,
        goes_after=goes_after,
        entries=len(entries),
        share_of_budget=share,
        full=full,
        text="\n".join(_sentences(cache.kind, stats, entry, goes_after, len(entries), share, full)),
    )


def _sentences(
    kind: str,
    stats: dict[str, Any],
    entry: Entry,
    goes_after: int,
    entries: int,
    share: float,
    full: bool,
) -> list[str]:
    uses = "once" if entry.touches == 1 else f"{entry.touches} times"
    age_s = max(0.0, time.time() - entry.last_used_s)
    where = f"The {kind} cache has {entries} of {stats['capacity']} entries"
    if not full:
        fate = f"{where}, so nothing has to go."
    elif goes_after == 0:
        fate = f"{where}: this one is the next to go."
    else:
        fate = f"{where}: {goes_after} would go before this one."
    policy = {
        "tide": (
            f"Its priority is {entry.priority:.4g}; the tide, which rises as entries go, is at"
            f" {stats['tide_level']:.4g}. Each use lifts it by what it cost, for its share of the"
            " budget."
        ),
        "lru": "The entry goes that was used longest ago.",
        "lfu": "The entry goes that was used least often; among equals, longest ago.",
    }.get(str(stats["policy"]), "")
    asked = [] if entry.prompt is None else [f"It is the answer to {shown(entry.prompt)}."]
    return [
        *asked,
        fate,
        f"It was used {uses}, the last time {_ago(age_s)} ago; it took {entry.cost_s:.3g} s to"
        f" compute, and takes {entry.size_bytes:,} bytes, {100 * share:.2g} % of the scarcer"
        " budget.",
        policy,
    ]


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
