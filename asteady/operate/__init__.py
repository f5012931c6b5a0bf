"""Operational tools: monitor, warm, size, explain and verify the caches of a session."""

from typing import TYPE_CHECKING

from asteady._base.public import lazy_exports

if TYPE_CHECKING:
    from asteady._cache.store.api import (
        Exported,
        Holding,
        Merged,
        NamespaceSize,
    )
    from asteady._session.namespace import (
        Namespace,
        NamespaceCounts,
        NamespaceStatistics,
    )
    from asteady._session.observe import (
        Observed,
        Outcome,
    )
    from asteady._session.warm import (
        Priority,
        WarmerOptions,
        WarmFailure,
        WarmOptions,
        WarmOutcome,
        WarmProgress,
        WarmPrompt,
        WarmReport,
        WarmSource,
    )
    from asteady.operate._accesses import (
        Access,
        AccessLog,
        Replayed,
    )
    from asteady.operate._aware import (
        BatchResult,
        BatchStatistics,
        CacheAwareGenerator,
        WithFallback,
    )
    from asteady.operate._benchmark import (
        CacheBenchmark,
        PromptTiming,
    )
    from asteady.operate._guide import (
        HierarchicalCache,
        StrategicCacheWarmer,
        warm_cache_parallel,
        warm_cache_sequential,
    )
    from asteady.operate._health import (
        CacheHealth,
        HealthWarning,
        ProductionCacheMonitor,
    )
    from asteady.operate._inspector import (
        CacheAnalysis,
        CacheInspector,
        CallTrace,
        Explanation,
    )
    from asteady.operate._monitor import (
        CacheMonitor,
        Counts,
        Monitored,
        Operation,
    )
    from asteady.operate._otel import (
        opentelemetry,
    )
    from asteady.operate._prometheus import (
        PrometheusCollector,
    )
    from asteady.operate._sizing import (
        CacheOptimizer,
        CachePriority,
        Curve,
        SizeGoal,
        SizeRecommendation,
    )
    from asteady.operate._snapshots import (
        CachePersistenceManager,
    )
    from asteady.operate._verify import (
        VerifyDifference,
        VerifyOptions,
        VerifyReport,
        VerifyRequest,
        VerifyStep,
        verify,
    )
    from asteady.operate._verify_cache import (
        VerifyCacheDifference,
        VerifyCacheOptions,
        VerifyCacheReport,
        verify_cache,
    )
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "asteady._cache.store.api": "Exported Holding Merged NamespaceSize",
            "asteady._session.namespace": "Namespace NamespaceCounts NamespaceStatistics",
            "asteady._session.observe": "Observed Outcome",
            "asteady._session.warm": (
                "Priority WarmFailure WarmOptions WarmOutcome WarmProgress WarmPrompt"
                " WarmReport WarmSource WarmerOptions"
            ),
            "asteady.operate._accesses": "Access AccessLog Replayed",
            "asteady.operate._aware": (
                "BatchResult BatchStatistics CacheAwareGenerator WithFallback"
            ),
            "asteady.operate._benchmark": "CacheBenchmark PromptTiming",
            "asteady.operate._guide": (
                "HierarchicalCache StrategicCacheWarmer warm_cache_parallel warm_cache_sequential"
            ),
            "asteady.operate._health": "CacheHealth HealthWarning ProductionCacheMonitor",
            "asteady.operate._inspector": ("CacheAnalysis CacheInspector CallTrace Explanation"),
            "asteady.operate._monitor": "CacheMonitor Counts Monitored Operation",
            "asteady.operate._otel": "opentelemetry",
            "asteady.operate._prometheus": "PrometheusCollector",
            "asteady.operate._sizing": (
                "CacheOptimizer CachePriority Curve SizeGoal SizeRecommendation"
            ),
            "asteady.operate._snapshots": "CachePersistenceManager",
            "asteady.operate._verify": (
                "VerifyDifference VerifyOptions VerifyReport VerifyRequest VerifyStep verify"
            ),
            "asteady.operate._verify_cache": (
                "VerifyCacheDifference VerifyCacheOptions VerifyCacheReport verify_cache"
            ),
        },
    )

__all__ = [
    "Access",
    "AccessLog",
    "BatchResult",
    "BatchStatistics",
    "CacheAnalysis",
    "CacheAwareGenerator",
    "CacheBenchmark",
    "CacheHealth",
    "CacheInspector",
    "CacheMonitor",
    "CacheOptimizer",
    "CachePersistenceManager",
    "CachePriority",
    "CallTrace",
    "Counts",
    "Curve",
    "Explanation",
    "Exported",
    "HealthWarning",
    "HierarchicalCache",
    "Holding",
    "Merged",
    "Monitored",
    "Namespace",
    "NamespaceCounts",
    "NamespaceSize",
    "NamespaceStatistics",
    "Observed",
    "Operation",
    "Outcome",
    "Priority",
    "ProductionCacheMonitor",
    "PrometheusCollector",
    "PromptTiming",
    "Replayed",
    "SizeGoal",
    "SizeRecommendation",
    "StrategicCacheWarmer",
    "VerifyCacheDifference",
    "VerifyCacheOptions",
    "VerifyCacheReport",
    "VerifyDifference",
    "VerifyOptions",
    "VerifyReport",
    "VerifyRequest",
    "VerifyStep",
    "WarmFailure",
    "WarmOptions",
    "WarmOutcome",
    "WarmProgress",
    "WarmPrompt",
    "WarmReport",
    "WarmSource",
    "WarmerOptions",
    "WithFallback",
    "opentelemetry",
    "verify",
    "verify_cache",
    "warm_cache_parallel",
    "warm_cache_sequential",
]
