"""asteady without await: for scripts, notebooks, threads, and programs that are not asynchronous.

::

    import asteady.blocking as asteady

    print(asteady.generate("Write a haiku about caching", seed=42))

The module's functions use one session, opened at the first call with settings from the
environment; `Session` is for a session of one's own. The tools of `asteady.operate` are here too,
under the same names. All sessions live on one event loop in a background thread. They may be used
from any number of threads at once, also inside a function that runs in another event loop (which
they block meanwhile), and are closed when the interpreter exits.

In a forked child the module's functions open a session of their own; a `Session` that the parent
had opened raises `SessionError` there.
"""

from typing import TYPE_CHECKING

from asteady._base.public import lazy_exports

if TYPE_CHECKING:
    from asteady.blocking._session import (
        Cache as Cache,
        CacheManager as CacheManager,
        Namespace as Namespace,
        Prefix as Prefix,
        Session as Session,
        close as close,
        complete as complete,
        count_tokens as count_tokens,
        embed as embed,
        embed_batches as embed_batches,
        generate as generate,
        generate_iter as generate_iter,
        get_cache_manager as get_cache_manager,
        is_cached as is_cached,
        namespace as namespace,
        prefix as prefix,
        run as run,
        stream as stream,
        warm as warm,
    )
    from asteady.blocking._stream import Stream as Stream, TypedStream as TypedStream
    from asteady.blocking._tools import (
        CacheAwareGenerator as CacheAwareGenerator,
        CacheBenchmark as CacheBenchmark,
        CacheInspector as CacheInspector,
        CacheMonitor as CacheMonitor,
        CacheOptimizer as CacheOptimizer,
        CachePersistenceManager as CachePersistenceManager,
        HierarchicalCache as HierarchicalCache,
        ProductionCacheMonitor as ProductionCacheMonitor,
        PrometheusCollector as PrometheusCollector,
        StrategicCacheWarmer as StrategicCacheWarmer,
        fingerprint as fingerprint,
        opentelemetry as opentelemetry,
        verify as verify,
        verify_cache as verify_cache,
        warm_cache_parallel as warm_cache_parallel,
        warm_cache_sequential as warm_cache_sequential,
    )
    from asteady.operate._monitor import Operation as Operation
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "asteady.blocking._session": (
                "Cache CacheManager Namespace Prefix Session close complete"
                " count_tokens embed embed_batches generate generate_iter get_cache_manager"
                " is_cached namespace prefix run stream warm"
            ),
            "asteady.operate._monitor": "Operation",
            "asteady.blocking._stream": "Stream TypedStream",
            "asteady.blocking._tools": (
                "CacheAwareGenerator CacheBenchmark CacheInspector CacheMonitor CacheOptimizer"
                " CachePersistenceManager HierarchicalCache ProductionCacheMonitor"
                " PrometheusCollector StrategicCacheWarmer fingerprint opentelemetry verify"
                " verify_cache warm_cache_parallel warm_cache_sequential"
            ),
        },
    )
