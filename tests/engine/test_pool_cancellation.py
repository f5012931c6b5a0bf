"""Calls to a pool, cancelled at every stage by task.cancel, asyncio.timeout and an anyio scope."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from asteady._base.requests import Completion
from tests.engine.gated import GatedEngine, ask
from tests.engine.pooled import MakePool, admissions, settle, start

pytestmark = pytest.mark.anyio


async def by_task(work: Awaitable[Any], ready: Awaitable[Any]) -> None:
    task = asyncio.ensure_future(work)
    await ready
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_timeout(work: Awaitable[Any], ready: Awaitable[Any]) -> None:
    # What asyncio.wait_for does, with a time that comes when the stage is reached.
    async def work_until_ready() -> None:
        async with asyncio.timeout(None) as timeout, asyncio.TaskGroup() as group:

            async def strike() -> None:
                await ready
                timeout.reschedule(0)

            group.create_task(strike())
            await work

    with pytest.raises(TimeoutError):
        await work_until_ready()


async def by_scope(work: Awaitable[Any], ready: Awaitable[Any]) -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:

            async def waits() -> None:
                await work

            group.start_soon(waits)
            await ready
            scope.cancel()
    assert scope.cancelled_caught


WAYS = pytest.mark.parametrize("cancel", [by_task, by_timeout, by_scope])
Cancel = Callable[[Awaitable[Any], Awaitable[Any]], Awaitable[None]]


@WAYS
async def test_a_waiting_job_leaves_the_queue_at_once(
    engine: GatedEngine, make_pool: MakePool, cancel: Cancel
) -> None:
    pool = make_pool(max_pending=1)
    running = start(pool, "a")
    await engine.happens("admit a")
    await cancel(pool.run(ask("b")), engine.happens("prepare b"))
    now = pool.statistics()
    assert (now.pending, now.cancelled, now.running) == (0, 1, 1)
    after = start(pool, "c")
    engine.open()
    await asyncio.gather(running, after)
    assert admissions(engine) == ["a", "c"]


@WAYS
async def test_a_running_job_frees_its_worker(
    engine: GatedEngine, make_pool: MakePool, cancel: Cancel
) -> None:
    pool = make_pool()
    await cancel(pool.run(ask("a", 5)), engine.happens("admit a"))
    # The gate is closed: only the interruption can have ended the step.
    await engine.happens("release a")
    await settle(pool, lambda now: now.running == 0)
    assert pool.statistics().cancelled == 1
    engine.open()
    answer = await pool.run(ask("b", 1))
    assert isinstance(answer, Completion)
    assert answer.text == "b0 "
    assert pool.statistics().restarted == 0


async def test_a_running_jobs_neighbours_run_on(engine: GatedEngine, make_pool: MakePool) -> None:
    pool = make_pool(width=3)
    tasks = [start(pool, name, chunks=3) for name in "abc"]
    await engine.happens("admit a", "admit b", "admit c")
    tasks[1].cancel()
    await engine.happens("release b")
    engine.open()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[1], asyncio.CancelledError)
    assert [a.text for a in answers if isinstance(a, Completion)] == ["a0 a1 a2 ", "c0 c1 c2 "]


async def test_cancelled_between_assignment_and_admission(
    engine: GatedEngine, make_pool: MakePool
) -> None:
    """The worker is in a step that cannot be interrupted when its next job comes and goes."""
    pool = make_pool(width=2)
    engine.deaf = True
    first = start(pool, "a")
    # Before that it would still take what comes.
    await engine.happens("admit a", "deaf")
    second = start(pool, "b")
    await settle(pool, lambda now: now.running == 2)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert pool.statistics().running == 1
    engine.open()
    await first
    assert admissions(engine) == ["a"]


async def test_cancelled_while_it_is_admitted(engine: GatedEngine, make_pool: MakePool) -> None:
    pool = make_pool()
    reached, proceed = threading.Event(), threading.Event()
    original = engine.open_worker

    def slow() -> object:
        reached.set()
        assert proceed.wait(60)
        return original()

    engine.open_worker = slow  # type: ignore[method-assign,assignment]  # a slow context
    task = start(pool, "a")
    await asyncio.to_thread(reached.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    proceed.set()
    # Interrupted before its first step, which would be a long one of a long prompt.
    await engine.happens("release a")
    assert "interrupt a" in engine.log
    await settle(pool, lambda now: now.running == 0)
    assert pool.statistics().cancelled == 1


async def test_cancelled_while_it_is_prepared(engine: GatedEngine, make_pool: MakePool) -> None:
    pool = make_pool(max_pending=1)
    blocked = threading.Event()
    original = engine.prepare

    def slow(request: Any) -> Any:
        job = original(request)
        assert blocked.wait(60)
        return job

    engine.prepare = slow  # type: ignore[method-assign]  # a long text
    task = start(pool, "a")
    await engine.happens("prepare a")
    assert pool.statistics().pending == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pool.statistics().pending == 0
    assert pool.statistics().cancelled == 1
    blocked.set()
    engine.open()
    await pool.run(ask("b"))
    assert admissions(engine) == ["b"]


async def test_cancelled_just_as_it_finishes(engine: GatedEngine, make_pool: MakePool) -> None:
    pool = make_pool()
    task = start(pool, "a")
    await engine.happens("admit a")
    engine.open()
    # The answer is on its way while this thread does not look at it.
    with engine.changed:
        engine.changed.wait_for(lambda: "answer a" in engine.log, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle(pool, lambda now: now.running == 0)
    now = pool.statistics()
    assert now.finished + now.cancelled == 1
    assert isinstance(await pool.run(ask("b")), Completion)


async def test_a_storm_of_cancellations_leaves_the_counters_right(
    engine: GatedEngine, make_pool: MakePool
) -> None:
    engine.open()
    pool = make_pool(workers=2, width=2, max_pending=200)
    tasks = [start(pool, str(number), chunks=number % 5) for number in range(200)]
    for number, task in enumerate(tasks):
        if number % 3:
            task.cancel()
        if number % 7 == 0:
            await anyio.lowlevel.checkpoint()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    for number in range(0, 200, 3):
        assert isinstance(answers[number], Completion)
    await settle(pool, lambda now: now.running == 0)
    now = pool.statistics()
    assert (now.pending, now.failed, now.refused, now.restarted) == (0, 0, 0, 0)
    answered = sum(isinstance(answer, Completion) for answer in answers)
    assert now.finished >= answered
    assert engine.peak <= 4
