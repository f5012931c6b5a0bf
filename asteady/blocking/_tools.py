"""The tools of `asteady.operate` without await; users find them in `asteady.blocking`.

Each has the asyncio tool of the same name behind it, on the background loop. Its methods are those
of that tool, waited for: the same arguments, answers and errors, from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from asteady import operate
from asteady._base.errors import InvalidRequestError
from asteady._base.requests import DEFAULT_SEED
from asteady.blocking._calls import SessionCalls
from asteady.blocking._namespace import Namespace
from asteady.blocking._tool import BlockingTool, calls_of, on_loop, waited
from asteady.operate._monitor import Operation as _AsyncioOperation

if TYPE_CHECKING:
    from typing import Unpack

P = ParamSpec("P")
R = TypeVar("R")


class Operation(_AsyncioOperation):
    """As `asteady.operate.Operation`, for a plain ``with`` block."""

    def __enter__(self) -> Operation:
        self._begin()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()


class CacheMonitor(BlockingTool[operate.CacheMonitor]):
    """`asteady.operate.CacheMonitor` without await."""

    _kind = operate.CacheMonitor

    mark = on_loop(operate.CacheMonitor.mark)
    since_mark = on_loop(operate.CacheMonitor.since_mark)
    get_hit_rate = on_loop(operate.CacheMonitor.get_hit_rate)
    summary = waited(operate.CacheMonitor.summary)

    def print_summary(self) -> None:
        """Print `summary`."""
        print(self.summary())

    def operation(self) -> Operation:
        """Tell what becomes of the calls that this thread makes in a block, and of no others::

        with monitor.operation() as op:
            text = asteady.generate("Write a haiku about caching")
        print(op.outcome, op.duration_s)
        """
        return Operation(self._opened())

    def run(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> operate.Monitored[R]:
        """Call ``fn(*args, **kwargs)`` as one operation. Raises what it raises."""
        if not callable(fn):
            raise InvalidRequestError(
                f"{fn!r} is no function: give it and its arguments apart, as in"
                " run(generate, prompt, seed=42)"
            )
        operation = self.operation()
        with operation:
            result = fn(*args, **kwargs)
        return operation.told(result)

    monitor_operation = run


class ProductionCacheMonitor(BlockingTool[operate.ProductionCacheMonitor]):
    """`asteady.operate.ProductionCacheMonitor` without await.

    `watch` is for a thread of its own, a daemon, for Python waits for others at exit; `on_health`
    is called on the background loop's.
    """

    _kind = operate.ProductionCacheMonitor

    check_cache_health = waited(operate.ProductionCacheMonitor.check_cache_health)
    watch = waited(operate.ProductionCacheMonitor.watch)

    def continuous_monitoring(self, interval_s: float = 300.0) -> Iterator[operate.CacheHealth]:
        """Check now, and then every `interval_s` seconds, log, and yield; until the session
        closes."""
        portal = self._portal()
        checks = self._tool.continuous_monitoring(interval_s)
        while (health := portal.call(lambda: anext(checks, None))) is not None:
            yield health


class StrategicCacheWarmer(BlockingTool[operate.StrategicCacheWarmer]):
    """`asteady.operate.StrategicCacheWarmer` without await."""

    _kind = operate.StrategicCacheWarmer

    add_prompts = on_loop(operate.StrategicCacheWarmer.add_prompts)
    warm_cache = waited(operate.StrategicCacheWarmer.warm_cache)

    @property
    def priority_prompts(self) -> dict[operate.Priority, list[operate.WarmPrompt]]:
        """What was added, by priority."""
        return self._tool.priority_prompts


def warm_cache_sequential(
    prompts: operate.WarmSource,
    seeds: Sequence[int] | None = None,
    *,
    session: SessionCalls | None = None,
    **options: Unpack[operate.WarmerOptions],
) -> operate.WarmReport:
    """`warm`, one prompt after the other, with ``max_new_tokens=100``."""
    calls = calls_of(session)

    async def asked() -> operate.WarmReport:
        return await operate.warm_cache_sequential(
            prompts, seeds, session=await calls._session(), **options
        )

    return calls._portal().call(asked)


def warm_cache_parallel(
    prompts: operate.WarmSource,
    seeds: Sequence[int] | None = None,
    max_workers: int = 4,
    *,
    session: SessionCalls | None = None,
    **options: Unpack[operate.WarmerOptions],
) -> operate.WarmReport:
    """`warm`, `max_workers` prompts at once, with ``max_new_tokens=100``."""
    calls = calls_of(session)

    async def asked() -> operate.WarmReport:
        return await operate.warm_cache_parallel(
            prompts, seeds, max_workers, session=await calls._session(), **options
        )

    return calls._portal().call(asked)


class CacheOptimizer(BlockingTool[operate.CacheOptimizer]):
    """`asteady.operate.CacheOptimizer` without await: ``with CacheOptimizer() as optimizer``."""

    _kind = operate.CacheOptimizer

    record = on_loop(operate.CacheOptimizer.record)
    track_usage = on_loop(operate.CacheOptimizer.track_usage)
    curve = on_loop(operate.CacheOptimizer.curve)
    curve_by_bytes = on_loop(operate.CacheOptimizer.curve_by_bytes)
    recommend = on_loop(operate.CacheOptimizer.recommend)
    recommend_cache_size = recommend
    get_cache_priorities = on_loop(operate.CacheOptimizer.get_cache_priorities)
    save = waited(operate.CacheOptimizer.save)

    def __enter__(self) -> Self:
        self._portal().call(self._tool.__aenter__)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._portal().call(self._tool.__aexit__, exc_type, exc, traceback)


class CacheAwareGenerator(BlockingTool[operate.CacheAwareGenerator]):
    """`asteady.operate.CacheAwareGenerator` without await."""

    _kind = operate.CacheAwareGenerator

    is_cached = waited(operate.CacheAwareGenerator.is_cached)
    generate_with_fallback = waited(operate.CacheAwareGenerator.generate_with_fallback)
    batch_generate_optimized = waited(operate.CacheAwareGenerator.batch_generate_optimized)
    wait_background = waited(operate.CacheAwareGenerator.wait_background)

    def is_likely_cached(
        self, prompt: str | None = None, seed: int = DEFAULT_SEED, **options: Any
    ) -> bool:
        """As `is_cached`, with the seed second, as the caching guide's: nothing is guessed."""
        return self._portal().call(self._tool.is_likely_cached, prompt, seed, **options)

    @property
    def background(self) -> int:
        """How many computations are under way in the background."""
        return self._tool.background


