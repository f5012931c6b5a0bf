"""How large the cache should be: miss-ratio curves from its own access stream."""

from __future__ import annotations

import hashlib
import heapq
import json
import logging
import math
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import anyio.to_thread
import attrs

from asteady._base import validation
from asteady._base.files import AnyPath, write_atomically
from asteady._base.public import public
from asteady._base.requests import KINDS, GenerateRequest, Key, Kind
from asteady._base.settings import MEBIBYTE, Settings
from asteady._base.validation import shorten
from asteady._cache.store.stored_request import prompt_of
from asteady._session.observe import Observed
from asteady._session.session import Session
from asteady.operate._benchmark import Access, access_of
from asteady.operate._resolve_session import opened_session, session_now

logger = logging.getLogger("asteady")

SizeGoal: TypeAlias = Literal["seconds", "hits"]

_VERSION = 1
# Keeps the largest error under 1 point on every trace that was measured (docs/operate/sizing.md),
# in some megabytes of memory.
_MAX_KEYS = 8192
# A prompt used more often than this counts as frequently used.
_FREQUENT = 5
_PROMPT_CHARACTERS = 60
_HASH_RANGE = 1 << 32
# Distances are rounded up to this many significant bits: to one part in 256.
_DISTANCE_BITS = 9
# Distance to how many accesses have it, and their cost in seconds.
_Histogram: TypeAlias = dict[int, tuple[float, float]]
_HISTOGRAMS = ("near entries", "near bytes", "far entries", "far bytes")
_FIRST_USE = -1  # in a histogram, the distance of keys that are new


@public
@attrs.frozen(kw_only=True)
class Curve:
    """Shares, from 0 to 1, that an LRU cache would answer, by capacity in entries or in bytes.

    `hits[i]` (of accesses) and `saved[i]` (of compute time) hold from `capacities[i]` to below the
    next capacity; below the first one they are 0. The last ones are those of an unlimited cache.
    """

    capacities: tuple[int, ...]
    hits: tuple[float, ...]
    saved: tuple[float, ...]

    def hit_rate(self, capacity: float) -> float:
        """The share of accesses that would be hits."""
        at = bisect_right(self.capacities, capacity)
        return self.hits[at - 1] if at else 0.0

    def saved_rate(self, capacity: float) -> float:
        """The share of compute time that hits would save."""
        at = bisect_right(self.capacities, capacity)
        return self.saved[at - 1] if at else 0.0

    def smallest(self, target: float, rates: Sequence[float]) -> int:
        """The smallest capacity at which `rates` (`hits` or `saved`) reach this share of their last
        value; 0 if that is 0."""
        if not rates or rates[-1] <= 0:
            return 0
        wanted = target * rates[-1]
        return next(
            capacity
            for capacity, rate in zip(self.capacities, rates, strict=True)
            if rate >= wanted - 1e-12
        )


