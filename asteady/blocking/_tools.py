"""The tools of `asteady.operate` without await; users import them from `asteady.blocking`.

Each stands for the tool of the same name, which lives on the background loop and works on the
session behind the plain one. Methods have the same parameters, answers and errors, and may be
called from any thread.
"""

from __future__ import annotations

import functools
import inspect
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Concatenate, ParamSpec, Protocol, Self, TypeVar, Unpack, overload

import anyio

import asteady.operate as operate
from asteady._base.errors import InvalidRequestError
from asteady._base.public import public
from asteady._base.requests import Kind
from asteady._base.settings import Settings
from asteady._session.session import Session as AsyncSession
from asteady.blocking._portal import (
    Plain,
    Portal,
    TimeLimit,
    documented_as,
    iterated,
    on_loop,
    waited,
    with_timeout,
)
from asteady.blocking._session import Namespace, Session, root_of

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
Entered = TypeVar("Entered", bound=AbstractAsyncContextManager[Any])


class Tool(Plain[T]):
    """A tool without await. By default it works on the default session. It needs no closing."""

    _kind: ClassVar[Callable[..., Any]]

    def __init_subclass__(cls) -> None:
        if cls.__doc__ is None:
            cls.__doc__ = (
                (cls._kind.__doc__ or "").replace("async with", "with").replace("await ", "")
            )

    def __init__(self, session: Session | None = None) -> None:
        self._construct(session)

    def _construct(self, session: Session | None, **arguments: Any) -> None:
        self._root = root_of(session)

        async def construct() -> Any:
            given = None if session is None else session.awaitable
            return type(self)._kind(given, **arguments)

        self._tool: T = self._portal().call(construct)

    def __repr__(self) -> str:
        return f"<blocking {repr(self._tool).removeprefix('<')}"

    def _portal(self) -> Portal:
        return self._root.portal()

    async def _target(self) -> T:
        self._root.count()
        return self._tool

    def _session(self) -> AsyncSession:
        """For observers: they are set on the caller's thread, whose context they belong to."""
        return self._portal().call(self._root.session)


class EnteredTool(Tool[Entered]):
    """A tool that works within its ``with`` block."""

    def __enter__(self) -> Self:
        self._session()
        self._call(lambda tool: tool.__aenter__())
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._call(lambda tool: tool.__aexit__(*exc_info))


