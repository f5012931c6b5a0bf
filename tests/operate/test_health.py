"""Each warning, and its absence; the loop, without waiting for time to pass."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from typing import cast

import anyio
import pytest

import asteady
from asteady import (
    InvalidRequestError,
    QueueFullError,
    Session,
    SessionClosedError,
    SessionNotOpenError,
    StoreError,
)
from asteady._session import default as _default
from asteady.operate import CacheHealth, ProductionCacheMonitor
from asteady.testing import FakeEngine
from tests.serving import reserved_port
from tests.waiting import until

pytestmark = pytest.mark.anyio


def kinds(health: CacheHealth) -> list[str]:
    return [warning.kind for warning in health.warnings]


async def test_a_fresh_cache_is_healthy(session: Session) -> None:
    health = await ProductionCacheMonitor(session).check_cache_health()
    assert health.healthy
    assert health.warnings == ()
    assert health.timestamp.tzinfo is not None
    assert json.loads(json.dumps(health.as_dict())) == {
        "timestamp": health.timestamp.isoformat(),
        "healthy": True,
        "warnings": [],
    }


async def test_a_low_hit_rate_warns_after_enough_lookups(session: Session) -> None:
    monitor = ProductionCacheMonitor(session, alert_threshold=60.0, min_lookups=4)
    await session.generate("a")
    await session.generate("b")
    await session.generate("b")
    assert (await monitor.check_cache_health()).healthy
    await session.generate("b")
    health = await monitor.check_cache_health()
    assert not health.healthy
    assert kinds(health) == ["low_hit_rate"]
    warning = health.warnings[0]
    assert (warning.about, warning.value, warning.limit) == ("generation", 50.0, 60.0)
    assert str(warning) == "Low generation cache hit rate: 50.0% of the last 4 lookups"
    assert (await monitor.check_cache_health(alert_threshold=50.0)).healthy
    with pytest.raises(InvalidRequestError, match="in percent"):
        await monitor.check_cache_health(alert_threshold=0.5 * 1000)


async def test_a_nearly_full_cache_warns_and_is_healthy(engine: FakeEngine) -> None:
    async with Session(engine=engine, generation_cache_capacity=2) as session:
        monitor = ProductionCacheMonitor(session)
        await session.generate("a")
        assert kinds(await monitor.check_cache_health()) == []
        await session.generate("b")
        health = await monitor.check_cache_health()
    assert kinds(health) == ["near_capacity"]
    assert health.healthy
    assert str(health.warnings[0]) == "Generation cache near capacity: 2 of 2 entries"


async def test_store_errors_warn_for_the_length_of_the_window(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(key: str) -> None:
        raise StoreError("the disk is gone")

    now_s = 0.0
    monitor = ProductionCacheMonitor(session, window_s=60.0, clock=lambda: now_s)
    monkeypatch.setattr(session.cache.generation._store, "read", failing)
    await session.generate("hi", cache="use")
    # Asked often, as by a load balancer: the answer is the same for everybody.
    while now_s < 60.0:
        health = await monitor.check_cache_health()
        assert kinds(health) == ["store_errors"]
        assert health.warnings[0].value >= 1
        now_s += 0.5
    assert len(monitor._samples["generation"]) <= 61
    now_s = 61.0
    assert (await monitor.check_cache_health()).healthy
    await session.generate("another", cache="use")
    now_s = 1000.0
    assert kinds(await monitor.check_cache_health()) == ["store_errors"]


async def test_a_shared_cache_that_is_away_warns_and_is_healthy(engine: FakeEngine) -> None:
    with reserved_port() as port:
        async with Session(engine=engine, shared_cache=f"redis://127.0.0.1:{port}") as session:
            monitor = ProductionCacheMonitor(session)
            assert kinds(await monitor.check_cache_health()) == []
            await session.generate("hi")
            health = await monitor.check_cache_health()
    assert kinds(health) == ["shared_errors"]
    assert health.healthy
    assert "The shared cache failed" in str(health.warnings[0])


async def test_evictions_are_counted_over_many_checks(engine: FakeEngine) -> None:
    now_s = 0.0
    async with Session(engine=engine, generation_cache_capacity=20) as session:
        monitor = ProductionCacheMonitor(session, min_stay_s=60.0, clock=lambda: now_s)
        told = []
        for n in range(60):
            await session.generate(f"prompt {n}")
            now_s += 1.0
            told += kinds(await monitor.check_cache_health())
    # One a second, and never ten between two checks.
    assert "early_evictions" in told


async def test_early_evictions_warn(engine: FakeEngine) -> None:
    now_s = 0.0
    async with Session(engine=engine, generation_cache_capacity=20) as session:
        monitor = ProductionCacheMonitor(session, min_stay_s=60.0, clock=lambda: now_s)
        for n in range(40):
            await session.generate(f"before the first check {n}")
        assert kinds(await monitor.check_cache_health()) == ["near_capacity"]
        for n in range(20):
            await session.generate(f"prompt {n}")
        now_s = 40.0
        health = await monitor.check_cache_health()
        assert kinds(health) == ["near_capacity", "early_evictions"]
        # 20 entries, of which 20 went in 40 s: each stayed 40 s.
        assert health.warnings[1].value == pytest.approx(40.0)
        for n in range(20):
            await session.generate(f"another {n}")
        now_s = 140.0
        assert kinds(await monitor.check_cache_health()) == ["near_capacity"]


async def test_a_nearly_full_queue_warns(engine: FakeEngine) -> None:
    async with Session(engine=engine, workers=1, max_pending=2) as session:
        monitor = ProductionCacheMonitor(session)
        engine.hold()
        tasks = [asyncio.create_task(session.generate("p0"))]
        await engine.wait_computed(1)
        tasks += [asyncio.create_task(session.generate(f"p{n}")) for n in (1, 2)]
        await anyio.wait_all_tasks_blocked()
        await until(lambda: session.statistics().pools["generation:builtin"].pending == 2)
        health = await monitor.check_cache_health()
        assert kinds(health) == ["queue_saturated"]
        assert "2 of 2 requests are waiting" in str(health.warnings[0])
        with pytest.raises(QueueFullError):
            await session.generate("one too many")
        engine.resume()
        await asyncio.gather(*tasks)
        assert (await monitor.check_cache_health()).healthy


async def test_the_iterator_checks_logs_and_waits(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monitor = ProductionCacheMonitor(session, min_lookups=1, sleep=sleep)
    with caplog.at_level(logging.INFO, "asteady"):
        checks = cast("AsyncGenerator[CacheHealth]", monitor.continuous_monitoring(5))
        assert (await anext(checks)).healthy
        assert "Cache healthy" in caplog.text
        await session.generate("a miss")
        assert not (await anext(checks)).healthy
        assert "Low generation cache hit rate: 0.0%" in caplog.text
        await checks.aclose()
    assert waits == [5]


async def test_watching_is_a_task_that_ends_by_cancellation(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    checks: list[CacheHealth] = []
    ticks = anyio.Event()

    def on_health(health: CacheHealth) -> None:
        checks.append(health)
        if len(checks) == 3:
            ticks.set()
        raise ValueError("a listener's mistake")

    async def sleep(seconds: float) -> None:
        await anyio.lowlevel.checkpoint()

    monitor = ProductionCacheMonitor(session, sleep=sleep)
    async with anyio.create_task_group() as group:
        group.start_soon(monitor.watch, 1.0, on_health)
        await ticks.wait()
        group.cancel_scope.cancel()
    assert len(checks) >= 3
    assert "a listener's mistake" in caplog.text
    async with anyio.create_task_group() as group:
        group.start_soon(ProductionCacheMonitor(session).watch)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()


async def test_it_ends_when_the_session_closes(engine: FakeEngine) -> None:
    session = Session(engine=engine)
    monitor = ProductionCacheMonitor(session, sleep=lambda seconds: session.aclose())
    with pytest.raises(SessionNotOpenError):
        await monitor.check_cache_health()
    await session.open()
    assert [health.healthy async for health in monitor.continuous_monitoring()] == [True]
    await monitor.watch()
    with pytest.raises(SessionClosedError):
        await monitor.check_cache_health()


async def test_a_default_session_that_was_closed_is_not_opened_again() -> None:
    session = await _default.default_session()
    checked = anyio.Event()
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            watch = ProductionCacheMonitor().watch
            group.start_soon(watch, 3600.0, lambda health: checked.set())
            await checked.wait()
            await asteady.aclose()
    assert session.is_closed
    assert _default.sessions_here() == []
