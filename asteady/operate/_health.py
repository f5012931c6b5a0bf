"""Health checks of the caches and the queue, once or for as long as the program runs."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import anyio
import attrs

from asteady._base.errors import SessionClosedError
from asteady._base.public import public
from asteady._base.validation import percent, seconds, whole_number
from asteady._session.generation import context_of
from asteady._session.session import Session
from asteady.operate._resolve_session import session_now, stats_of

logger = logging.getLogger("asteady")

WarningKind: TypeAlias = Literal[
    "low_hit_rate",
    "near_capacity",
    "store_errors",
    "shared_errors",
    "early_evictions",
    "queue_saturated",
]

# `recent_hit_rate` in the statistics is over this many lookups.
_RECENT = 1000
# Shares of a budget and of the queue above which a warning is given.
_NEAR_CAPACITY = 0.95
_SATURATED = 0.8
# With fewer evictions in the window, their mean age says little.
_MIN_EVICTIONS = 10
# This many samples of a window are kept, however often it is checked.
_SAMPLES = 60


@public
@attrs.frozen(kw_only=True)
class HealthWarning:
    """One finding of a check; `str` gives a sentence.

    `about` is the cache or the pool, `value` the measured value, `limit` what it was compared with.
    A warning that is not `serious` leaves the cache healthy: being nearly full is normal, and
    without its shared cache a server answers all the same.
    """

    kind: WarningKind
    about: str
    message: str
    value: float
    limit: float
    serious: bool = True

    def __str__(self) -> str:
        return self.message


@public
@attrs.frozen(kw_only=True)
class CacheHealth:
    """The result of one check. `timestamp` is in UTC."""

    timestamp: datetime
    healthy: bool
    warnings: tuple[HealthWarning, ...]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON: timestamp (ISO 8601), healthy, warnings (sentences)."""
        return {
            "timestamp": self.timestamp.isoformat(),
            "healthy": self.healthy,
            "warnings": [str(warning) for warning in self.warnings],
        }


@attrs.frozen
class _Sample:
    """The counters at one moment."""

    at_s: float
    errors: int
    shared_errors: int
    evictions: int