class CachePersistenceManager(BlockingTool[operate.CachePersistenceManager]):
    """`asteady.operate.CachePersistenceManager` without await."""

    _kind = operate.CachePersistenceManager

    export_cache_metadata = waited(operate.CachePersistenceManager.export_cache_metadata)
    save_cache_state = waited(operate.CachePersistenceManager.save_cache_state)
    history = waited(operate.CachePersistenceManager.history)
    analyze_cache_history = waited(operate.CachePersistenceManager.analyze_cache_history)
    plot_history = waited(operate.CachePersistenceManager.plot_history)
    export_entries = waited(operate.CachePersistenceManager.export_entries)
    import_entries = waited(operate.CachePersistenceManager.import_entries)

    @property
    def backup_dir(self) -> Path:
        """Where the snapshots are."""
        return self._tool.backup_dir


class CacheInspector(BlockingTool[operate.CacheInspector]):
    """`asteady.operate.CacheInspector` without await."""

    _kind = operate.CacheInspector

    analyze = on_loop(operate.CacheInspector.analyze)
    analyze_cache_behavior = analyze
    clear = on_loop(operate.CacheInspector.clear)
    export = waited(operate.CacheInspector.export)
    export_trace_log = export
    explain = waited(operate.CacheInspector.explain)

    def trace_generation(
        self, prompt: str | None = None, seed: int = DEFAULT_SEED, **options: Any
    ) -> operate.CallTrace:
        """`generate`, traced, with the number of entries before and after; options as there."""
        trace = self._tool.trace_generation
        return self._portal().call(trace, prompt, seed, **options)

    @property
    def generation_log(self) -> list[operate.CallTrace]:
        """The traces, oldest first."""

        async def read() -> list[operate.CallTrace]:
            return self._tool.generation_log

        return self._portal().call(read)

    @contextmanager
    def tracing(self, *, everywhere: bool = True) -> Iterator[None]:
        """Trace every call of the session that ends within the block, embeddings too.

        With ``everywhere=False`` only those of this thread.
        """
        with self._observing(self._tool.observe, everywhere=everywhere):
            yield


