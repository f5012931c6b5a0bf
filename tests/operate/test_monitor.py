"""What the monitor tells, also of calls that run beside one another."""

from __future__ import annotations

import asyncio

import anyio
import pytest

import asteady
from asteady import CacheMissError, InvalidRequestError, Session, SessionError
from asteady.operate import CacheMonitor, Operation
from asteady.testing import FakeEngine

pytestmark = pytest.mark.anyio


async def test_the_hit_rate_counts_from_the_mark_in_percent(session: Session) -> None:
    for _ in range(3):
        await session.generate("before")
    monitor = CacheMonitor(session)
    assert monitor.get_hit_rate() == 0.0
    for _ in range(4):
        await session.generate("hi")
    assert monitor.get_hit_rate() == 75.0
    assert monitor.get_hit_rate(cache_type="embedding") == 0.0
    await session.embed(["a", "a", "b"])
    assert monitor.since_mark("embedding").misses == 2
    monitor.mark()
    await session.generate("hi")
    assert monitor.get_hit_rate("generation") == 100.0
    assert repr(monitor) == "<CacheMonitor: generation 100.0%, embedding 0.0%>"
    with pytest.raises(InvalidRequestError, match="'generations' is not allowed"):
        monitor.get_hit_rate("generations")  # type: ignore[arg-type]  # as a user might


async def test_an_operation_has_its_outcome(session: Session, engine: FakeEngine) -> None:
    monitor = CacheMonitor(session)
    first = await monitor.run(session.generate, "hi", seed=7)
    second = await monitor.monitor_operation(session.generate, "hi", seed=7)
    assert (first.result, first.outcome, first.cache_hit) == ("You said: hi", "computed", False)
    assert (second.result, second.outcome, second.cache_hit) == ("You said: hi", "memory", True)
    assert first.stats_delta == {"generation_hits": 0, "embedding_hits": 0}
    assert second.stats_delta == {"generation_hits": 1, "embedding_hits": 0}
    assert first.duration_s >= first.calls[0].duration_s > 0
    async with Session(engine=engine) as another:
        third = await CacheMonitor(another).run(another.generate, "hi", seed=7)
        assert (third.outcome, third.cache_hit) == ("disk", True)


async def test_concurrent_operations_have_their_own_outcomes(
    session: Session, engine: FakeEngine
) -> None:
    """Counters could not tell: a hit beside a miss looks like a hit to both."""
    await session.generate("known")
    monitor = CacheMonitor(session)
    engine.hold()
    miss = asyncio.create_task(monitor.run(session.generate, "new"))
    await engine.wait_computed(2)
    wait = asyncio.create_task(monitor.run(session.generate, "new"))
    await anyio.wait_all_tasks_blocked()
    # Unused for half a second, on a busy machine, the memory tier would sleep.
    await session.generate("known")
    hit = await monitor.run(session.generate, "known")
    engine.resume()
    assert [o.outcome for o in (await miss, await wait, hit)] == ["computed", "coalesced", "memory"]
    assert [o.cache_hit for o in (await miss, await wait, hit)] == [False, False, True]


async def test_an_operation_of_several_calls_has_the_costliest_outcome(session: Session) -> None:
    monitor = CacheMonitor(session)
    await session.generate("known")
    async with monitor.operation() as op:
        assert op.outcome is None
        assert not op.cache_hit
        await session.generate("known")
        assert op.cache_hit
        await session.embed(["one", "two"])
    assert op.outcome == "computed"
    assert not op.cache_hit
    assert len(op.calls) == 3
    assert repr(op).startswith("<Operation computed, 3 calls, 0.")
    await session.generate("known")
    assert len(op.calls) == 3


async def test_a_failing_operation_raises_and_is_counted(session: Session) -> None:
    monitor = CacheMonitor(session)
    operations: list[Operation] = []

    async def failing() -> None:
        async with monitor.operation() as op:
            operations.append(op)
            await session.generate("hi", cache="only")

    with pytest.raises(CacheMissError):
        await failing()
    assert operations[0].outcome == "failed"
    assert operations[0].duration_s > 0
    with pytest.raises(CacheMissError):
        await monitor.run(session.generate, "hi", cache="only")


async def test_the_summary_is_printed(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = CacheMonitor(session)
    for _ in range(2):
        await session.generate("hi")
    await monitor.print_summary()
    printed = capsys.readouterr().out
    assert "Generation Cache:\n  Size: 1 of 256 entries\n  Hit Rate: 50.0%\n  Hits: 1" in printed
    assert "Embedding Cache:\n  Size: 0 of 512 entries\n  Hit Rate: 0.0%\n" in printed


async def test_without_a_session_it_watches_the_default_one() -> None:
    try:
        monitor = CacheMonitor()
        told = await monitor.run(asteady.generate, "hi", max_new_tokens=2)
        assert told.outcome == "computed"
        assert (await monitor.run(asteady.generate, "hi", max_new_tokens=2)).cache_hit
    finally:
        await asteady.aclose()


async def test_another_default_session_counts_from_the_start() -> None:
    for _ in range(2):
        await asteady.generate("hi", max_new_tokens=2)
    monitor = CacheMonitor()
    await asteady.aclose()
    await asteady.generate("hi", max_new_tokens=2)
    assert monitor.since_mark().hits == 1
    assert monitor.get_hit_rate() == 100.0
    await asteady.aclose()


def test_without_a_session_it_needs_a_loop() -> None:
    with pytest.raises(SessionError, match="session="):
        CacheMonitor()
