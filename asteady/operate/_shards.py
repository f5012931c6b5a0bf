"""The miss-ratio curve of an access stream, in bounded memory: sampled reuse distances.

The distance of an access is how many other keys (or bytes) were used since the key's last one; it
would be a hit in every LRU cache that is larger. The tail of the distances is sampled as in SHARDS
of fixed size: C. Waldspurger, N. Park, A. Garthwaite, I. Ahmad, "Efficient MRC Construction with
SHARDS", FAST 2015. A key is sampled if its hash is below a threshold, so that all of its accesses
are, or none. Distances among the sampled keys, divided by the share of keys that is sampled,
estimate those among all. When more than `max_keys` are tracked, the threshold sinks.

Where the paper corrects for hot keys that are in the sample or not by their number, the front of
the curve is exact here: the keys used last, an eighth of `max_keys`, are all tracked, and only
accesses to others are estimated. Measured, that is several times as accurate at small capacities.

While no more than `max_keys` different keys have come, everything is sampled and the curve exact.
No I/O, no clock.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import attrs

from asteady.operate._accesses import Access

# Hashes are below this; a sampling rate is a threshold divided by it.
_MODULUS = 1 << 32
# A distance's bin has so many bits: the capacity is told to one part in 256.
_BITS = 8


@attrs.define
class _Bin:
    """Accesses at one distance: how many, and what they cost."""

    count: float = 0.0
    cost_s: float = 0.0


@attrs.frozen
class Curve:
    """Shares, from 0 to 1, that an LRU cache would answer, by capacity in entries or in bytes.

    `hits[i]` and `saved[i]` hold from `capacities[i]` on, to below the next; below the first they
    are 0. The last ones are the best possible: of an unlimited cache.
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
        """The smallest capacity at which `rates` (`hits` or `saved`) reach this share of their
        last; 0 if nothing can be reached."""
        if not rates or rates[-1] <= 0:
            return 0
        wanted = target * rates[-1]
        return next(
            capacity
            for capacity, rate in zip(self.capacities, rates, strict=True)
            if rate >= wanted - 1e-12
        )


class Shards:
    """Takes accesses, one by one, and gives the curves of all that it has taken."""

    def __init__(self, max_keys: int = 8192) -> None:
        self.max_keys = max_keys
        self.accesses = 0
        self.cost_s = 0.0
        self._threshold = _MODULUS
        self._recent_keys = max(1, max_keys // 8)
        self._recent = _Stack()
        self._sampled = _Stack()
        self._by_hash: list[tuple[int, str]] = []
        # Of accesses to keys that were not recent: all of them, and as estimated by the sample.
        self._tail = _Bin()
        self._tail_guessed = _Bin()
        self._fronts: dict[str, dict[int, _Bin]] = {"entries": {}, "bytes": {}}
        self._tails: dict[str, dict[int, _Bin]] = {"entries": {}, "bytes": {}}

    @property
    def rate(self) -> float:
        """The share of keys that is sampled now."""
        return self._threshold / _MODULUS

    @property
    def unique(self) -> float:
        """How many different keys have come; an estimate, once not all are sampled."""
        return len(self._sampled) / self.rate

    def add(self, access: Access) -> None:
        """Take one access."""
        self.accesses += 1
        self.cost_s += access.cost_s
        near = self._recent.use(access.key, access.size_bytes)
        if len(self._recent) > self._recent_keys:
            self._recent.drop(self._recent.oldest())
        if near is not None:
            self._count(self._fronts, *near, access.cost_s, 1.0)
        else:
            self._tail.count += 1
            self._tail.cost_s += access.cost_s
        hashed = _hash(access.key)
        if hashed >= self._threshold:
            return
        rate = self.rate
        far = self._sampled.use(access.key, access.size_bytes)
        if near is None:
            self._tail_guessed.count += 1 / rate
            self._tail_guessed.cost_s += access.cost_s / rate
            if far is not None:
                others, other_bytes, size_bytes = far
                self._count(
                    self._tails,
                    others / rate,
                    other_bytes / rate,
                    size_bytes,
                    access.cost_s,
                    1 / rate,
                )
        if far is None:
            heapq.heappush(self._by_hash, (-hashed, access.key))
            while len(self._sampled) > self.max_keys:
                self._sink()

    def by_entries(self) -> Curve:
        """The curve by capacity in entries."""
        return self._curve("entries")

    def by_bytes(self) -> Curve:
        """The curve by capacity in bytes."""
        return self._curve("bytes")

    def state(self) -> dict[str, Any]:
        """All of it, ready for JSON; see `restored`."""
        return {
            "max_keys": self.max_keys,
            "accesses": self.accesses,
            "cost_s": self.cost_s,
            "threshold": self._threshold,
            "recent": self._recent.in_order(),
            "sampled": self._sampled.in_order(),
            "tail": attrs.astuple(self._tail),
            "tail_guessed": attrs.astuple(self._tail_guessed),
            "fronts": {unit: _as_list(bins) for unit, bins in self._fronts.items()},
            "tails": {unit: _as_list(bins) for unit, bins in self._tails.items()},
        }

    @classmethod
    def restored(cls, state: dict[str, Any]) -> Shards:
        """What gave this `state`. Raises KeyError, TypeError or ValueError for anything else."""
        shards = cls(int(state["max_keys"]))
        shards.accesses = int(state["accesses"])
        shards.cost_s = float(state["cost_s"])
        shards._threshold = int(state["threshold"])
        shards._tail = _Bin(*map(float, state["tail"]))
        shards._tail_guessed = _Bin(*map(float, state["tail_guessed"]))
        for name, parts in (("fronts", shards._fronts), ("tails", shards._tails)):
            for unit, bins in parts.items():
                for at, count, cost_s in state[name][unit]:
                    bins[int(at)] = _Bin(float(count), float(cost_s))
        for name, stack in (("recent", shards._recent), ("sampled", shards._sampled)):
            for key, size_bytes in state[name]:
                stack.use(str(key), int(size_bytes))
        shards._by_hash = [(-_hash(key), key) for key, _ in shards._sampled.in_order()]
        heapq.heapify(shards._by_hash)
        return shards

    @staticmethod
    def _count(
        parts: dict[str, dict[int, _Bin]],
        others: float,
        other_bytes: float,
        size_bytes: int,
        cost_s: float,
        weight: float,
    ) -> None:
        distances = (("entries", others + 1), ("bytes", other_bytes + size_bytes))
        for unit, distance in distances:
            found = parts[unit].setdefault(_bin(math.ceil(distance)), _Bin())
            found.count += weight
            found.cost_s += weight * cost_s

    def _sink(self) -> None:
        """Lower the threshold to the highest hash that is tracked; those keys go."""
        self._threshold = -self._by_hash[0][0]
        while self._by_hash and -self._by_hash[0][0] >= self._threshold:
            _, key = heapq.heappop(self._by_hash)
            self._sampled.drop(key)

    def _curve(self, unit: str) -> Curve:
        fronts, tails = self._fronts[unit], self._tails[unit]
        # How many accesses the tail has is known; the sample only says how they are spread.
        per_count = _ratio(self._tail.count, self._tail_guessed.count)
        per_cost = _ratio(self._tail.cost_s, self._tail_guessed.cost_s)
        nothing = _Bin()
        count = cost_s = 0.0
        places = sorted({*fronts, *tails})
        hits: list[float] = []
        saved: list[float] = []
        for at in places:
            front, tail = fronts.get(at, nothing), tails.get(at, nothing)
            count += front.count + per_count * tail.count
            cost_s += front.cost_s + per_cost * tail.cost_s
            hits.append(min(1.0, _ratio(count, self.accesses)))
            saved.append(min(1.0, _ratio(cost_s, self.cost_s)))
        return Curve(tuple(map(_capacity, places)), tuple(hits), tuple(saved))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "little")


