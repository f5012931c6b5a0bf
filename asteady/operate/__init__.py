"""For whoever runs it: watching, warming, sizing and explaining the cache."""

from asteady._observe import Observed, Outcome
from asteady.operate._monitor import CacheMonitor, Counts, Monitored, Operation
from asteady.operate._otel import opentelemetry
from asteady.operate._prometheus import PrometheusCollector

__all__ = [
    "CacheMonitor",
    "Counts",
    "Monitored",
    "Observed",
    "Operation",
    "Outcome",
    "PrometheusCollector",
    "opentelemetry",
]
