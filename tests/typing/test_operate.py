"""What a type checker says of asteady.operate. Checked by mypy; nothing here runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, assert_type

import numpy as np
from dask.bag import Bag
from dask.dataframe import Series
from dask.delayed import Delayed
from distributed import Client
from numpy.typing import NDArray

import asteady
from asteady import blocking, operate
from asteady.operate import dask


async def checked(session: asteady.Session) -> None:
    monitor = operate.CacheMonitor(session)
    assert_type(monitor.get_hit_rate(cache_type="embedding"), float)
    told = await monitor.run(session.generate, "hi", seed=1)
    assert_type(told, operate.Monitored[str])
    assert_type(told.outcome, operate.Outcome | None)
    vector = await monitor.monitor_operation(session.embedding, "hi")
    assert_type(vector.result.vector, NDArray[np.float32])
    async with monitor.operation() as op:
        assert_type(op.cache_hit, bool)
    monitor.get_hit_rate("generations")  # type: ignore[arg-type]  # no such cache

    health = operate.ProductionCacheMonitor(session, alert_threshold=60.0)
    assert_type(await health.check_cache_health(), operate.CacheHealth)
    async for check in health.continuous_monitoring(60.0):
        assert_type(check.warnings, tuple[operate.HealthWarning, ...])

    assert_type(await session.warm(["a"], seeds=[1], max_new_tokens=9), operate.WarmReport)
    assert_type(await asteady.warm([{"prompt": "a", "seed": 1}]), operate.WarmReport)
    assert_type(await operate.verify_cache(session, requests=9, seed=1), operate.VerifyCacheReport)
    await session.warm(["a"], sedes=[1])  # type: ignore[call-arg]  # no such option

    chat = session.prefix("Be brief.")
    assert_type(chat, asteady.Prefix)
    assert_type(await chat.generate("hi", seed=3), str)
    assert_type(await session.namespace("emails").prefix("a").complete("hi"), asteady.Completion)
    await chat.embed("hi")  # type: ignore[attr-defined]  # a prefix is for generating

    emails = session.namespace("emails/marketing")
    assert_type(emails, operate.Namespace)
    assert_type(await emails.generate("hi", seed=3), str)
    assert_type(await emails.embed(["a", "b"]), NDArray[np.float32])
    assert_type(await emails.preload([{"subcategory": "a", "prompt": "b"}]), operate.WarmReport)
    assert_type((await emails.statistics()).both.hit_rate, float)
    assert_type(await emails.clear(), int)
    await emails.generate("hi", sede=3)  # type: ignore[call-overload]  # no such option
    hierarchy = operate.HierarchicalCache(session)
    assert_type(await hierarchy.get_or_generate("emails", "marketing", "hi", seed=3), str)

    inspector = operate.CacheInspector(session)
    assert_type(await inspector.trace_generation("hi", seed=3), operate.CallTrace)
    assert_type(inspector.analyze_cache_behavior(), operate.CacheAnalysis)
    assert_type(await inspector.explain("key"), operate.Explanation)

    aware = operate.CacheAwareGenerator(session)
    text, used_fallback = await aware.generate_with_fallback("a", "b", background=True)
    assert_type(text, str)
    assert_type(used_fallback, bool)
    results, stats = await aware.batch_generate_optimized(["a", "b"], seed=1)
    assert_type(results, list[str])
    assert_type(stats, operate.BatchStatistics)

    benchmark = operate.CacheBenchmark(session)
    assert_type(await benchmark.benchmark_single_prompt("hi"), operate.PromptTiming)
    assert_type(await benchmark.benchmark_cache_sizes(["a"], [1]), dict[int, operate.Replayed])
    async with operate.CacheOptimizer(session) as optimizer:
        assert_type(optimizer.recommend(by="hits"), operate.SizeRecommendation)
        assert_type(optimizer.get_cache_priorities(5), list[operate.CachePriority])


def checked_blocking(session: blocking.Session) -> None:
    monitor = blocking.CacheMonitor(session)
    assert_type(monitor.get_hit_rate("generation"), float)
    assert_type(monitor.run(session.generate, "hi", seed=1), operate.Monitored[str])
    with monitor.operation() as op:
        assert_type(op.cache_hit, bool)
    aware = blocking.CacheAwareGenerator(session)
    assert_type(aware.generate_with_fallback("a", "b", seed=1), operate.WithFallback)
    aware.generate_with_fallback("a", "b", sede=1)  # type: ignore[call-overload]  # no such option
    with blocking.CacheOptimizer() as optimizer:
        assert_type(optimizer.recommend(by="hits"), operate.SizeRecommendation)
    assert_type(blocking.StrategicCacheWarmer().warm_cache(10.0), operate.WarmReport)
    inspector = blocking.CacheInspector(session, limit=10)
    assert_type(inspector.trace_generation("hi", seed=3), operate.CallTrace)
    assert_type(blocking.verify(session, requests=2), operate.VerifyReport)
    for check in blocking.ProductionCacheMonitor().continuous_monitoring(60.0):
        assert_type(check, operate.CacheHealth)
    blocking.CacheInspector(limt=10)  # type: ignore[call-arg]  # no such option
    blocking.CacheMonitor(asteady.Session())  # type: ignore[arg-type]  # a blocking.Session


def test_the_module_is_imported() -> None:
    assert checked.__name__ == "checked"


async def bulk(
    client: Client, bag: Bag, column: Series, delayed: Delayed, arriving: AsyncIterator[str]
) -> None:
    assert_type(dask.embed(client, ["a"]), dask.Answers[NDArray[np.float32]])
    for vector in dask.embed(client, (text for text in "ab"), dimensions=8, settings={"cores": 2}):
        assert_type(vector, NDArray[np.float32])
    async for either in dask.embed(client, arriving, errors="return"):
        assert_type(either, NDArray[np.float32] | asteady.AsteadyError)
    assert_type(dask.embed(client, bag, errors="return"), Bag)
    assert_type(dask.embed(client, column), Series)
    assert_type(dask.embed(client, delayed), Delayed)
    dask.embed(client, ["a"], seed=1)  # type: ignore[call-overload]  # no such option
    dask.embed(client, ["a"], settings={"core": 2})  # type: ignore[call-overload]  # no such setting

    told = dask.generate(client, ["a", {"prompt": "b", "seed": 1}], prefix="Be brief.", seed=3)
    assert_type(told, dask.Answers[str])
    assert_type(dask.generate(client, ["a"], schema=int), dask.Answers[int])
    assert_type(dask.generate(client, ["a"], schema={"type": "integer"}), dask.Answers[Any])
    assert_type(dask.generate(client, ["a"], choices=["b", "c"]), dask.Answers[Any])
    assert_type(dask.generate(client, ["a"], errors="return"), dask.Answers[Any])
    assert_type(dask.generate(client, bag, schema=int), Bag)
    assert_type(dask.generate(client, column), Series)
    assert_type(dask.generate(client, delayed), Delayed)
