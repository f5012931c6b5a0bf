"""For whoever runs it: watching, warming, sizing and explaining the cache."""

from asteady._observe import Observed, Outcome
from asteady.operate._health import CacheHealth, HealthWarning, ProductionCacheMonitor
from asteady.operate._monitor import CacheMonitor, Counts, Monitored, Operation
from asteady.operate._otel import opentelemetry
from asteady.operate._prometheus import PrometheusCollector

__all__ = [
    "CacheHealth",
    "CacheMonitor",
    "Counts",
    "HealthWarning",
    "Monitored",
    "Observed",
    "Operation",
    "Outcome",
    "ProductionCacheMonitor",
    "PrometheusCollector",
    "opentelemetry",
]
