"""What SteadyText's caching guide shows its users runs on asteady.steadytext.

One program for each of the guide's subjects, which makes the same calls and reads the same keys.
Only the import differs from what was written for SteadyText.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("unmeasured")

PREAMBLE = """
import asteady.steadytext as steadytext
from asteady.steadytext import get_cache_manager
import json, os, statistics, sys, time
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import datetime
from pathlib import Path

os.chdir(sys.argv[-1])

def rate(stats):
    asked = stats.get("hits", 0) + stats.get("misses", 0)
    return 100 * stats.get("hits", 0) / asked if asked else 0.0
"""

PROGRAMS = {
    "configuring by variables that are set after the import": """
os.environ["STEADYTEXT_GENERATION_CACHE_CAPACITY"] = "1024"
os.environ["STEADYTEXT_GENERATION_CACHE_MAX_SIZE_MB"] = "200.0"
os.environ["STEADYTEXT_EMBEDDING_CACHE_CAPACITY"] = "2048"
os.environ["STEADYTEXT_EMBEDDING_CACHE_MAX_SIZE_MB"] = "500.0"
stats = get_cache_manager().get_cache_stats()
assert stats["generation"]["capacity"] == 1024
assert stats["embedding"]["capacity"] == 2048
""",
    "configuring by a function": """
def for_testing():
    os.environ["STEADYTEXT_GENERATION_CACHE_CAPACITY"] = "32"
    os.environ["STEADYTEXT_EMBEDDING_CACHE_MAX_SIZE_MB"] = "20.0"
for_testing()
steadytext.generate("hello", max_new_tokens=4)
stats = get_cache_manager().get_cache_stats()
assert stats["generation"]["capacity"] == 32
assert stats["embedding"]["max_size_bytes"] == 20 * 1024 * 1024
""",
    "turning the cache off": """
os.environ["STEADYTEXT_DISABLE_CACHE"] = "1"
first = steadytext.generate("hello", max_new_tokens=4)
assert steadytext.generate("hello", max_new_tokens=4) == first
assert get_cache_manager().get_cache_stats()["generation"]["size"] == 0
assert not steadytext.is_cached("hello", max_new_tokens=4)
""",
    "monitoring one operation after another": """
class Monitor:
    def __init__(self):
        self.manager = get_cache_manager()
        self.since = self.manager.get_cache_stats()
    def watch(self, operation, *args, **kwargs):
        before = self.manager.get_cache_stats()
        began = time.time()
        result = operation(*args, **kwargs)
        took = time.time() - began
        after = self.manager.get_cache_stats()
        gained = {kind: after[kind]["hits"] - before[kind]["hits"] for kind in before}
        return result, took, gained
monitor = Monitor()
first, slow, gained = monitor.watch(steadytext.generate, "Write a haiku about rain")
assert gained == {"generation": 0, "embedding": 0}, gained
again, fast, gained = monitor.watch(steadytext.generate, "Write a haiku about rain")
assert gained == {"generation": 1, "embedding": 0}, gained
assert again == first and fast < slow
_, _, gained = monitor.watch(steadytext.embed, "rain")
_, _, gained = monitor.watch(steadytext.embed, "rain")
assert gained == {"generation": 0, "embedding": 1}, gained
stats = monitor.manager.get_cache_stats()
for kind in ("generation", "embedding"):
    print(kind.title(), stats[kind]["size"], f"{rate(stats[kind]):.1f}%")
    assert rate(stats[kind]) == 50.0
""",
    "warming one by one, then in threads": """
prompts = [f"Write test number {n}" for n in range(4)]
def warm(seeds, workers):
    with ThreadPoolExecutor(max_workers=workers) as executor:
        asked = [
            executor.submit(steadytext.generate, prompt, seed=seed, max_new_tokens=10)
            for prompt in prompts
            for seed in seeds
        ]
        return sum(1 for future in as_completed(asked) if future.result())
for prompt in prompts:
    steadytext.generate(prompt, seed=42, max_new_tokens=10)
assert warm([42, 100, 200], 4) == 12
stats = get_cache_manager().get_cache_stats()["generation"]
assert (stats["size"], stats["misses"], stats["hits"]) == (12, 12, 4), stats
""",
    "following what is used, to size the cache": """
used = {}
for prompt, seed in [("Sort a list", 42), ("Explain rain", 42), ("Sort a list", 42)]:
    began = time.time()
    steadytext.generate(prompt, seed=seed, max_new_tokens=10)
    used.setdefault((prompt, seed), []).append(time.time() - began)
assert len(used["Sort a list", 42]) == 2
assert used["Sort a list", 42][1] < used["Sort a list", 42][0]
""",
    "categories in a dictionary before it": """