class ReuseDistances:
    """Miss-ratio curves of an access stream in bounded memory. No I/O, no clock.

    The reuse distance of an access is how many keys (or bytes) were used since the last use of its
    key, itself included: it hits in every LRU cache of at least that capacity. Reuses among the
    `max_keys` / 8 keys used last are all counted. Longer distances are sampled by key: a key is in
    the sample if its hash is below a threshold, so all of its accesses are or none, and distances
    within the sample are divided by the share of keys in it (C. Waldspurger et al., "Efficient MRC
    Construction with SHARDS", FAST 2015). The threshold falls when more than `max_keys` keys are in
    the sample; until then the curves are exact.
    """

    def __init__(self, max_keys: int = _MAX_KEYS) -> None:
        self.max_keys = max_keys
        self.accesses = 0
        self.cost_s = 0.0
        self._threshold = _HASH_RANGE
        self._recent = _Recency()
        self._sample = _Recency()
        self._sample_hashes: list[tuple[int, Key]] = []  # a heap of negated hashes, highest first
        self._histograms = {name: _Histogram() for name in _HISTOGRAMS}

    @property
    def rate(self) -> float:
        """The share of keys that is sampled now."""
        return self._threshold / _HASH_RANGE

    @property
    def tracked(self) -> int:
        """How many keys are in memory; some are counted twice."""
        return len(self._recent) + len(self._sample_hashes)

    @property
    def unique(self) -> float:
        """How many different keys were used; an estimate if not all are sampled."""
        return len(self._sample) / self.rate

    def add(self, access: Access, uses: int = 1) -> None:
        """Count one access, or `uses` in a row. Takes some microseconds."""
        self.accesses += uses
        self.cost_s += uses * access.cost_s
        near = self._recent.use(access.key, access.size_bytes)
        if len(self._recent) > max(1, self.max_keys // 8):
            self._recent.drop(self._recent.oldest())
        if near is not None:
            self._count("near", near, access.cost_s, 1.0)
        if uses > 1:
            self._count("near", (0, 0, access.size_bytes), access.cost_s, 1 / (uses - 1))
        hashed = _hash(access.key)
        if hashed >= self._threshold:
            return
        far = self._sample.use(access.key, access.size_bytes)
        if near is None:
            self._count("far", far, access.cost_s, self.rate)
        if far is None:
            heapq.heappush(self._sample_hashes, (-hashed, access.key))
            while len(self._sample) > self.max_keys:
                self._lower_threshold()

    def curve(self, unit: Literal["entries", "bytes"]) -> Curve:
        """The curve by capacity."""
        near, far = self._histograms[f"near {unit}"], self._histograms[f"far {unit}"]
        # How many accesses are not near is known. Scaling to it corrects for hot keys that are
        # in the sample, or are not.
        near_count, near_cost_s = _totals(near)
        far_count, far_cost_s = _totals(far)
        per_count = _ratio(self.accesses - near_count, far_count)
        per_cost = _ratio(self.cost_s - near_cost_s, far_cost_s)
        count = cost_s = 0.0
        hits: list[float] = []
        saved: list[float] = []
        capacities = sorted({*near, *far} - {_FIRST_USE})
        for capacity in capacities:
            near_count, near_cost_s = near.get(capacity, (0.0, 0.0))
            far_count, far_cost_s = far.get(capacity, (0.0, 0.0))
            count += near_count + per_count * far_count
            cost_s += near_cost_s + per_cost * far_cost_s
            hits.append(min(1.0, _ratio(count, self.accesses)))
            saved.append(min(1.0, _ratio(cost_s, self.cost_s)))
        return Curve(capacities=tuple(capacities), hits=tuple(hits), saved=tuple(saved))

    def state(self) -> dict[str, Any]:
        """Everything, ready for JSON; `restored` reads it."""
        return {
            "max_keys": self.max_keys,
            "accesses": self.accesses,
            "cost_s": self.cost_s,
            "threshold": self._threshold,
            "recent": self._recent.in_order(),
            "sample": self._sample.in_order(),
            **{name: sorted(found.items()) for name, found in self._histograms.items()},
        }

    @classmethod
    def restored(cls, state: dict[str, Any]) -> ReuseDistances:
        """What gave this `state`. Raises KeyError, TypeError or ValueError for anything else."""
        found = cls(int(state["max_keys"]))
        found.accesses = int(state["accesses"])
        found.cost_s = float(state["cost_s"])
        found._threshold = int(state["threshold"])
        found._recent = _Recency(state["recent"])
        found._sample = _Recency(state["sample"])
        found._sample_hashes = [(-_hash(key), key) for key, _ in found._sample.in_order()]
        heapq.heapify(found._sample_hashes)
        for name, histogram in found._histograms.items():
            for distance, (count, cost_s) in state[name]:
                histogram[int(distance)] = (float(count), float(cost_s))
        return found

    def _count(
        self, part: str, reuse: tuple[int, int, int] | None, cost_s: float, rate: float
    ) -> None:
        entries = size_bytes = float(_FIRST_USE)
        if reuse is not None:
            others, other_bytes, own_bytes = reuse
            entries, size_bytes = others / rate + 1, other_bytes / rate + own_bytes
        for unit, distance in (("entries", entries), ("bytes", size_bytes)):
            histogram = self._histograms[f"{part} {unit}"]
            capacity = rounded_up(math.ceil(distance))
            counted, counted_s = histogram.get(capacity, (0.0, 0.0))
            histogram[capacity] = (counted + 1 / rate, counted_s + cost_s / rate)

    def _lower_threshold(self) -> None:
        """Lower the threshold to the highest hash in the sample, and drop the keys that have it."""
        self._threshold = -self._sample_hashes[0][0]
        while self._sample_hashes and -self._sample_hashes[0][0] >= self._threshold:
            self._sample.drop(heapq.heappop(self._sample_hashes)[1])


class _Recency:
    """Keys in the order of their last use, each with a size.

    Plain lists: to move and to sum a few thousand numbers takes microseconds.
    """

    def __init__(self, keys: Iterable[tuple[Key, int]] = ()) -> None:
        self._last_uses: dict[Key, int] = {}  # ascending, like the next
        self._sorted_uses: list[int] = []
        self._sizes: list[int] = []  # parallel to it
        self._uses = 0
        for key, size_bytes in keys:
            self.use(str(key), int(size_bytes))

    def __len__(self) -> int:
        return len(self._last_uses)

    def use(self, key: Key, size_bytes: int) -> tuple[int, int, int] | None:
        """Move a key to the end.

        Returns how many other keys were used since its last use, their bytes together, and its own
        size until now; None if it is new.
        """
        found = None
        if key in self._last_uses:
            at, size_before = self.drop(key)
            found = (len(self._sizes) - at, sum(self._sizes[at:]), size_before)
        self._uses += 1
        self._last_uses[key] = self._uses
        self._sorted_uses.append(self._uses)
        self._sizes.append(size_bytes)
        return found

    def drop(self, key: Key) -> tuple[int, int]:
        """Remove a key; returns its position, the oldest being 0, and its size."""
        at = bisect_left(self._sorted_uses, self._last_uses.pop(key))
        del self._sorted_uses[at]
        return at, self._sizes.pop(at)

    def oldest(self) -> Key:
        return next(iter(self._last_uses))

    def in_order(self) -> list[tuple[Key, int]]:
        return list(zip(self._last_uses, self._sizes, strict=True))


def rounded_up(distance: int) -> int:
    """The largest of the distances that are counted together with this one."""
    shift = max(0, distance.bit_length() - _DISTANCE_BITS)
    return (((distance >> shift) + 1) << shift) - 1


def _totals(histogram: _Histogram) -> tuple[float, float]:
    # fsum does not depend on the order, which differs after `restored`.
    counts, costs_s = zip(*histogram.values(), strict=True) if histogram else ((), ())
    return math.fsum(counts), math.fsum(costs_s)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _hash(key: Key) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "little")


