"""Whether the caches and the queue are well, once or for as long as the program runs."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import anyio
import attrs

from asteady._base.checks import check_count, check_percent, check_seconds
from asteady._base.errors import SessionClosedError
from asteady._session.generation import context_of
from asteady._session.session import Session
from asteady.operate._which import session_now, stats_of

logger = logging.getLogger("asteady")

WarningKind: TypeAlias = Literal[
    "low_hit_rate", "near_capacity", "store_errors", "early_evictions", "queue_saturated"
]

# `recent_hit_rate` in the statistics is over so many look-ups.
_RECENT = 1000
# Shares of a budget and of the queue from which on they are said to be full.
_NEAR_CAPACITY = 0.95
_SATURATED = 0.8
# With fewer evictions in the window, the mean stay says little.
_MIN_EVICTIONS = 10
# So many moments of a window are remembered, however often somebody asks.
_MOMENTS = 60


@attrs.frozen(kw_only=True)
class HealthWarning:
    """One thing that is not as it should be; `str` of it is a sentence.

    `about` is the cache or the pool, `value` what was found, `limit` what it was compared with. A
    warning that is not `serious` leaves the cache healthy: a cache that is nearly full is doing
    its work.
    """

    kind: WarningKind
    about: str
    message: str
    value: float
    limit: float
    serious: bool = True

    def __str__(self) -> str:
        return self.message


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
class _Seen:
    """What was counted at one moment."""

    at_s: float
    errors: int
    evictions: int


class ProductionCacheMonitor:
    """Checks the health of a session's caches; without one, of the loop's default session's.

    It holds nothing that must be closed. It remembers what its checks of the last `window_s`
    seconds counted: errors and evictions are those since then, however often it is asked.

    Args:
        session: the session.
        alert_threshold: warn below this hit rate, in percent.
        min_lookups: a hit rate counts from so many look-ups on.
        min_stay_s: warn when entries are evicted after staying less than this, on average.
        window_s: for how long errors are told, and over how long evictions are counted.
        clock: seconds that never go back; for tests.
        sleep: waits so many seconds; for tests.
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
        check_percent("alert_threshold", alert_threshold)
        check_count("min_lookups", min_lookups, least=0)
        check_seconds("min_stay_s", min_stay_s)
        check_seconds("window_s", window_s)
        self.alert_threshold = alert_threshold
        self.min_lookups = min_lookups
        self.min_stay_s = min_stay_s
        self.window_s = window_s
        self._given = session
        self._clock = clock
        self._sleep = sleep
        self._seen: dict[str, deque[_Seen]] = {}
        self._latest: CacheHealth | None = None

    def __repr__(self) -> str:
        if self._latest is None:
            return "<ProductionCacheMonitor: nothing checked yet>"
        kinds = ", ".join(warning.kind for warning in self._latest.warnings) or "no warnings"
        healthy = "healthy" if self._latest.healthy else "not healthy"
        return f"<ProductionCacheMonitor {healthy} at {self._latest.timestamp:%H:%M:%S}: {kinds}>"

    async def check_cache_health(self, alert_threshold: float | None = None) -> CacheHealth:
        """Look at the caches and the queue now.

        `alert_threshold` replaces the constructor's, for this check.

        Raises:
            InvalidRequestError: `alert_threshold` is no percentage.
            SessionError: the session is not open yet, or is closed.
        """
        threshold = self.alert_threshold if alert_threshold is None else alert_threshold
        check_percent("alert_threshold", threshold)
        session = session_now(self._given)
        warnings: list[HealthWarning] = []
        for cache, stats in (await stats_of(session)).items():
            warnings += self._of_rate(cache, stats, threshold)
            warnings += _of_size(cache, stats)
            warnings += self._of_changes(cache, stats)
        for name, pool in session.statistics().pools.items():
            if pool.pending >= pool.max_pending * _SATURATED:
                warnings.append(
                    HealthWarning(
                        kind="queue_saturated",
                        about=name,
                        message=(
                            f"The queue of {name} is nearly full: {pool.pending} of"
                            f" {pool.max_pending} requests are waiting"
                        ),
                        value=pool.pending,
                        limit=pool.max_pending,
                    )
                )
        self._latest = CacheHealth(
            timestamp=datetime.now(UTC),
            healthy=not any(warning.serious for warning in warnings),
            warnings=tuple(warnings),
        )
        return self._latest

    async def continuous_monitoring(self, interval_s: float = 300.0) -> AsyncIterator[CacheHealth]:
        """Check now, and then every `interval_s` seconds, log, and yield, until the session closes.

        ``async for health in monitor.continuous_monitoring(60): ...``. What the caller does with
        a check is part of no wait: the next one comes `interval_s` after it is asked for.

        Raises:
            InvalidRequestError: `interval_s` is not more than 0.
        """
        check_seconds("interval_s", interval_s, zero=False)
        # No task group and no cancel scope is open where it yields.
        while True:
            session = session_now(self._given)
            try:
                health = await self._checked()
            except SessionClosedError:
                return
            yield health
            # A default session that is closed has a successor, which is not for us to open.
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
                    logger.exception("the function that is told the cache's health failed")

    async def _pause(self, session: Session, interval_s: float) -> bool:
        """Sleep, but not on when the session closes: whoever waits for this task would wait too.

        Returns whether the session is still open.
        """
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

    async def _checked(self) -> CacheHealth:
        health = await self.check_cache_health()
        for warning in health.warnings:
            logger.log(logging.WARNING if warning.serious else logging.INFO, "%s", warning)
        if health.healthy:
            logger.info("Cache healthy")
        return health

    def _of_rate(
        self, cache: str, stats: dict[str, Any], threshold: float
    ) -> Iterator[HealthWarning]:
        lookups = min(_RECENT, stats["hits"] + stats["misses"])
        rate = 100 * stats["recent_hit_rate"]
        if lookups and lookups >= self.min_lookups and rate < threshold:
            yield HealthWarning(
                kind="low_hit_rate",
                about=cache,
                message=f"Low {cache} cache hit rate: {rate:.1f}% of the last {lookups} look-ups",
                value=rate,
                limit=threshold,
            )

    def _of_changes(self, cache: str, stats: dict[str, Any]) -> Iterator[HealthWarning]:
        now = _Seen(self._clock(), stats["errors"], stats["all_evictions"])
        then = self._before(cache, now)
        errors = now.errors - then.errors
        if errors > 0:
            yield HealthWarning(
                kind="store_errors",
                about=cache,
                message=f"The {cache} cache's store failed {errors} times; the log says how",
                value=errors,
                limit=0,
            )
        evictions = now.evictions - then.evictions
        if evictions < _MIN_EVICTIONS or now.at_s <= then.at_s:
            return
        # Little's law: how many there are = how many go per second x how long each one stays.
        stay_s = stats["size"] * (now.at_s - then.at_s) / evictions
        if stay_s < self.min_stay_s:
            yield HealthWarning(
                kind="early_evictions",
                about=cache,
                message=(
                    f"The {cache} cache evicts entries that stayed {stay_s:.0f} s on average; a"
                    f" larger one would keep them"
                ),
                value=stay_s,
                limit=self.min_stay_s,
            )

    def _before(self, cache: str, now: _Seen) -> _Seen:
        """What was counted `window_s` ago, or at the first check; errors, when it opened."""
        if cache not in self._seen:
            # Errors are this process's, so there were none; evictions are all processes'.
            self._seen[cache] = deque([attrs.evolve(now, errors=0)])
        seen = self._seen[cache]
        if now.at_s - seen[-1].at_s >= self.window_s / _MOMENTS:
            seen.append(now)
        while len(seen) > 1 and now.at_s - seen[1].at_s >= self.window_s:
            seen.popleft()
        return seen[0]


def _of_size(cache: str, stats: dict[str, Any]) -> Iterator[HealthWarning]:
    for size, budget, unit in (
        ("size", "capacity", "entries"),
        ("total_size_bytes", "max_size_bytes", "bytes"),
    ):
        if stats[size] >= stats[budget] * _NEAR_CAPACITY:
            yield HealthWarning(
                kind="near_capacity",
                about=cache,
                message=(
                    f"{cache.title()} cache near capacity: {stats[size]:,} of"
                    f" {stats[budget]:,} {unit}"
                ),
                value=stats[size],
                limit=stats[budget],
                serious=False,
            )