class CacheBenchmark(BlockingTool[operate.CacheBenchmark]):
    """`asteady.operate.CacheBenchmark` without await."""

    _kind = operate.CacheBenchmark

    benchmark_single_prompt = waited(operate.CacheBenchmark.benchmark_single_prompt)
    benchmark_cache_sizes = waited(operate.CacheBenchmark.benchmark_cache_sizes)
    find_optimal_cache_size = waited(operate.CacheBenchmark.find_optimal_cache_size)
    save_accesses = waited(operate.CacheBenchmark.save_accesses)

    @property
    def accesses(self) -> list[operate.Access]:
        """What was recorded, oldest first."""

        async def read() -> list[operate.Access]:
            return self._tool.accesses

        return self._portal().call(read)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the session's accesses within a block, to be replayed afterwards."""
        with self._observing(self._tool.observe, everywhere=True):
            yield


class HierarchicalCache(BlockingTool[operate.HierarchicalCache]):
    """`asteady.operate.HierarchicalCache` without await."""

    _kind = operate.HierarchicalCache

    preload_category = waited(operate.HierarchicalCache.preload_category)
    clear_category = waited(operate.HierarchicalCache.clear_category)
    clear = clear_category
    statistics = waited(operate.HierarchicalCache.statistics)
    namespaces = waited(operate.HierarchicalCache.namespaces)

    def get_or_generate(
        self,
        category: str,
        subcategory: str,
        prompt: str | None = None,
        seed: int = DEFAULT_SEED,
        **options: Any,
    ) -> str:
        """`Session.generate` under the namespace ``category/subcategory``; options as there."""
        ask = self._tool.get_or_generate
        return self._portal().call(ask, category, subcategory, prompt, seed, **options)

    def namespace(self, path: str) -> Namespace:
        """`Session.namespace`."""
        return self._calls.namespace(path)


class PrometheusCollector(BlockingTool[operate.PrometheusCollector]):
    """`asteady.operate.PrometheusCollector` without await: registered within its block."""

    _kind = operate.PrometheusCollector

    refresh = waited(operate.PrometheusCollector.refresh)
    text = waited(operate.PrometheusCollector.text)

    def __enter__(self) -> Self:
        self._opened()
        self._portal().call(self._tool.__aenter__)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._portal().call(self._tool.__aexit__, exc_type, exc, traceback)


@contextmanager
def opentelemetry(session: SessionCalls | None = None, **providers: Any) -> Iterator[None]:
    """`asteady.operate.opentelemetry`, in a plain program."""
    calls = calls_of(session)
    with operate.opentelemetry(calls._portal().call(calls._session), **providers):
        yield


def verify(session: SessionCalls | None = None, **options: Any) -> operate.VerifyReport:
    """`asteady.operate.verify`."""

    async def verified() -> operate.VerifyReport:
        return await operate.verify(await calls._session(), **options)

    calls = calls_of(session)
    return calls._portal().call(verified)


def verify_cache(session: SessionCalls | None = None, **options: Any) -> operate.VerifyCacheReport:
    """`asteady.operate.verify_cache`."""

    async def verified() -> operate.VerifyCacheReport:
        return await operate.verify_cache(await calls._session(), **options)

    calls = calls_of(session)
    return calls._portal().call(verified)
