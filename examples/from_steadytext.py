"""A program written for SteadyText; only its import has changed."""

import os
import time

import asteady.steadytext as steadytext

os.environ["STEADYTEXT_GENERATION_CACHE_CAPACITY"] = "1024"

cache_manager = steadytext.get_cache_manager()
print("capacity", cache_manager.get_cache_stats()["generation"]["capacity"])

for prompt in ("Write a Python function", "Explain this error", "Write a Python function"):
    hits = cache_manager.get_cache_stats()["generation"]["hits"]
    began = time.time()
    text = steadytext.generate(prompt, seed=42, max_new_tokens=30)
    took_ms = (time.time() - began) * 1000
    hit = cache_manager.get_cache_stats()["generation"]["hits"] > hits
    print(f"{prompt:<25} {took_ms:8.2f} ms  {'hit' if hit else 'miss'}")

# The classes of SteadyText's caching guide are here too.
monitor = steadytext.CacheMonitor()
call = monitor.monitor_operation(steadytext.generate, "Explain this error", max_new_tokens=30)
print(f"{call.duration_s * 1000:.2f} ms, cache hit: {call.cache_hit}")
monitor.print_summary()
