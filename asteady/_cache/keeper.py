"""The memory tier kept true to the store, and the store told what memory was used for.

Another process may remove what is held here. While a cache is in use, its keeper looks whether one
did, and writes touches together. Nobody looks while it is not; then the memory tier is asleep, and
the first lookup goes to the store, which tells whether it is still right.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import attrs

from asteady._base.errors import StoreError
from asteady._base.tasks import unattended
from asteady._cache.memory import Held
from asteady._cache.statistics import Counters
from asteady._cache.store.api import Touch

if TYPE_CHECKING:
    from asteady._cache.cache import Cache

A = TypeVar("A", bound=Any)

# How often a cache in use looks whether another process removed something, and in how many looks
# touches are written once: both within a second.
TICK_S = 0.5
TICKS_PER_FLUSH = 2

ASLEEP: dict[Any, Any] = {}


class Keeper(Generic[A]):
    """The keeper of one cache; lives as long as that, and its task from `start` to `stop`."""

    def __init__(self, cache: Cache[A]) -> None:
        self._cache = cache
        self._dirty: list[Held[A]] = []
        self._used = asyncio.Event()
        self._removals = -1
        self._task: asyncio.Task[None] | None = None
        self.told = Counters()
        """What was counted, as far as the store has been told."""

    def start(self) -> None:
        name = f"asteady {self._cache.kind} cache keeper"
        self._task = unattended(asyncio.create_task(self._keep(), name=name))

    def stop(self) -> None:
        """Put the memory tier to sleep for good, and tell the store. Idempotent."""
        self._sleep()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            self.flush()

    @property
    def pending_s(self) -> float:
        """Seconds saved by hits that the store has not been told of."""
        return sum(held.touches * held.cost_s for held in self._dirty)

    def note(self, held: Held[A]) -> None:
        """Tell the store of this entry's touches, by and by."""
        self._dirty.append(held)
        if len(self._dirty) == 1:
            self._used.set()

    def use(self) -> None:
        """The cache is in use."""
        self._used.set()

    def seen(self, removals: int, after: int | None = None) -> None:
        """Compare the store's count of removals with what was last seen.

        `after` is the count after our own commit, when `removals` is that before it.
        """
        if removals > self._removals >= 0 and len(self._cache._memory):
            # Another process removed something since. The task sees to it, at once if it was asleep
            # and else in half a second.
            self._used.set()
            return
        self._removals = max(removals, self._removals) if after is None else after
        self._wake()

    def flush(self) -> None:
        """Have touches and counts written with the next commit."""
        dirty, self._dirty = self._dirty, []
        now, told = self._cache.counters, self.told
        now.saved_s += sum(held.touches * held.cost_s for held in dirty)
        touches = [(held.key, held.touches) for held in dirty]
        for held in dirty:
            held.touches = 0
        names = ("hits", "misses", "coalesced", "saved_s")
        counts = {name: getattr(now, name) - getattr(told, name) for name in names}
        if touches or any(counts.values()):
            self.told = attrs.evolve(now)
            self._cache._store.submit(Touch(touches, counts))

    def _wake(self) -> None:
        cache = self._cache
        if self._task is not None and cache._keys is ASLEEP:
            cache._aliases, cache._keys = cache._memory.by_alias, cache._memory.by_key
            self._used.set()

    def _sleep(self) -> None:
        self._cache._aliases = self._cache._keys = ASLEEP

    async def _keep(self) -> None:
        ticks = 0
        while True:
            await self._used.wait()
            if self._cache._keys is ASLEEP:
                await self._look()
            while self._used.is_set():
                self._used.clear()
                await asyncio.sleep(TICK_S)
                ticks += 1
                if ticks % TICKS_PER_FLUSH == 0:
                    self.flush()
                elif self._dirty:
                    self._used.set()
                await self._look()
            self.flush()
            self._sleep()

    async def _look(self) -> None:
        cache = self._cache
        try:
            removals = await cache._store.removals()
            if removals > self._removals:
                removals, gone = await cache._store.missing(list(cache._memory.by_key))
                for key in gone:
                    cache._memory.discard(key)
                cache._namespaces.forget()
                self._removals = max(removals, self._removals)
            self._wake()
        except StoreError as exc:
            cache._failed("read", exc)
