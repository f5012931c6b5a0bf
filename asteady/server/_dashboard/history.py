"""What a session did over the past hour, in equal intervals."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import attrs

from asteady._base.requests import KINDS, Kind
from asteady._cache.cache import Use
from asteady._engine.pool import PoolStatistics
from asteady._session.session import Session
from asteady.server._dashboard.curve import CapacityCurve

PERIOD_S = 5.0
KEPT_S = 3600.0
# So many keys are learnt at once, in a few milliseconds, and at most so many in a period.
_SLICE = 100
_MAX_USES = 20_000


@attrs.frozen(kw_only=True)
class Sample:
    """What happened in the interval that ended at `at_s`, in seconds since the epoch.

    `pending` and `running` are requests at its end, the other numbers those of the interval alone:
    counters that began again at 0, as those of a model that was unloaded, make none negative.
    """

    at_s: float
    hits: int
    misses: int
    coalesced: int
    saved_s: float
    tokens: int
    errors: int
    evictions: int
    running: int
    pending: int


@attrs.frozen(kw_only=True)
class _Totals:
    """Counters since the beginning; those of models by their pools."""

    hits: int
    misses: int
    coalesced: int
    saved_s: float
    errors: int
    evictions: int
    pools: dict[str, PoolStatistics]


class History:
    """Samples a session from when it opens to when it closes, and keeps those of an hour.

    A warm hit costs nothing more: what was used is learnt from what the caches write anyway.
    """

    def __init__(
        self, session: Session, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self.samples: deque[Sample] = deque(maxlen=round(KEPT_S / PERIOD_S))
        self.began_s = time.time()
        self._sleep = sleep
        self.curves: dict[Kind, CapacityCurve] = {kind: CapacityCurve() for kind in KINDS}
        self._uses = {kind: deque[Use](maxlen=_MAX_USES) for kind in KINDS}
        self._session = session
        self._before = self._totals()

    async def run(self) -> None:
        """Sample until cancelled."""
        self.began_s = time.time()
        cache = self._session.cache
        cache.generation.use_listeners.add(self._uses["generation"].extend)
        cache.embedding.use_listeners.add(self._uses["embedding"].extend)
        while True:
            await self._sleep(PERIOD_S)
            self.sample()
            await self.learn()

    async def learn(self) -> None:
        """Add to the curves what was used since the last time, without blocking the loop."""
        for kind, uses in self._uses.items():
            while uses:
                for _ in range(min(_SLICE, len(uses))):
                    self.curves[kind].add(*uses.popleft())
                await asyncio.sleep(0)

    def sample(self) -> None:
        """End an interval now. Reads counters only, and takes microseconds."""
        before, now = self._before, self._totals()
        self._before = now
        pools = now.pools.values()
        self.samples.append(
            Sample(
                at_s=time.time(),
                hits=now.hits - before.hits,
                misses=now.misses - before.misses,
                coalesced=now.coalesced - before.coalesced,
                saved_s=max(0.0, now.saved_s - before.saved_s),
                tokens=_since(before.pools, now.pools, "prompt_tokens", "answer_tokens")
                - _since(before.pools, now.pools, "reused_tokens"),
                errors=now.errors
                - before.errors
                + _since(before.pools, now.pools, "failed", "refused"),
                evictions=now.evictions - before.evictions,
                running=sum(pool.running for pool in pools),
                pending=sum(pool.pending for pool in pools),
            )
        )

    def since(self, at_s: float) -> dict[str, list[Any]]:
        """The samples that ended after this time, by column."""
        newer = [sample for sample in self.samples if sample.at_s > at_s]
        return {
            field.name: [getattr(sample, field.name) for sample in newer]
            for field in attrs.fields(Sample)
        }

    def _totals(self) -> _Totals:
        cache = self._session.cache
        counters = [cache.generation.counters, cache.embedding.counters]
        return _Totals(
            hits=sum(each.hits for each in counters),
            misses=sum(each.misses for each in counters),
            coalesced=sum(each.coalesced for each in counters),
            saved_s=sum(each.saved_s for each in counters),
            errors=sum(each.errors for each in counters),
            evictions=sum(each.evictions for each in counters),
            pools=self._session.statistics().pools,
        )


def _since(before: dict[str, PoolStatistics], now: dict[str, PoolStatistics], *names: str) -> int:
    """How far counters of the pools have gone; a pool that is new, or began anew, was at 0."""
    total = 0
    for pool, numbers in now.items():
        known = before.get(pool)
        if known is not None and known.started > numbers.started:
            known = None
        for name in names:
            total += getattr(numbers, name) - (0 if known is None else getattr(known, name))
    return total
