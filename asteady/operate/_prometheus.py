"""The statistics as Prometheus metrics, through ``prometheus-client``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, cast

from asteady._base.public import public
from asteady._base.requests import GenerateRequest
from asteady._base.validation import needs
from asteady._session.observe import Observed
from asteady._session.session import Session
from asteady.operate._resolve_session import session_now

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric
    from prometheus_client.registry import Collector
else:
    # prometheus_client is optional; annotations have to be resolvable without it.
    CollectorRegistry = Metric = Any

logger = logging.getLogger("asteady")

# From a warm hit, which takes some microseconds, to a long answer of a large model.
_BUCKETS_S = (0.0001, 0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

# A scrape waits this long for sizes from the event loop, and then uses the last known ones.
_SIZES_WAIT_S = 2.0

_LOOKUPS = (("hits", "hit"), ("misses", "miss"), ("coalesced", "coalesced"))
# The name in the statistics, the name of the metric, and its documentation.
_COUNTERS = (
    ("seconds_saved", "saved_seconds", "Seconds that computing the hits had taken."),
    ("evictions", "evictions", "Entries evicted."),
    ("declined", "declined", "Answers worth less than the entries they would have evicted."),
    ("oversized", "oversized", "Answers larger than the whole budget."),
    (
        "damaged",
        "damaged",
        "Stored values that could not be read back, and databases that were set aside.",
    ),
    ("delayed", "delayed", "Answers that were delivered before they were stored."),
    ("errors", "errors", "Reads and writes of the store that failed."),
    ("shared_hits", "shared_hits", "Answers that were found in the shared tier."),
    ("shared_misses", "shared_misses", "Answers that were not."),
    ("shared_errors", "shared_errors", "Calls of the shared tier that failed, or were not made."),
    (
        "coalesced_across_machines",
        "coalesced_across_machines",
        "Answers that another machine was computing already.",
    ),
)
_GAUGES = (
    ("size", "entries", "Entries in the store."),
    ("capacity", "capacity_entries", "The limit on entries in the store."),
    ("total_size_bytes", "size_bytes", "Bytes of the budget that the entries take."),
    ("max_size_bytes", "max_size_bytes", "The byte budget."),
    ("pending_writes", "pending_writes", "Delivered answers that are not stored yet."),
    ("memory_size", "memory_entries", "Entries in this process's memory tier."),
    ("memory_size_bytes", "memory_size_bytes", "Bytes of the memory tier."),
)
_POOL_GAUGES = (
    ("workers", "workers", "Worker threads."),
    ("busy", "busy", "Worker threads that are computing."),
    ("running", "running", "Requests being computed."),
    ("pending", "pending", "Requests waiting for a worker."),
    ("max_pending", "max_pending", "Most requests that may wait."),
)


@public
class PrometheusCollector:
    """A collector for `prometheus_client` over one session (default: the loop's default one).

    Within its block it is registered, and times every call of the session::

        async with PrometheusCollector(session):
            ...  # prometheus_client.start_http_server, or an endpoint that returns `await text()`

    Counters are those of this process. `collect` may be called in any thread: it reads the sizes of
    the stores through the event loop; on the loop's own thread, which cannot wait for itself, they
    are those of the last `refresh`.

    Args:
        session: the session.
        registry: where to register; default: `prometheus_client.REGISTRY`.

    Raises:
        SettingsError: prometheus-client is not installed (the extra ``prometheus``).
    """

    def __init__(
        self, session: Session | None = None, *, registry: CollectorRegistry | None = None
    ) -> None:
        client = needs("prometheus_client", extra="prometheus")
        self._session = session_now(session)
        self._registry: CollectorRegistry = registry or client.REGISTRY
        self._stack = ExitStack()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stats: dict[str, dict[str, Any]] = {}
        self._durations = client.Histogram(
            "asteady_call_duration_seconds",
            "Duration of calls, by cache and outcome.",
            ["cache", "outcome"],
            buckets=_BUCKETS_S,
            registry=None,
        )

    def __repr__(self) -> str:
        return f"<PrometheusCollector of {self._session!r}>"

    async def __aenter__(self) -> PrometheusCollector:
        self._loop = asyncio.get_running_loop()
        await self.refresh()
        self._stack.enter_context(self._session.observe(self._timed, everywhere=True))
        collector = cast("Collector", self)
        self._registry.register(collector)
        self._stack.callback(self._registry.unregister, collector)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._stack.close()

    async def refresh(self) -> None:
        """Read the sizes of the stores."""
        self._stats = await self._session.cache.get_cache_stats()

    async def text(self) -> str:
        """All metrics of the registry, refreshed, in Prometheus's text format."""
        from prometheus_client import generate_latest

        await self.refresh()
        return generate_latest(self._registry).decode()

    def collect(self) -> Iterator[Metric]:
        """The metrics; called by the registry."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        self._refresh_from_a_thread()
        lookups = CounterMetricFamily(
            "asteady_cache_lookups", "Calls by their outcome.", labels=["cache", "result"]
        )
        for cache, stats in self._stats.items():
            for name, result in _LOOKUPS:
                lookups.add_metric([cache, result], stats[name])
        yield lookups
        pools = {
            pool: {name: getattr(numbers, name) for name, _, _ in _POOL_GAUGES}
            for pool, numbers in self._session.statistics().pools.items()
        }
        for make, label, metrics, statistics in (
            (CounterMetricFamily, "cache", _COUNTERS, self._stats),
            (GaugeMetricFamily, "cache", _GAUGES, self._stats),
            (GaugeMetricFamily, "pool", _POOL_GAUGES, pools),
        ):
            for name, metric, documentation in metrics:
                family = make(f"asteady_{label}_{metric}", documentation, labels=[label])
                for of, numbers in statistics.items():
                    family.add_metric([of], numbers[name])
                yield family
        yield from self._durations.collect()

    def describe(self) -> list[Metric]:
        """No metrics, so that registering does not collect."""
        return []

    def _refresh_from_a_thread(self) -> None:
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            return
        if self._loop is None or self._loop.is_closed():
            return
        refreshing = asyncio.run_coroutine_threadsafe(self.refresh(), self._loop)
        try:
            refreshing.result(_SIZES_WAIT_S)
        except Exception as exc:
            refreshing.cancel()
            logger.warning("Prometheus gets the last known sizes, as reading them failed: %r", exc)

    def _timed(self, call: Observed) -> None:
        cache = "generation" if isinstance(call.request, GenerateRequest) else "embedding"
        self._durations.labels(cache, call.outcome).observe(call.duration_s)