@public
class CacheMonitor(Tool[operate.CacheMonitor]):
    _kind = operate.CacheMonitor

    mark = on_loop(operate.CacheMonitor.mark)
    since_mark = on_loop(operate.CacheMonitor.since_mark)
    get_hit_rate = on_loop(operate.CacheMonitor.get_hit_rate)
    summary = waited(operate.CacheMonitor.summary)

    @documented_as(operate.CacheMonitor.print_summary)
    def print_summary(self, *, timeout: float | None = None) -> None:
        print(self.summary(timeout=timeout))

    def operation(self) -> operate.Operation:
        """Record the outcomes of the calls that this thread makes in a block, and of no others.

        ::

            with monitor.operation() as op:
                text = asteady.generate("Write a haiku about caching")
            print(op.outcome, op.duration_s)
        """
        return operate.Operation(self._session())

    def run(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> operate.Monitored[R]:
        """Call ``fn(*args, **kwargs)`` as one operation.

        Raises:
            InvalidRequestError: `fn` is no function.
            Exception: whatever `fn` raises.
        """
        if not callable(fn):
            raise InvalidRequestError(
                f"{fn!r} is no function: give it and its arguments apart, as in"
                " run(generate, prompt, seed=42)"
            )
        operation = self.operation()
        with operation:
            result = fn(*args, **kwargs)
        return operate.Monitored(
            result=result, duration_s=operation.duration_s, calls=tuple(operation.calls)
        )

    monitor_operation = run


@public
class ProductionCacheMonitor(Tool[operate.ProductionCacheMonitor]):
    _kind = operate.ProductionCacheMonitor

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
        self._construct(
            session,
            alert_threshold=alert_threshold,
            min_lookups=min_lookups,
            min_stay_s=min_stay_s,
            window_s=window_s,
            clock=clock,
            sleep=sleep,
        )

    check_cache_health = waited(operate.ProductionCacheMonitor.check_cache_health)
    watch = waited(operate.ProductionCacheMonitor.watch)
    continuous_monitoring = iterated(operate.ProductionCacheMonitor.continuous_monitoring)


@public
class StrategicCacheWarmer(Tool[operate.StrategicCacheWarmer]):
    _kind = operate.StrategicCacheWarmer

    add_prompts = on_loop(operate.StrategicCacheWarmer.add_prompts)
    warm_cache = waited(operate.StrategicCacheWarmer.warm_cache)

    @property
    def priority_prompts(self) -> dict[operate.Priority, list[operate.WarmPrompt]]:
        """What was added, by priority."""
        return self._read(lambda warmer: warmer.priority_prompts)


@public
class CacheOptimizer(EnteredTool[operate.CacheOptimizer]):
    _kind = operate.CacheOptimizer

    def __init__(
        self,
        session: Session | None = None,
        *,
        cache_type: Kind = "generation",
        max_keys: int = 8192,
        remember: bool = True,
        settings: Settings | None = None,
    ) -> None:
        self._construct(
            session, cache_type=cache_type, max_keys=max_keys, remember=remember, settings=settings
        )

    record = on_loop(operate.CacheOptimizer.record)
    track_usage = on_loop(operate.CacheOptimizer.track_usage)
    curve = on_loop(operate.CacheOptimizer.curve)
    curve_by_bytes = on_loop(operate.CacheOptimizer.curve_by_bytes)
    recommend = on_loop(operate.CacheOptimizer.recommend)
    recommend_cache_size = recommend
    get_cache_priorities = on_loop(operate.CacheOptimizer.get_cache_priorities)
    save = waited(operate.CacheOptimizer.save)


@public
class CacheAwareGenerator(Tool[operate.CacheAwareGenerator]):
    _kind = operate.CacheAwareGenerator

    is_cached = waited(operate.CacheAwareGenerator.is_cached)
    is_likely_cached = waited(
        operate.CacheAwareGenerator.is_likely_cached  # type: ignore[arg-type]  # an option may be called self
    )
    generate_with_fallback = waited(operate.CacheAwareGenerator.generate_with_fallback)
    batch_generate_optimized = waited(operate.CacheAwareGenerator.batch_generate_optimized)
    wait_background = waited(operate.CacheAwareGenerator.wait_background)

    @property
    def background(self) -> int:
        """How many computations are under way in the background."""
        return self._read(lambda generator: generator.background)


@public
class CachePersistenceManager(Tool[operate.CachePersistenceManager]):
    _kind = operate.CachePersistenceManager

    def __init__(
        self,
        session: Session | None = None,
        *,
        backup_dir: str | os.PathLike[str] = "./cache_backups",
    ) -> None:
        self._construct(session, backup_dir=backup_dir)

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
        return self._read(lambda manager: manager.backup_dir)


@public
class CacheInspector(Tool[operate.CacheInspector]):
    _kind = operate.CacheInspector

    def __init__(self, session: Session | None = None, *, limit: int = 1000) -> None:
        self._construct(session, limit=limit)

    trace_generation = waited(
        operate.CacheInspector.trace_generation  # type: ignore[arg-type]  # an option may be called self
    )
    analyze = on_loop(operate.CacheInspector.analyze)
    analyze_cache_behavior = analyze
    clear = on_loop(operate.CacheInspector.clear)
    export = waited(operate.CacheInspector.export)
    export_trace_log = export
    explain = waited(operate.CacheInspector.explain)

    @property
    def generation_log(self) -> list[operate.CallTrace]:
        """The traces, oldest first."""
        return self._read(lambda inspector: inspector.generation_log)

    @contextmanager
    def tracing(self, *, everywhere: bool = True) -> Iterator[None]:
        """Trace every call of the session that ends within the block, embeddings included.

        With ``everywhere=False`` only calls of this thread.
        """
        with self._session().observe(self._tool.observe, everywhere=everywhere):
            yield


@public
class CacheBenchmark(Tool[operate.CacheBenchmark]):
    _kind = operate.CacheBenchmark

    def __init__(
        self,
        session: Session | None = None,
        *,
        cache_type: Kind = "generation",
        limit: int = 100_000,
    ) -> None:
        self._construct(session, cache_type=cache_type, limit=limit)

    benchmark_single_prompt = waited(operate.CacheBenchmark.benchmark_single_prompt)
    benchmark_cache_sizes = waited(operate.CacheBenchmark.benchmark_cache_sizes)
    find_optimal_cache_size = waited(operate.CacheBenchmark.find_optimal_cache_size)
    save_accesses = waited(operate.CacheBenchmark.save_accesses)

    @property
    def accesses(self) -> list[operate.Access]:
        """What was recorded, oldest first."""
        return self._read(lambda benchmark: benchmark.accesses)

    @contextmanager
    @documented_as(operate.CacheBenchmark.recording)
    def recording(self) -> Iterator[None]:
        with self._session().observe(self._tool.observe, everywhere=True):
            yield


@public
class HierarchicalCache(Tool[operate.HierarchicalCache]):
    _kind = operate.HierarchicalCache

    get_or_generate = waited(
        operate.HierarchicalCache.get_or_generate  # type: ignore[arg-type]  # an option may be called self
    )
    preload_category = waited(operate.HierarchicalCache.preload_category)
    clear_category = waited(operate.HierarchicalCache.clear_category)
    clear = clear_category
    statistics = waited(operate.HierarchicalCache.statistics)
    namespaces = waited(operate.HierarchicalCache.namespaces)

    @documented_as(operate.HierarchicalCache.namespace)
    def namespace(self, path: str) -> Namespace:
        return Namespace(self._root, path)


@public
class PrometheusCollector(EnteredTool[operate.PrometheusCollector]):
    _kind = operate.PrometheusCollector

    # Only asteady.operate imports prometheus_client, so the registry's type is not written here.
    def __init__(self, session: Session | None = None, *, registry: Any = None) -> None:
        self._construct(session, registry=registry)

    refresh = waited(operate.PrometheusCollector.refresh)
    text = waited(operate.PrometheusCollector.text)


# -- functions -------------------------------------------------------------------------------------


@contextmanager
@documented_as(operate.opentelemetry)
def opentelemetry(session: Session | None = None, **providers: Any) -> Iterator[None]:
    root = root_of(session)
    with operate.opentelemetry(root.portal().call(root.session), **providers):
        yield


@public
@documented_as(operate.warm_cache_sequential)
def warm_cache_sequential(
    prompts: operate.WarmSource,
    seeds: Sequence[int] | None = None,
    *,
    session: Session | None = None,
    timeout: float | None = None,
    **options: Unpack[operate.WarmerOptions],
) -> operate.WarmReport:
    return _waited_with(
        session,
        lambda behind: operate.warm_cache_sequential(prompts, seeds, session=behind, **options),
        timeout,
    )


@public
@documented_as(operate.warm_cache_parallel)
def warm_cache_parallel(
    prompts: operate.WarmSource,
    seeds: Sequence[int] | None = None,
    max_workers: int = 4,
    *,
    session: Session | None = None,
    timeout: float | None = None,
    **options: Unpack[operate.WarmerOptions],
) -> operate.WarmReport:
    return _waited_with(
        session,
        lambda behind: operate.warm_cache_parallel(
            prompts, seeds, max_workers, session=behind, **options
        ),
        timeout,
    )


class _Function(Protocol[P, R_co]):
    """A plain function; without a session, it works on the default one."""

    @overload
    def __call__(
        self, session: Session | None = None, *args: P.args, **kwargs: P.kwargs
    ) -> R_co: ...
    @overload
    def __call__(
        self,
        session: Session | None = None,
        *args: Any,
        timeout: float | None,
        **kwargs: Any,
    ) -> R_co: ...


def _plain(fn: Callable[Concatenate[AsyncSession, P], Awaitable[R]]) -> _Function[P, R]:
    @functools.wraps(fn)
    def plain(
        session: Session | None = None,
        *args: Any,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> R:
        return _waited_with(session, lambda behind: fn(behind, *args, **kwargs), timeout)

    signature = inspect.signature(fn)
    first, *options = signature.parameters.values()
    annotation = plain.__annotations__[first.name] = Session | None
    first = first.replace(default=None, annotation=annotation)
    vars(plain)["__signature__"] = signature.replace(parameters=[first, *options])
    return with_timeout(plain)  # type: ignore[no-any-return]  # see Bound


fingerprint = _plain(operate.fingerprint)
verify = _plain(operate.verify)
verify_cache = _plain(operate.verify_cache)


def _waited_with(
    session: Session | None,
    fn: Callable[[AsyncSession], Awaitable[R]],
    timeout: float | None,
) -> R:
    root, limit = root_of(session), TimeLimit(timeout)

    async def call() -> R:
        return await fn(await root.session())

    return root.portal().call(call, limit)