def _as_list(bins: dict[int, _Bin]) -> list[tuple[int, float, float]]:
    return [(at, found.count, found.cost_s) for at, found in sorted(bins.items())]


def _bin(distance: int) -> int:
    """The bin of a distance: itself below 512, then 256 for each doubling."""
    shift = max(0, distance.bit_length() - _BITS - 1)
    return (shift << _BITS) + (distance >> shift)


def _capacity(at: int) -> int:
    """The largest distance in a bin: a capacity that is enough for all of them."""
    if at < 2 << _BITS:
        return at
    shift = (at >> _BITS) - 1
    mantissa = at - (shift << _BITS)
    return ((mantissa + 1) << shift) - 1


class _Stack:
    """Keys in the order of their last use, each with a size."""

    def __init__(self) -> None:
        # In the order of use: key to (place, size in bytes).
        self._keys: dict[str, tuple[int, int]] = {}
        self._places = _Places(1024)

    def __len__(self) -> int:
        return len(self._keys)

    def use(self, key: str, size_bytes: int) -> tuple[int, int, int] | None:
        """Put a key last. Returns, if it was there: how many others were used since, their bytes
        together, and its own size until now."""
        known = self._keys.pop(key, None)
        found = None
        if known is not None:
            place, size_before = known
            found = (*self._places.after(place), size_before)
            self._places.take(place, size_before)
        if self._places.full:
            # As much room again: a renumbering costs as much as the uses since the last one.
            self._places = _Places(max(1024, 2 * len(self._keys)))
            for other, (_, size) in self._keys.items():
                self._keys[other] = (self._places.put(size), size)
        self._keys[key] = (self._places.put(size_bytes), size_bytes)
        return found

    def drop(self, key: str) -> None:
        place, size_bytes = self._keys.pop(key)
        self._places.take(place, size_bytes)

    def oldest(self) -> str:
        return next(iter(self._keys))

    def in_order(self) -> list[tuple[str, int]]:
        return [(key, size_bytes) for key, (_, size_bytes) in self._keys.items()]


class _Places:
    """Places in the order of time, some of them taken: two Fenwick trees, of counts and bytes."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._next = 0
        self._count = 0
        self._size_bytes = 0
        self._counts = [0] * (room + 1)
        self._sizes = [0] * (room + 1)

    @property
    def full(self) -> bool:
        return self._next == self._room

    def put(self, size_bytes: int) -> int:
        """Take the next place."""
        place = self._next
        self._next += 1
        self._add(place, 1, size_bytes)
        return place

    def take(self, place: int, size_bytes: int) -> None:
        """Free a place that was put with this size."""
        self._add(place, -1, -size_bytes)

    def after(self, place: int) -> tuple[int, int]:
        """How many taken places come after this one, and their sizes together."""
        count, size_bytes = self._count, self._size_bytes
        at = place + 1
        while at:
            count -= self._counts[at]
            size_bytes -= self._sizes[at]
            at &= at - 1
        return count, size_bytes

    def _add(self, place: int, count: int, size_bytes: int) -> None:
        self._count += count
        self._size_bytes += size_bytes
        at = place + 1
        while at <= self._room:
            self._counts[at] += count
            self._sizes[at] += size_bytes
            at += at & -at
