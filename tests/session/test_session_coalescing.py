"""Who waits for a session's computations, and how many there are, on a fake engine."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import anyio
import pytest

from asteady import PromptTooLongError, QueueFullError, Session
from asteady._base.requests import Kind
from asteady._engine.loader import LlamaSource
from asteady.testing import FakeEngine
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def test_concurrent_callers_share_one_computation(
    session: Session, engine: FakeEngine
) -> None:
    engine.hold()
    tasks = [asyncio.create_task(session.generate("hi")) for _ in range(200)]
    await engine.wait_computed(1)
    engine.resume()
    assert await asyncio.gather(*tasks) == ["You said: hi"] * 200
    assert len(engine.computed) == 1
    counted = (await session.cache.get_cache_stats())["generation"]
    assert (counted["hits"], counted["misses"], counted["coalesced"]) == (0, 1, 199)


async def test_fifty_callers_at_once_load_a_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[tuple[Kind, str]] = []
    load = LlamaSource.load

    def counted(self: LlamaSource, kind: Kind, reference: str) -> object:
        loads.append((kind, reference))
        return load(self, kind, reference)

    monkeypatch.setattr(LlamaSource, "load", counted)
    async with Session() as session:
        asked = [session.generate(f"prompt {n}", max_new_tokens=2) for n in range(50)]
        assert len(await asyncio.gather(*asked)) == 50
    assert loads == [("generation", "builtin")]


async def by_task(call: Callable[[], Awaitable[str]], engine: FakeEngine) -> None:
    task = asyncio.ensure_future(call())
    await engine.wait_computed(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_timeout(call: Callable[[], Awaitable[str]], engine: FakeEngine) -> None:
    async def call_until_computed() -> None:
        async with asyncio.timeout(None) as timeout, asyncio.TaskGroup() as group:

            async def strike() -> None:
                await engine.wait_computed(1)
                timeout.reschedule(0)

            group.create_task(strike())
            await call()

    with pytest.raises(TimeoutError):
        await call_until_computed()


async def by_scope(call: Callable[[], Awaitable[str]], engine: FakeEngine) -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:

            async def strike() -> None:
                await engine.wait_computed(1)
                scope.cancel()

            group.start_soon(strike)
            await call()
    assert scope.cancelled_caught


@pytest.mark.parametrize("cancel", [by_task, by_timeout, by_scope])
async def test_when_nobody_waits_the_worker_is_freed_and_the_next_caller_starts_afresh(
    cancel: Callable[[Callable[[], Awaitable[str]], FakeEngine], Awaitable[None]],
) -> None:
    engine = FakeEngine()
    engine.hold()
    async with Session(engine=engine, workers=1) as session:
        await cancel(lambda: session.generate("hi"), engine)
        await engine.wait_released(1)
        assert not await session.is_cached("hi")
        engine.resume()
        assert await session.generate("hi") == "You said: hi"
        assert len(engine.computed) == 2


async def test_199_of_200_callers_leave_at_random_moments(
    session: Session, engine: FakeEngine
) -> None:
    draw = random.Random(42)
    engine.hold()
    tasks = [asyncio.create_task(session.generate("one two three")) for _ in range(200)]
    await engine.wait_computed(1)
    staying = draw.randrange(200)
    leaving = [task for index, task in enumerate(tasks) if index != staying]
    draw.shuffle(leaving)
    for task in leaving:
        task.cancel()
        if draw.random() < 0.05:
            engine.step()
            await anyio.lowlevel.checkpoint()
    engine.resume()
    assert await tasks[staying] == "You said: one two three"
    assert len(engine.computed) == 1
    assert engine.released == []


async def test_no_more_is_computed_at_once_than_there_are_workers(
    session: Session, engine: FakeEngine
) -> None:
    engine.hold()
    tasks = [asyncio.create_task(session.generate(f"prompt {n}")) for n in range(20)]
    await engine.wait_computed(2)
    engine.resume()
    await asyncio.gather(*tasks)
    assert engine.peak == 2
    assert len(engine.computed) == 20


async def test_the_queue_is_bounded() -> None:
    engine = FakeEngine()
    engine.hold()
    async with Session(engine=engine, workers=1, max_pending=3) as session:
        running = asyncio.create_task(session.generate("running"))
        await engine.wait_computed(1)
        waiting = [asyncio.create_task(session.generate(f"waiting {n}")) for n in range(3)]
        await until(lambda: session.statistics().pools["generation:builtin"].pending == 3)
        with pytest.raises(QueueFullError, match="3"):
            await session.generate("one too many")
        engine.resume()
        await asyncio.gather(running, *waiting)
        assert await session.generate("one too many") == "You said: one too many"


async def test_what_cannot_be_served_is_refused_before_the_queue() -> None:
    engine = FakeEngine(context=3)
    async with Session(engine=engine) as session:
        with pytest.raises(PromptTooLongError, match=r"4 words.*at most 2"):
            await session.generate("one two three four")
    assert engine.computed == []


async def test_calls_that_are_cancelled_at_any_moment_are_counted_once(
    engine: FakeEngine, session: Session
) -> None:
    calls = 0
    # Cut at every turn of the event loop: while the model is identified, while the disk is read,
    # while it is computed, and while it is stored.
    for turns in range(1, 60):
        for prompt in ("a", f"b{turns}"):
            task = asyncio.create_task(session.namespace("n").generate(prompt))
            calls += 1
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    counters = session.cache.generation.counters
    assert counters.hits + counters.misses + counters.coalesced == calls
    lookups = (await session.namespace("n").statistics()).generation
    assert lookups.hits + lookups.misses + lookups.coalesced == calls
