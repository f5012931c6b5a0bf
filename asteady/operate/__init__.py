"""Operational tools: monitor, warm, size, explain and verify the caches of a session."""

from typing import TYPE_CHECKING

from asteady._base.public import lazy_exports

if TYPE_CHECKING:
    from asteady._cache.store.api import (
        Exported as Exported,
        Holding as Holding,
        Merged as Merged,
        Moved as Moved,
        NamespaceSize as NamespaceSize,
    )
    from asteady._session.namespace import (
        Namespace as Namespace,
        NamespaceCounts as NamespaceCounts,
        NamespaceStatistics as NamespaceStatistics,
    )
    from asteady._session.observe import Observed as Observed, Outcome as Outcome
    from asteady._session.warm import (
        Priority as Priority,
        WarmerOptions as WarmerOptions,
        WarmFailure as WarmFailure,
        WarmOptions as WarmOptions,
        WarmOutcome as WarmOutcome,
        WarmProgress as WarmProgress,
        WarmPrompt as WarmPrompt,
        WarmReport as WarmReport,
        WarmSource as WarmSource,
    )
    from asteady.operate._aware import (
        BatchResult as BatchResult,
        BatchStatistics as BatchStatistics,
        CacheAwareGenerator as CacheAwareGenerator,
        WithFallback as WithFallback,
    )
    from asteady.operate._benchmark import (
        Access as Access,
        CacheBenchmark as CacheBenchmark,
        PromptTiming as PromptTiming,
        Replayed as Replayed,
    )
    from asteady.operate._fingerprint import (
        FingerprintComparison as FingerprintComparison,
        FingerprintDifference as FingerprintDifference,
        ModelFingerprint as ModelFingerprint,
        fingerprint as fingerprint,
    )
    from asteady.operate._guide import (
        HierarchicalCache as HierarchicalCache,
        StrategicCacheWarmer as StrategicCacheWarmer,
        warm_cache_parallel as warm_cache_parallel,
        warm_cache_sequential as warm_cache_sequential,
    )
    from asteady.operate._health import (
        CacheHealth as CacheHealth,
        HealthWarning as HealthWarning,
        ProductionCacheMonitor as ProductionCacheMonitor,
    )
    from asteady.operate._inspector import (
        CacheAnalysis as CacheAnalysis,
        CacheInspector as CacheInspector,
        CallTrace as CallTrace,
        Explanation as Explanation,
    )
    from asteady.operate._monitor import (
        CacheMonitor as CacheMonitor,
        Counts as Counts,
        Monitored as Monitored,
        Operation as Operation,
    )
    from asteady.operate._otel import opentelemetry as opentelemetry
    from asteady.operate._prometheus import PrometheusCollector as PrometheusCollector
    from asteady.operate._sizing import (
        CacheOptimizer as CacheOptimizer,
        CachePriority as CachePriority,
        Curve as Curve,
        SizeGoal as SizeGoal,
        SizeRecommendation as SizeRecommendation,
    )
    from asteady.operate._snapshots import CachePersistenceManager as CachePersistenceManager
    from asteady.operate._verify import (
        VerifyCacheDifference as VerifyCacheDifference,
        VerifyCacheReport as VerifyCacheReport,
        VerifyDifference as VerifyDifference,
        VerifyPlan as VerifyPlan,
        VerifyReport as VerifyReport,
        VerifyRequest as VerifyRequest,
        VerifyStep as VerifyStep,
        verify as verify,
        verify_cache as verify_cache,
    )
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "asteady._cache.store.api": "Exported Holding Merged Moved NamespaceSize",
            "asteady._session.namespace": "Namespace NamespaceCounts NamespaceStatistics",
            "asteady._session.observe": "Observed Outcome",
            "asteady._session.warm": (
                "Priority WarmFailure WarmOptions WarmOutcome WarmProgress WarmPrompt"
                " WarmReport WarmSource WarmerOptions"
            ),
            "asteady.operate._aware": (
                "BatchResult BatchStatistics CacheAwareGenerator WithFallback"
            ),
            "asteady.operate._benchmark": "Access CacheBenchmark PromptTiming Replayed",
            "asteady.operate._fingerprint": (
                "FingerprintComparison FingerprintDifference ModelFingerprint fingerprint"
            ),
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
                "VerifyCacheDifference VerifyCacheReport VerifyDifference VerifyPlan VerifyReport"
                " VerifyRequest VerifyStep verify verify_cache"
            ),
        },
    )