@public
@attrs.frozen(kw_only=True)
class CachePriority:
    """A key that was used, and what keeping its entry saves.

    `saves_s` is the computing time of its uses after the first one. `prompt` is the beginning of
    its prompt.
    """

    key: Key
    prompt: str
    seed: int | None
    count: int
    cost_s: float
    size_bytes: int
    saves_s: float


class UseCounts:
    """Uses of up to 2 x `limit` keys; beyond, the half that saves least is dropped."""

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._by_key: dict[Key, CachePriority] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, access: Access, prompt: str = "", seed: int | None = None) -> None:
        # Re-inserted at the end: among keys that save the same, the oldest are dropped.
        known = self._by_key.pop(access.key, None)
        self._by_key[access.key] = CachePriority(
            key=access.key,
            prompt=prompt or (known.prompt if known else ""),
            seed=seed if seed is not None else (known.seed if known else None),
            count=known.count + 1 if known else 1,
            cost_s=access.cost_s,
            size_bytes=access.size_bytes,
            saves_s=known.saves_s + access.cost_s if known else 0.0,
        )
        if len(self._by_key) > 2 * self._limit:
            by_saving = sorted(self._by_key.values(), key=lambda use: use.saves_s)
            for use in by_saving[: len(self._by_key) - self._limit]:
                del self._by_key[use.key]

    def top(self, n: int) -> list[CachePriority]:
        """The `n` keys that save most, best first."""
        return sorted(self._by_key.values(), key=lambda use: (-use.saves_s, use.key))[:n]

    def used_more_than(self, count: int) -> int:
        """How many keys were used more often than this."""
        return sum(1 for use in self._by_key.values() if use.count > count)

    def state(self) -> list[dict[str, Any]]:
        return [attrs.asdict(use) for use in self._by_key.values()]

    @classmethod
    def restored(cls, state: list[dict[str, Any]]) -> UseCounts:
        """What gave this `state`. Raises TypeError for anything else."""
        found = cls()
        for record in state:
            use = CachePriority(**record)
            found._by_key[use.key] = use
        return found


