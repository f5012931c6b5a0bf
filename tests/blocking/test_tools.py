"""The tools of asteady.operate without await, from plain code and from many threads."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import asteady
from asteady import InvalidRequestError, SessionClosedError, blocking, operate
from asteady._session.generation import context_of
from asteady.testing import FakeEngine
from tests.blocking.awake import awake

TOOLS = [
    name
    for name in vars(blocking)["__all__"]
    if inspect.isclass(getattr(operate, name, None)) and name not in ("Namespace", "Operation")
]


@pytest.fixture
def session(engine: FakeEngine) -> Iterator[blocking.Session]:
    with awake(blocking.Session(engine=engine, workers=2)) as session:
        yield session


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    blocking.close()


def test_every_class_of_the_guide_is_there() -> None:
    assert set(TOOLS) == {
        "CacheAwareGenerator",
        "CacheBenchmark",
        "CacheInspector",
        "CacheMonitor",
        "CacheOptimizer",
        "CachePersistenceManager",
        "HierarchicalCache",
        "ProductionCacheMonitor",
        "PrometheusCollector",
        "StrategicCacheWarmer",
    }


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_works_without_a_session_and_has_a_repr(name: str) -> None:
    assert repr(getattr(blocking, name)()).startswith(f"<blocking {name}")


def test_a_tool_refuses_an_async_session() -> None:
    with pytest.raises(InvalidRequestError, match=r"an asteady\.blocking\.Session"):
        blocking.CacheMonitor(asteady.Session())  # type: ignore[arg-type]  # as a user might
    with pytest.raises(InvalidRequestError, match="prompts is one str"):
        blocking.CacheAwareGenerator().batch_generate_optimized("abc")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'CacheWarmer'"):
        _ = blocking.CacheWarmer  # type: ignore[attr-defined]  # as a user might


def test_importing_the_module_does_not_import_the_tools() -> None:
    program = "import sys, asteady.blocking; print('asteady.operate' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "False\n"


def test_one_operation_records_its_outcome(
    session: blocking.Session, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = blocking.CacheMonitor(session)
    assert monitor.run(session.generate, "hi", seed=7).outcome == "computed"
    call = monitor.monitor_operation(session.generate, "hi", seed=7)
    assert (call.result, call.outcome, call.cache_hit) == ("You said: hi", "memory", True)
    with monitor.operation() as op:
        session.embed("hi")
    assert (op.outcome, len(op.calls)) == ("computed", 1)
    assert monitor.get_hit_rate() == 50.0
    monitor.print_summary()
    assert "Hit Rate: 50.0%" in capsys.readouterr().out
    monitor.mark()
    assert monitor.since_mark().hits == 0
    with pytest.raises(InvalidRequestError, match="no function"):
        monitor.run("hi")  # type: ignore[arg-type]  # as a user might


def test_an_operation_sees_its_own_thread_and_no_other(session: blocking.Session) -> None:
    session.generate("known")
    monitor = blocking.CacheMonitor(session)
    together = threading.Barrier(8)

    def work(number: int) -> tuple[bool | None, int]:
        with monitor.operation() as op:
            together.wait()
            session.generate("known" if number % 2 else f"new {number}")
            together.wait()
        return op.cache_hit, len(op.calls)

    with ThreadPoolExecutor(8) as threads:
        hits = list(threads.map(work, range(8)))
    assert hits == [(False, 1), (True, 1)] * 4
    # Without observers the fast path is taken again.
    assert not context_of(session.awaitable).observers.active


def test_health_once_and_again(session: blocking.Session) -> None:
    monitor = blocking.ProductionCacheMonitor(session, alert_threshold=60.0, min_lookups=1)
    assert monitor.check_cache_health().healthy
    session.generate("a miss")
    checks = monitor.continuous_monitoring(0.001)
    assert [next(checks).healthy, next(checks).healthy] == [False, False]
    checked = threading.Event()
    watching = threading.Thread(target=monitor.watch, args=(3600.0, lambda health: checked.set()))
    watching.start()
    assert checked.wait(30)
    session.close()
    watching.join(30)
    assert not watching.is_alive()
    assert list(checks) == []


def test_warming(session: blocking.Session) -> None:
    prompts = ["a", "b"]
    assert blocking.warm_cache_parallel(prompts, [1, 2], max_workers=2, session=session).warmed == 4
    again = blocking.warm_cache_sequential(prompts, [1, 2], session=session)
    assert again.already_cached == 4
    assert session.is_cached("a", seed=2, max_new_tokens=100)
    warmer = blocking.StrategicCacheWarmer(session)
    warmer.add_prompts(["c"], priority="high")
    assert warmer.priority_prompts["high"] == ["c"]
    assert warmer.warm_cache(available_time=60.0).by_priority["high"] == 1


def test_sizing(session: blocking.Session) -> None:
    with blocking.CacheOptimizer(session) as optimizer:
        for prompt in ("a", "b", "a", "b", "c"):
            session.generate(prompt)
    assert optimizer.recommend(by="hits").entries == 2
    assert optimizer.recommend_cache_size().recommended_size == 2
    assert optimizer.curve().hit_rate(2) == pytest.approx(0.4)
    assert {use.prompt for use in optimizer.get_cache_priorities(2)} == {"a", "b"}


def test_generating_by_what_is_cached(session: blocking.Session) -> None:
    aware = blocking.CacheAwareGenerator(session)
    session.generate("fallback")
    text, used_fallback = aware.generate_with_fallback("primary", "fallback", background=True)
    assert (text, used_fallback) == ("You said: fallback", True)
    aware.wait_background()
    assert aware.background == 0
    assert aware.is_likely_cached("primary")
    results, stats = aware.batch_generate_optimized(["new", "primary", "new"])
    assert results == ["You said: new", "You said: primary", "You said: new"]
    assert (stats.cached, stats.uncached) == (1, 1)


def test_snapshots_and_entries(session: blocking.Session, tmp_path: Path) -> None:
    manager = blocking.CachePersistenceManager(session, backup_dir=tmp_path / "states")
    manager.save_cache_state("before")
    session.generate("hi")
    assert manager.save_cache_state("after").parent == manager.backup_dir
    assert manager.analyze_cache_history()["generation_cache_trend"]["size_change"] == 1
    assert manager.history()[0]["filename"] == "cache_state_before.json"
    assert manager.export_entries(tmp_path / "entries.db").generation == 1
    assert manager.import_entries(tmp_path / "entries.db")["generation"].known == 1


def test_traces(session: blocking.Session, tmp_path: Path) -> None:
    inspector = blocking.CacheInspector(session, limit=10)
    traced = inspector.trace_generation("hi", seed=3)
    assert (traced.outcome, traced.cache_size_before, traced.cache_size_after) == ("computed", 0, 1)
    assert traced.key is not None
    assert inspector.explain(traced.key).entries == 1
    with inspector.tracing(everywhere=False), ThreadPoolExecutor(1) as threads:
        threads.submit(session.generate, "another thread's").result()
        session.embed("mine")
    with inspector.tracing(), ThreadPoolExecutor(1) as threads:
        threads.submit(session.generate, "hi", seed=3).result()
    assert [trace.prompt for trace in inspector.generation_log] == ["hi", "mine", "hi"]
    assert inspector.analyze_cache_behavior().cache_hits == 1
    assert inspector.export_trace_log(tmp_path / "trace.json").exists()
    inspector.clear()
    assert inspector.generation_log == []


def test_benchmarks(session: blocking.Session, tmp_path: Path) -> None:
    benchmark = blocking.CacheBenchmark(session)
    assert benchmark.benchmark_single_prompt("hi", iterations=3).cold_time_s > 0
    with benchmark.recording():
        for prompt in ("a", "b", "a"):
            session.generate(prompt)
    session.generate("later")
    assert len(benchmark.accesses) == 3
    assert benchmark.benchmark_cache_sizes(None, [2])[2].hits == 1
    assert benchmark.find_optimal_cache_size() == 2
    assert benchmark.save_accesses(tmp_path / "accesses.tsv").exists()


def test_categories(session: blocking.Session) -> None:
    cache = blocking.HierarchicalCache(session)
    text = cache.get_or_generate("emails", "marketing", "Write", seed=100)
    assert text == "You said: Write"
    assert cache.preload_category("emails", [{"subcategory": "b", "prompt": "c"}]).warmed == 1
    assert cache.namespace("emails/marketing").generate("Write", seed=100, cache="only") == text
    assert set(cache.namespaces("emails")) == {"emails/b", "emails/marketing"}
    assert cache.clear_category("emails") == 2


def test_reports_to_prometheus_and_opentelemetry(session: blocking.Session) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from prometheus_client import CollectorRegistry

    registry, spans, tracing = CollectorRegistry(), InMemorySpanExporter(), TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(spans))
    with (
        blocking.PrometheusCollector(session, registry=registry) as collector,
        blocking.opentelemetry(session, tracer_provider=tracing),
        tracing.get_tracer("test").start_as_current_span("request"),
    ):
        session.generate("hi")
        assert 'asteady_cache_lookups_total{cache="generation",result="miss"} 1.0' in (
            collector.text()
        )
    of_call, of_request = spans.get_finished_spans()
    assert of_call.parent is not None
    assert of_call.parent.span_id == of_request.context.span_id


def test_a_closed_session_is_an_error(session: blocking.Session) -> None:
    tools: list[Any] = [blocking.CacheMonitor(session), blocking.CacheInspector(session)]
    session.close()
    with pytest.raises(SessionClosedError):
        tools[0].summary()
    with pytest.raises(SessionClosedError):
        tools[1].trace_generation("hi")
