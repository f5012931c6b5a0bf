"""Redis's `allkeys-lfu` on paper: which entries of a shared tier stay under `maxmemory`.

As redis.io/docs/latest/develop/reference/eviction describes it: a counter of 8 bits that rises by
chance, the less likely the higher it is, and falls by one a minute; a victim is the least used of
some keys drawn at random and of the best candidates of earlier draws.
"""

from __future__ import annotations

import random

import attrs

NEW_COUNTER = 5
LOG_FACTOR = 10
SAMPLES = 5
POOL = 16


@attrs.define
class _Entry:
    size_bytes: int
    place: int
    counter: int
    minute: int


class SharedLfu:
    """Entries of one Redis with `maxmemory`. `now_s` is the caller's clock.

    `size_bytes` of an entry is all that it takes there. `decay_min` is `lfu-decay-time`; 0 never
    lowers a counter.
    """

    def __init__(self, max_bytes: float, *, decay_min: int = 1) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.evicted = 0
        self._decay_min = decay_min
        self._entries: dict[str, _Entry] = {}
        self._keys: list[str] = []  # to draw from
        self._pool: list[tuple[int, str]] = []  # counters as they were drawn, the highest first
        self._chance = random.Random(0)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str, now_s: float) -> bool:
        """Look a key up, which counts as a use."""
        entry = self._entries.get(key)
        if entry is None:
            return False
        counter = self._decayed(entry, now_s)
        above = max(0, counter - NEW_COUNTER)
        if counter < 255 and self._chance.random() < 1 / (above * LOG_FACTOR + 1):
            counter += 1
        entry.counter, entry.minute = counter, int(now_s // 60)
        return True

    def put(self, key: str, size_bytes: int, now_s: float) -> None:
        """Store an entry, then evict until `maxmemory` holds; Redis does so before a command."""
        self._remove(key)
        self._entries[key] = _Entry(size_bytes, len(self._keys), NEW_COUNTER, int(now_s // 60))
        self._keys.append(key)
        self.size_bytes += size_bytes
        while self.size_bytes > self.max_bytes and self._keys:
            self._remove(self._victim(now_s))
            self.evicted += 1

    def _decayed(self, entry: _Entry, now_s: float) -> int:
        if not self._decay_min:
            return entry.counter
        minutes = int(now_s // 60) - entry.minute
        return max(0, entry.counter - minutes // self._decay_min)

    def _victim(self, now_s: float) -> str:
        while True:
            known = {key for _, key in self._pool}
            for _ in range(SAMPLES):
                key = self._chance.choice(self._keys)
                if key not in known:
                    known.add(key)
                    self._pool.append((self._decayed(self._entries[key], now_s), key))
            self._pool.sort(key=lambda candidate: -candidate[0])
            del self._pool[: len(self._pool) - POOL]
            while self._pool:
                _, key = self._pool.pop()
                if key in self._entries:
                    return key

    def _remove(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self.size_bytes -= entry.size_bytes
        last = self._keys.pop()
        if last != key:
            self._keys[entry.place] = last
            self._entries[last].place = entry.place
