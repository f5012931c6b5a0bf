"""For whoever runs it: watching, warming, sizing and explaining the cache."""

from asteady._cache.store.api import Exported, Holding, Merged, NamespaceSize
from asteady._session.namespace import Namespace, NamespaceCounts, NamespaceStatistics
from asteady._session.observe import Observed, Outcome
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
from asteady.operate._accesses import Access, AccessLog, Replayed
from asteady.operate._aware import (
    BatchResult,
    BatchStatistics,
    CacheAwareGenerator,
    WithFallback,
)
from asteady.operate._benchmark import CacheBenchmark, PromptTiming
from asteady.operate._health import CacheHealth, HealthWarning, ProductionCacheMonitor
from asteady.operate._hierarchy import HierarchicalCache
from asteady.operate._inspector import CacheAnalysis, CacheInspector, CallTrace, Explanation
from asteady.operate._monitor import CacheMonitor, Counts, Monitored, Operation
from asteady.operate._otel import opentelemetry
from asteady.operate._prometheus import PrometheusCollector
from asteady.operate._sizing import (
    CacheOptimizer,
    CachePriority,
    Curve,
    SizeGoal,
    SizeRecommendation,
)
from asteady.operate._snapshots import CachePersistenceManager
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
from asteady.operate._warmers import (
    StrategicCacheWarmer,
    warm_cache_parallel,
    warm_cache_sequential,
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