@public
@attrs.frozen(kw_only=True)
class SizeRecommendation:
    """How large the cache should be. Rates are in percent: of accesses if `by` is "hits", of
    compute time if it is "seconds".

    `entries` and `size_bytes` are the smallest capacities that reach `target` of `best_rate`, which
    is the rate of an unlimited cache; both are 0 if no key was used twice. `rate` is that at
    `entries`.
    """

    by: SizeGoal
    target: float
    entries: int
    size_bytes: int
    rate: float
    best_rate: float
    current_entries: int
    current_size_bytes: int
    current_rate: float
    accesses: int
    total_unique: int
    frequently_used: int

    @property
    def recommended_size(self) -> int:
        """The same as `entries`."""
        return self.entries

    def __str__(self) -> str:
        if not self.accesses:
            return "no accesses were recorded yet, so there is no recommendation"
        if not self.entries:
            return (
                f"no request was repeated in {self.accesses:,} accesses: no cache size would give"
                " hits"
            )
        what = "of the computing time" if self.by == "seconds" else "of the requests"
        return (
            f"room for {_room(self.entries, self.size_bytes)} saves {self.rate:.1f} % {what}"
            f" (no size saves more than {self.best_rate:.1f} %); the cache now has room for"
            f" {_room(self.current_entries, self.current_size_bytes)}, which saves"
            f" {self.current_rate:.1f} %"
        )