class Categories:
    def __init__(self):
        self.manager = steadytext.get_cache_manager()
        self.known = {}
    def get(self, category, sub, prompt, seed=42, **kwargs):
        key = f"{category}:{sub}:{seed}:{prompt}"
        if key not in self.known:
            self.known[key] = steadytext.generate(prompt, seed=seed, **kwargs)
        return self.known[key]
    def clear(self, category):
        gone = [key for key in self.known if key.startswith(f"{category}:")]
        for key in gone:
            del self.known[key]
        return len(gone)
categories = Categories()
items = [
    {"sub": "api", "prompt": "Document an endpoint", "kwargs": {"max_new_tokens": 20}},
    {"sub": "functions", "prompt": "Document a function", "kwargs": {"max_new_tokens": 15}},
]
texts = [categories.get("docs", i["sub"], i["prompt"], 42, **i["kwargs"]) for i in items]
assert categories.clear("docs") == 2
again = [categories.get("docs", i["sub"], i["prompt"], 42, **i["kwargs"]) for i in items]
assert again == texts
assert categories.manager.get_cache_stats()["generation"]["hits"] == 2
""",
    "choosing by what is cached": """
def with_fallback(primary, fallback, **kwargs):
    if not steadytext.is_cached(primary, **kwargs) and steadytext.is_cached(fallback, **kwargs):
        return steadytext.generate(fallback, **kwargs), True
    return steadytext.generate(primary, **kwargs), False
steadytext.generate("Explain rain", seed=42, max_new_tokens=20)
text, fell_back = with_fallback("Explain rain in depth", "Explain rain", seed=42, max_new_tokens=20)
assert fell_back and text == steadytext.generate("Explain rain", seed=42, max_new_tokens=20)
text, fell_back = with_fallback("Explain rain", "Explain snow", seed=42, max_new_tokens=20)
assert not fell_back
""",
    "a batch, timed": """
prompts = ["Write a function", "Explain rain", "Write a function", "Make test data"]
results, took = {}, []
for prompt in prompts:
    began = time.time()
    results[prompt] = steadytext.generate(prompt, seed=42, max_new_tokens=20)
    took.append(time.time() - began)
assert len(results) == 3
assert took[2] < took[0]
""",
    "saving the state of the caches, and looking back": """
class Persistence:
    def __init__(self, directory="cache_backups"):
        self.directory = Path(directory)
        self.directory.mkdir(exist_ok=True)
        self.manager = steadytext.get_cache_manager()
    def save(self, name):
        stats = self.manager.get_cache_stats()
        state = {"timestamp": datetime.now().isoformat()}
        for kind in ("generation", "embedding"):
            state[f"{kind}_cache"] = {
                "size": stats[kind]["size"],
                "capacity": stats[kind].get("capacity", 0),
                "hit_rate": rate(stats[kind]),
            }
        (self.directory / f"cache_state_{name}.json").write_text(json.dumps(state, indent=2))
    def history(self):
        files = sorted(self.directory.glob("cache_state_*.json"))
        return [json.loads(file.read_text())["generation_cache"]["size"] for file in files]
persistence = Persistence()
persistence.save("1_before")
for n in range(5):
    steadytext.generate(f"Test prompt {n}", seed=42, max_new_tokens=5)
persistence.save("2_after")
assert persistence.history() == [0, 5]
json.dumps(persistence.manager.get_cache_stats())
""",
    "timing a cold and a warm cache": """
manager = steadytext.get_cache_manager()
def benchmark(prompt, iterations=10):
    manager.clear_all_caches()
    took = []
    for _ in range(iterations):
        began = time.time()
        steadytext.generate(prompt, seed=42)
        took.append(time.time() - began)
    return took[0] / statistics.mean(took[1:]), statistics.stdev(took[1:])
speedup, _ = benchmark("Write a guide to decorators")
assert speedup > 10, speedup
for size in (16, 32):
    os.environ["STEADYTEXT_GENERATION_CACHE_CAPACITY"] = str(size)
    manager.clear_all_caches()
    assert manager.get_cache_stats()["generation"]["size"] == 0
    for prompt in ("a", "b", "a"):
        steadytext.generate(prompt, seed=42, max_new_tokens=5)
""",
    "tracing calls through the cache": """
manager = steadytext.get_cache_manager()
trace = []
for prompt, seed in [("hello", 42), ("hello", 42), ("Explain it", 42), ("hello", 100)]:
    before = manager.get_cache_stats()["generation"]
    began = time.time()
    text = steadytext.generate(prompt, seed=seed, max_new_tokens=20)
    after = manager.get_cache_stats()["generation"]
    trace.append({
        "prompt": prompt,
        "cache_hit": after.get("hits", 0) > before.get("hits", 0),
        "sizes": [before["size"], after["size"]],
        "duration": time.time() - began,
        "preview": text[:100],
    })