@public
class ProductionCacheMonitor:
    """Checks the health of a session's caches; without one, of the loop's default session's.

    Needs no closing. It keeps the counters of its checks of the last `window_s` seconds: errors and
    evictions are those of that window, however often it is asked.

    Args:
        session: the session.
        alert_threshold: warn below this hit rate, in percent.
        min_lookups: the fewest lookups for which the hit rate is checked.
        min_stay_s: warn when entries are evicted after less than this, on average.
        window_s: the time over which errors and evictions are counted.
        clock: a monotonic clock, in seconds; for tests.
        sleep: waits that many seconds; for tests.
    """

    def __init__(
        self,
        session: Session | None = None,
        *,
        alert_threshold: float = 50.0,
        min_lookups: int = 100,
        min_stay_s: float = 600.0,
        window_s: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.alert_threshold = percent("alert_threshold", alert_threshold)
        self.min_lookups = whole_number("min_lookups", min_lookups, 0)
        self.min_stay_s = seconds("min_stay_s", min_stay_s)
        self.window_s = seconds("window_s", window_s)
        self._given = session
        self._clock = clock
        self._sleep = sleep
        self._samples: dict[str, deque[_Sample]] = {}
        self._latest: CacheHealth | None = None

    def __repr__(self) -> str:
        if self._latest is None:
            return "<ProductionCacheMonitor: nothing checked yet>"
        kinds = ", ".join(warning.kind for warning in self._latest.warnings) or "no warnings"
        healthy = "healthy" if self._latest.healthy else "not healthy"
        return f"<ProductionCacheMonitor {healthy} at {self._latest.timestamp:%H:%M:%S}: {kinds}>"

    async def check_cache_health(self, alert_threshold: float | None = None) -> CacheHealth:
        """Check the caches and the queue now.

        `alert_threshold` replaces the constructor's, for this check.

        Raises:
            InvalidRequestError: `alert_threshold` is no percentage.
            SessionError: the session is not open yet, or is closed.
        """
        threshold = self.alert_threshold if alert_threshold is None else alert_threshold
        percent("alert_threshold", threshold)
        session = session_now(self._given)
        warnings: list[HealthWarning] = []
        for cache, stats in (await stats_of(session)).items():
            warnings += self._of_rate(cache, stats, threshold)
            warnings += _of_size(cache, stats)
            warnings += self._of_changes(cache, stats)
        for name, pool in session.statistics().pools.items():
            if pool.pending >= pool.max_pending * _SATURATED:
                message = (
                    f"The queue of {name} is nearly full: {pool.pending} of {pool.max_pending}"
                    " requests are waiting"
                )
                warnings.append(
                    _warning("queue_saturated", name, message, pool.pending, pool.max_pending)
                )
        self._latest = CacheHealth(
            timestamp=datetime.now(UTC),
            healthy=not any(warning.serious for warning in warnings),
            warnings=tuple(warnings),
        )
        return self._latest

    async def continuous_monitoring(self, interval_s: float = 300.0) -> AsyncIterator[CacheHealth]:
        """Check now, and then every `interval_s` seconds, log, and yield, until the session closes.

        ``async for health in monitor.continuous_monitoring(60): ...``. The next check comes
        `interval_s` after it is asked for, not after the last one.

        Raises:
            InvalidRequestError: `interval_s` is not more than 0.
        """
        seconds("interval_s", interval_s, above=True)
        # No task group and no cancel scope is open at the yield.
        while True:
            session = session_now(self._given)
            try:
                health = await self.check_cache_health()
            except SessionClosedError:
                return
            for warning in health.warnings:
                logger.log(logging.WARNING if warning.serious else logging.INFO, "%s", warning)
            if health.healthy:
                logger.info("Cache healthy")
            yield health
            # A default session that was closed has a successor, which is not opened here.
            if not await self._pause(session, interval_s):
                return

    async def watch(
        self,
        interval_s: float = 300.0,
        on_health: Callable[[CacheHealth], object] | None = None,
    ) -> None:
        """As `continuous_monitoring`, for a task: ``group.create_task(monitor.watch(60))``.

        `on_health` is called with each check; if it raises, that is logged. Ends by cancellation,
        or when the session closes.
        """
        async for health in self.continuous_monitoring(interval_s):
            if on_health is not None:
                try:
                    on_health(health)
                except Exception:
                    logger.exception("the on_health callback raised")

    async def _pause(self, session: Session, interval_s: float) -> bool:
        """Sleep until the time is up or the session closes; returns whether it is still open."""
        closing = False

        async def wake() -> None:
            nonlocal closing
            await context_of(session).tasks.wait_stopping()
            closing = True
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(wake)
            await self._sleep(interval_s)
            group.cancel_scope.cancel()
        return session.is_open and not closing

    def _of_rate(
        self, cache: str, stats: dict[str, Any], threshold: float
    ) -> Iterator[HealthWarning]:
        lookups = min(_RECENT, stats["hits"] + stats["misses"])
        rate = 100 * stats["recent_hit_rate"]
        if lookups and lookups >= self.min_lookups and rate < threshold:
            message = f"Low {cache} cache hit rate: {rate:.1f}% of the last {lookups} lookups"
            yield _warning("low_hit_rate", cache, message, rate, threshold)

    def _of_changes(self, cache: str, stats: dict[str, Any]) -> Iterator[HealthWarning]:
        now = _Sample(
            self._clock(), stats["errors"], stats["shared_errors"], stats["all_evictions"]
        )
        then = self._before(cache, now)
        errors = now.errors - then.errors
        if errors > 0:
            message = f"The {cache} cache's store failed {errors} times; see the log"
            yield _warning("store_errors", cache, message, errors, 0)
        errors = now.shared_errors - then.shared_errors
        if errors > 0:
            # No reason to take a server out of service: it answers, as all others do.
            message = f"The shared cache failed {errors} times for the {cache} cache; see the log"
            yield _warning("shared_errors", cache, message, errors, 0, serious=False)
        evictions = now.evictions - then.evictions
        if evictions < _MIN_EVICTIONS or now.at_s <= then.at_s:
            return
        # Little's law: number of entries = evictions per second x mean time in the cache.
        stay_s = stats["size"] * (now.at_s - then.at_s) / evictions
        if stay_s < self.min_stay_s:
            message = (
                f"The {cache} cache evicts entries that stayed {stay_s:.0f} s on average; a larger"
                " one would keep them"
            )
            yield _warning("early_evictions", cache, message, stay_s, self.min_stay_s)

    def _before(self, cache: str, now: _Sample) -> _Sample:
        """The counters `window_s` ago, or at the first check; of errors, when the cache opened."""
        if cache not in self._samples:
            # Errors are counted by this process, from 0; evictions by all processes.
            self._samples[cache] = deque([attrs.evolve(now, errors=0, shared_errors=0)])
        samples = self._samples[cache]
        if now.at_s - samples[-1].at_s >= self.window_s / _SAMPLES:
            samples.append(now)
        while len(samples) > 1 and now.at_s - samples[1].at_s >= self.window_s:
            samples.popleft()
        return samples[0]


def _of_size(cache: str, stats: dict[str, Any]) -> Iterator[HealthWarning]:
    for size, budget, unit in (
        ("size", "capacity", "entries"),
        ("total_size_bytes", "max_size_bytes", "bytes"),
    ):
        if stats[size] >= stats[budget] * _NEAR_CAPACITY:
            message = (
                f"{cache.title()} cache near capacity: {stats[size]:,} of {stats[budget]:,} {unit}"
            )
            yield _warning(
                "near_capacity", cache, message, stats[size], stats[budget], serious=False
            )


def _warning(
    kind: WarningKind, about: str, message: str, value: float, limit: float, serious: bool = True
) -> HealthWarning:
    return HealthWarning(
        kind=kind, about=about, message=message, value=value, limit=limit, serious=serious
    )
