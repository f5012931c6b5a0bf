"""Invalid arguments of the tools are refused with their name and what is allowed."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import asteady.operate
from asteady import InvalidRequestError, Session, SessionClosedError, SessionNotOpenError
from asteady.operate import (
    CacheAwareGenerator,
    CacheBenchmark,
    CacheInspector,
    CacheMonitor,
    CacheOptimizer,
    CachePersistenceManager,
    ProductionCacheMonitor,
    StrategicCacheWarmer,
)
from asteady.testing import FakeEngine

pytestmark = pytest.mark.anyio

PROMPTS = ["a", "b", "a"]

# As users might, so not as the types say.
tools: Any = asteady.operate
MISTAKES: dict[str, Callable[[Any], Any]] = {
    "concurrency='x' is not allowed": lambda s: s.warm(["a"], concurrency="x"),
    "budget_s=-1 is not allowed: seconds, 0 or more": lambda s: s.warm(["a"], budget_s=-1),
    "budget_s='60' is not allowed": lambda s: s.warm(["a"], budget_s="60"),
    "on_progress=3 is not allowed: a function": lambda s: s.warm(["a"], on_progress=3),
    "did you mean 'max_new_tokens'": lambda s: s.warm(["a"], max_new_token=3),
    "did you mean 'seeds'": lambda s: s.warm(["a"], seed=3),
    "max_new_tokens=-3 is not allowed": lambda s: s.warm(["a"], max_new_tokens=-3),
    "seed='x' is not allowed": lambda s: s.warm(["a"], seeds=["x"]),
    "model=3 is not allowed": lambda s: s.warm(["a"], model=3),
    "prompts is one dict": lambda s: s.warm({"prompt": "a"}),
    "prompts is one str: give a list of prompts": lambda s: tools.StrategicCacheWarmer(
        s
    ).add_prompts("abc"),
    "max_workers=0 is not allowed": lambda s: tools.warm_cache_parallel(["a"], [1], 0, session=s),
    "warm_cache_parallel() has no option 'concurrency'": lambda s: tools.warm_cache_parallel(
        ["a"], session=s, concurrency=8
    ),
    "available_time=-1 is not allowed": lambda s: tools.StrategicCacheWarmer(s).warm_cache(-1),
    "warm_cache() has no option 'budget_s'": lambda s: tools.StrategicCacheWarmer(s).warm_cache(
        budget_s=5
    ),
    "did you mean 'timeout_s'": lambda s: tools.CacheAwareGenerator(s).generate_with_fallback(
        "a", timeout=5
    ),
    "batch_generate_optimized() has no option 'workers'": lambda s: tools.CacheAwareGenerator(
        s
    ).batch_generate_optimized(["a"], workers=5),
    "alert_threshold='x' is not allowed": lambda s: tools.ProductionCacheMonitor(
        s, alert_threshold="x"
    ),
    "alert_threshold=101 is not allowed": lambda s: tools.ProductionCacheMonitor(
        s
    ).check_cache_health(101),
    "min_lookups=-1 is not allowed": lambda s: tools.ProductionCacheMonitor(s, min_lookups=-1),
    "min_stay_s=nan is not allowed": lambda s: tools.ProductionCacheMonitor(
        s, min_stay_s=float("nan")
    ),
    "interval_s=0 is not allowed: seconds, more than 0": lambda s: tools.ProductionCacheMonitor(
        s
    ).watch(0),
    "give a function and its arguments separately": lambda s: tools.CacheMonitor(s).run(
        s.generate("a")
    ),
    "cannot be awaited: give an async function": lambda s: tools.CacheMonitor(s).run(len, "abc"),
    "timeout_s='x' is not allowed": lambda s: tools.CacheAwareGenerator(s).generate_with_fallback(
        "a", timeout_s="x"
    ),
    "prompts=None is not allowed: a list of prompts": lambda s: tools.CacheAwareGenerator(
        s
    ).batch_generate_optimized(None),
    "concurrency=True is not allowed": lambda s: tools.CacheAwareGenerator(
        s
    ).batch_generate_optimized(["a"], concurrency=True),
    "cache_type='gen' is not allowed": lambda s: tools.CacheOptimizer(s, cache_type="gen"),
    "cache_type='emb' is not allowed": lambda s: tools.CacheBenchmark(s, cache_type="emb"),
    "target=95 is not allowed: above 0, at most 1 (0.95 is 95 %)": lambda s: tools.CacheOptimizer(
        s
    ).recommend(95),
    'policy=\'fifo\' is not allowed: one of "tide", "lru", "lfu"': lambda s: tools.CacheBenchmark(
        s
    ).benchmark_cache_sizes(PROMPTS, [1], policy="fifo"),
    "cache_sizes=3 is not allowed: a list": lambda s: tools.CacheBenchmark(s).benchmark_cache_sizes(
        PROMPTS, 3
    ),
    "accesses is one str": lambda s: tools.CacheBenchmark(s).benchmark_cache_sizes("abc", [1]),
    "nothing was recorded yet": lambda s: tools.CacheBenchmark(s).benchmark_cache_sizes(None, [1]),
    "session='states' is not allowed: an asteady.Session": lambda s: tools.CachePersistenceManager(
        "states"
    ).save_cache_state("x"),
    "session='x' is not allowed": lambda s: tools.CacheAwareGenerator("x").is_cached("a"),
    "session='embedding' is not allowed": lambda s: tools.CacheOptimizer("embedding"),
    "key=5 is not allowed": lambda s: tools.CacheInspector(s).explain(5),
}


@pytest.mark.parametrize(("message", "mistake"), MISTAKES.items(), ids=list(MISTAKES))
async def test_a_mistake_is_refused(
    session: Session, engine: FakeEngine, message: str, mistake: Callable[[Any], Any]
) -> None:
    async def make() -> None:
        made = mistake(session)
        if inspect.isawaitable(made):
            await made

    with pytest.raises(InvalidRequestError) as caught:
        await make()
    assert message in str(caught.value)
    assert engine.computed == []


CLOSED: dict[str, Callable[[Session, Path], Any]] = {
    "summary": lambda s, path: CacheMonitor(s).print_summary(),
    "health": lambda s, path: ProductionCacheMonitor(s).check_cache_health(),
    "snapshot": lambda s, path: CachePersistenceManager(s, backup_dir=path).save_cache_state("x"),
    "explain": lambda s, path: CacheInspector(s).explain("0" * 64),
    "export": lambda s, path: CachePersistenceManager(s).export_entries(path),
    "trace": lambda s, path: CacheInspector(s).trace_generation("hi"),
}


@pytest.mark.parametrize("call", CLOSED.values(), ids=list(CLOSED))
async def test_tools_raise_for_a_closed_session(
    engine: FakeEngine,
    tmp_path: Path,
    call: Callable[[Session, Path], Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    session = Session(engine=engine)
    with pytest.raises(SessionNotOpenError):
        await call(session, tmp_path / "states")
    async with session:
        await session.generate("hi")
    with pytest.raises(SessionClosedError):
        await call(session, tmp_path / "states")
    assert not (tmp_path / "states").exists()
    assert caplog.text == ""


async def test_a_prompt_without_seeds_is_reported_as_failed(session: Session) -> None:
    report = await session.warm(["a", {"prompt": "b", "seeds": []}])
    assert report.warmed == 1
    assert "seeds=[] is not allowed" in report.failed[0].reason


async def test_watch_ends_when_the_session_closes(engine: FakeEngine) -> None:
    checked = anyio.Event()
    async with Session(engine=engine) as session:
        monitor = ProductionCacheMonitor(session)
        watching = asyncio.create_task(monitor.watch(3600.0, lambda health: checked.set()))
        await checked.wait()
    async with asyncio.timeout(60):
        await watching


async def test_the_reprs_of_the_tools(session: Session, tmp_path: Path) -> None:
    monitor = ProductionCacheMonitor(session, min_lookups=1)
    assert repr(monitor) == "<ProductionCacheMonitor: nothing checked yet>"
    await monitor.check_cache_health()
    assert repr(monitor).startswith("<ProductionCacheMonitor healthy at ")
    await session.generate("a miss")
    await monitor.check_cache_health()
    assert repr(monitor).endswith(": low_hit_rate>")
    inspector, warmer = CacheInspector(session), StrategicCacheWarmer(session)
    await inspector.trace_generation("a miss")
    warmer.add_prompts(["a", "b"], "high")
    assert repr(inspector) == "<CacheInspector: 1 traces>"
    assert repr(warmer) == "<StrategicCacheWarmer: 2 high, 0 medium, 0 low>"
    assert repr(CacheBenchmark(session)) == "<CacheBenchmark generation: 0 accesses>"
    assert repr(CacheAwareGenerator(session)) == "<CacheAwareGenerator: 0 in the background>"
    assert repr(CachePersistenceManager(session, backup_dir="states")) == (
        "<CachePersistenceManager 'states'>"
    )


async def test_a_file_error_names_the_requested_file(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "trace.json"
    with pytest.raises(FileNotFoundError) as caught:
        await CacheInspector(session).export(path)
    assert caught.value.filename == str(path)


def test_a_recommendation_without_data_says_so() -> None:
    optimizer = CacheOptimizer()
    assert str(optimizer.recommend()).startswith("no accesses were recorded yet")
    optimizer.track_usage("a", 42, 1.0)
    assert str(optimizer.recommend()).startswith("no request was repeated in 1 accesses")