assert [call["cache_hit"] for call in trace] == [False, True, False, False]
assert [call["sizes"] for call in trace] == [[0, 1], [1, 1], [1, 2], [2, 3]]
with open("cache_trace.json", "w") as file:
    json.dump(trace, file, indent=2)
""",
    "warming by priority within a time": """
waiting = {"high": ["one", "two"], "medium": ["three"], "low": ["four"]}
began, warmed = time.time(), dict.fromkeys(waiting, 0)
for priority in ("high", "medium", "low"):
    for prompt in waiting[priority]:
        if time.time() - began > 60.0:
            break
        steadytext.generate(prompt, max_new_tokens=10)
        warmed[priority] += 1
assert warmed == {"high": 2, "medium": 1, "low": 1}
""",
    "the guide's classes by their names, without pasting them": """
monitor = steadytext.CacheMonitor()
first = monitor.monitor_operation(steadytext.generate, "Write a haiku about rain")
again = monitor.monitor_operation(steadytext.generate, "Write a haiku about rain")
assert (first.cache_hit, again.cache_hit) == (False, True)
assert monitor.get_hit_rate(cache_type="generation") == 50.0
monitor.print_summary()

warmed = steadytext.warm_cache_sequential(["one", "two"], [42, 100])
assert warmed.warmed == 4
assert steadytext.warm_cache_parallel(["one", "two"], [42], max_workers=4).already_cached == 2
warmer = steadytext.StrategicCacheWarmer()
warmer.add_prompts(["Generate error message"], priority="high")
assert warmer.warm_cache(available_time=60.0).by_priority["high"] == 1

with steadytext.CacheOptimizer() as optimizer:
    for prompt in ("Sort a list", "Explain rain", "Sort a list"):
        steadytext.generate(prompt, max_new_tokens=5)
assert optimizer.get_cache_priorities(5)[0].prompt == "Sort a list"
print(optimizer.recommend_cache_size())

categories = steadytext.HierarchicalCache()
categories.get_or_generate("emails", "marketing", "Write a subject line", seed=100)
assert categories.clear_category("emails") == 1

cache_gen = steadytext.CacheAwareGenerator()
assert cache_gen.is_likely_cached("one", max_new_tokens=100)
text, used_fallback = cache_gen.generate_with_fallback("In depth", "one", max_new_tokens=100)
assert used_fallback
results, stats = cache_gen.batch_generate_optimized(["one", "new", "one"], max_new_tokens=100)
assert len(results) == stats.total == 3

persistence = steadytext.CachePersistenceManager()
persistence.save_cache_state("before_optimization")
persistence.save_cache_state("after_batch_generation")
print(json.dumps(persistence.analyze_cache_history(), indent=2))

benchmark = steadytext.CacheBenchmark()
assert benchmark.benchmark_single_prompt("one", iterations=5, max_new_tokens=20).speedup > 1
assert benchmark.benchmark_cache_sizes(["a", "b", "a"], [1, 2])[2].hits == 1
assert benchmark.find_optimal_cache_size(["a", "b", "a"]) == 2

inspector = steadytext.CacheInspector()
assert inspector.trace_generation("one", 42).outcome == "computed"
assert inspector.analyze_cache_behavior().total_generations == 1
inspector.export_trace_log("cache_trace.json")

production = steadytext.ProductionCacheMonitor(alert_threshold=60.0)
assert production.check_cache_health().healthy
for health in production.continuous_monitoring(300):
    assert health.as_dict()["healthy"]
    break
""",
    "watching the caches' health": """
import logging
def check(threshold):
    stats = steadytext.get_cache_manager().get_cache_stats()
    warnings = [f"Low {kind} hit rate" for kind in stats if rate(stats[kind]) < threshold]
    for kind in stats:
        if stats[kind]["size"] >= stats[kind].get("capacity", 256) * 0.95:
            warnings.append(f"{kind} near capacity")
    return {"healthy": not warnings, "warnings": warnings}
assert not check(60.0)["healthy"]
for _ in range(4):
    steadytext.generate("hello", max_new_tokens=4)
    steadytext.embed("hello")
assert check(60.0) == {"healthy": True, "warnings": []}
""",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_a_program_written_for_the_guide_runs(program: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", PREAMBLE + program, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_the_files_lie_where_the_guide_says_under_the_cache_directory(tmp_path: Path) -> None:
    program = PREAMBLE + "steadytext.get_cache_manager().get_cache_stats()"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=120)
    names = {path.name for path in (tmp_path / "caches").iterdir()}
    assert {"generation_cache.db", "embedding_cache.db"} <= names
