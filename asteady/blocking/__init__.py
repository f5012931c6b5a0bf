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
        Cache,
        CacheManager,
        Namespace,
        Prefix,
        Session,
        close,
        complete,
        embed,
        embed_batches,
        generate,
        generate_iter,
        get_cache_manager,
        is_cached,
        namespace,
        prefix,
        run,
        stream,
        warm,
    )
    from asteady.blocking._stream import Stream
    from asteady.blocking._tools import (
        CacheAwareGenerator,
        CacheBenchmark,
        CacheInspector,
        CacheMonitor,
        CacheOptimizer,
        CachePersistenceManager,
        HierarchicalCache,
        Operation,
        ProductionCacheMonitor,
        PrometheusCollector,
        StrategicCacheWarmer,
        opentelemetry,
        verify,
        verify_cache,
        warm_cache_parallel,
        warm_cache_sequential,
    )
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "asteady.blocking._session": (
                "Cache CacheManager Namespace Prefix Session close complete embed embed_batches"
                " generate generate_iter get_cache_manager is_cached namespace prefix run stream"
                " warm"
            ),
            "asteady.blocking._stream": "Stream",
            "asteady.blocking._tools": (
                "CacheAwareGenerator CacheBenchmark CacheInspector CacheMonitor CacheOptimizer"
                " CachePersistenceManager HierarchicalCache Operation ProductionCacheMonitor"
                " PrometheusCollector StrategicCacheWarmer opentelemetry verify verify_cache"
                " warm_cache_parallel warm_cache_sequential"
            ),
        },
    )

__all__ = [
    "Cache",
    "CacheAwareGenerator",
    "CacheBenchmark",
    "CacheInspector",
    "CacheManager",
    "CacheMonitor",
    "CacheOptimizer",
    "CachePersistenceManager",
    "HierarchicalCache",
    "Namespace",
    "Operation",
    "Prefix",
    "ProductionCacheMonitor",
    "PrometheusCollector",
    "Session",
    "StrategicCacheWarmer",
    "Stream",
    "close",
    "complete",
    "embed",
    "embed_batches",
    "generate",
    "generate_iter",
    "get_cache_manager",
    "is_cached",
    "namespace",
    "opentelemetry",
    "prefix",
    "run",
    "stream",
    "verify",
    "verify_cache",
    "warm",
    "warm_cache_parallel",
    "warm_cache_sequential",
]