@public
class CacheOptimizer:
    """Learns from the accesses to one cache what rates every size of it would give.

    Within its block it observes all accesses of the session::

        async with CacheOptimizer(session) as optimizer:
            ...  # the program works
        print(optimizer.recommend())

    What it has learnt is read from the cache's directory when the block begins, and written there
    when it ends and by `save`. So it adds up over runs, and ``asteady cache size`` shows it. If two
    processes share a directory, the last one to write wins.

    Args:
        session: default: the running loop's default session.
        cache_type: "generation" or "embedding".
        max_keys: how many keys to track; if there are more, they are sampled.
        remember: whether to read and write the file.
        settings: whose capacities are the current ones; default: those of the session.
    """

    def __init__(
        self,
        session: Session | None = None,
        *,
        cache_type: Kind = "generation",
        max_keys: int = _MAX_KEYS,
        remember: bool = True,
        settings: Settings | None = None,
    ) -> None:
        self.cache_type: Kind = validation.one_of("cache_type", cache_type, KINDS)
        self._distances = ReuseDistances(validation.whole_number("max_keys", max_keys, 1))
        self._uses = UseCounts()
        self._given = session
        self._settings = settings or (session_now(session).settings if session else None)
        self._remember = remember
        self._observing: AbstractContextManager[None] | None = None

    def __repr__(self) -> str:
        return f"<CacheOptimizer {self.cache_type}: {self._distances.accesses} accesses>"

    async def __aenter__(self) -> CacheOptimizer:
        session = await opened_session(self._given)
        self._settings = session.settings
        self._remember = self._remember and not session.settings.disable_cache
        if self._remember and not self._distances.accesses:
            await anyio.to_thread.run_sync(self.load, state_path(session.settings, self.cache_type))
        self._observing = session.observe(self._observe, everywhere=True)
        self._observing.__enter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        observing, self._observing = self._observing, None
        if observing is not None:
            observing.__exit__(None, None, None)
        if self._remember:
            with anyio.CancelScope(shield=True):
                try:
                    await self.save()
                except OSError as failure:
                    logger.warning("what the CacheOptimizer learnt was not written: %s", failure)

    def record(self, access: Access, *, prompt: str = "", seed: int | None = None) -> None:
        """Count one access."""
        self._distances.add(access)
        self._uses.add(access, shorten(prompt, _PROMPT_CHARACTERS), seed)

    def track_usage(
        self, prompt: str, seed: int, generation_time: float, size_bytes: int = 1
    ) -> None:
        """Count one use of a prompt by hand; `generation_time` is in seconds.

        Not needed within the block, where every call of the session is observed.
        """
        key = hashlib.sha256(repr((prompt, seed)).encode()).hexdigest()
        access = Access(key=key, size_bytes=size_bytes, cost_s=generation_time)
        self.record(access, prompt=prompt, seed=seed)

    def curve(self) -> Curve:
        """The rates by capacity in entries."""
        return self._distances.curve("entries")

    def curve_by_bytes(self) -> Curve:
        """The rates by capacity in bytes."""
        return self._distances.curve("bytes")

    def recommend(self, target: float = 0.95, *, by: SizeGoal = "seconds") -> SizeRecommendation:
        """The smallest capacity that reaches this share of the best possible rate.

        Args:
            target: above 0, at most 1.
            by: "seconds" of computation saved, or "hits".

        Raises:
            InvalidRequestError: an argument is not allowed.
        """
        validation.share("target", target)
        validation.one_of("by", by, get_args(SizeGoal))
        entries, sizes = self.curve(), self.curve_by_bytes()
        settings = self._settings or Settings()
        capacity: int = getattr(settings, f"{self.cache_type}_cache_capacity")
        max_bytes = int(getattr(settings, f"{self.cache_type}_cache_max_size_mb") * MEBIBYTE)

        def rates(curve: Curve) -> tuple[float, ...]:
            return curve.saved if by == "seconds" else curve.hits

        def rate(curve: Curve, size: int) -> float:
            return 100 * (curve.saved_rate(size) if by == "seconds" else curve.hit_rate(size))

        found = entries.smallest(target, rates(entries))
        return SizeRecommendation(
            by=by,
            target=target,
            entries=found,
            size_bytes=sizes.smallest(target, rates(sizes)),
            rate=rate(entries, found),
            best_rate=100 * rates(entries)[-1] if rates(entries) else 0.0,
            current_entries=capacity,
            current_size_bytes=max_bytes,
            # Both budgets hold, so the scarcer one decides.
            current_rate=min(rate(entries, capacity), rate(sizes, max_bytes)),
            accesses=self._distances.accesses,
            total_unique=round(self._distances.unique),
            frequently_used=self._uses.used_more_than(_FREQUENT),
        )

    recommend_cache_size = recommend

    def get_cache_priorities(self, top_n: int = 20) -> list[CachePriority]:
        """The keys whose entries save most by being kept, best first."""
        return self._uses.top(top_n)

    async def save(self) -> None:
        """Write what was learnt to the cache's directory.

        Raises:
            OSError: it cannot be written.
        """
        path = state_path(self._settings or Settings.from_environment(), self.cache_type)
        state = {
            "version": _VERSION,
            "distances": self._distances.state(),
            "uses": self._uses.state(),
        }
        await anyio.to_thread.run_sync(lambda: write_atomically(path, json.dumps(state).encode()))

    def load(self, path: AnyPath) -> bool:
        """Continue from what `save` wrote; False if there is no such file or it is not valid.

        Blocks.
        """
        try:
            with open(path, "rb") as file:
                state = json.load(file)
            if state["version"] != _VERSION:
                raise ValueError(f"unknown version {state['version']!r}")
            distances = ReuseDistances.restored(state["distances"])
            uses = UseCounts.restored(state["uses"])
        except FileNotFoundError:
            return False
        except (OSError, ValueError, TypeError, KeyError) as exc:
            logger.warning("%s cannot be used, starting from nothing: %r", os.fspath(path), exc)
            return False
        self._distances, self._uses = distances, uses
        return True

    def _observe(self, call: Observed) -> None:
        settings = self._settings or Settings()
        access = access_of(call, self.cache_type, settings.keep_requests_bytes)
        if access is not None:
            request = call.request
            seed = request.seed if isinstance(request, GenerateRequest) else None
            self.record(access, prompt=prompt_of(request), seed=seed)


def _room(entries: int, size_bytes: int) -> str:
    size = f"{size_bytes / MEBIBYTE:,.1f} MB"
    if size_bytes < MEBIBYTE:
        size = f"{size_bytes / 1024:,.1f} kB" if size_bytes >= 1024 else f"{size_bytes} bytes"
    return f"{entries:,} {'entry' if entries == 1 else 'entries'} and {size}"


def state_path(settings: Settings, cache_type: Kind) -> Path:
    """The file of what was learnt about a cache."""
    return settings.cache_dir / f"{cache_type}_accesses.json"
