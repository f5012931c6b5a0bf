"""The pool on an engine with gates: order, bounds, cancellation, failures, closing."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from asteady._errors import (
    EngineError,
    InvalidRequestError,
    QueueFullError,
    SessionClosedError,
)
from asteady._requests import Completion
from asteady.engine._pool import Pool, PoolStatistics
from tests.engine.gated import GatedEngine, ask

pytestmark = pytest.mark.anyio


@pytest.fixture
def engine() -> GatedEngine:
    return GatedEngine()


Make = Callable[..., Pool]


@pytest.fixture
async def make(engine: GatedEngine) -> AsyncIterator[Make]:
    """Makes pools over the engine and closes them."""
    pools = []

    def make(workers: int = 1, max_pending: int = 100, width: int = 1) -> Pool:
        engine.width = width
        pool = Pool(engine, workers, max_pending)
        pools.append(pool)
        return pool

    yield make
    engine.open()
    for pool in pools:
        await pool.aclose()


def start(pool: Pool, name: str, chunks: int = 0) -> asyncio.Task[Any]:
    return asyncio.ensure_future(pool.run(ask(name, chunks)))


async def settle(pool: Pool, condition: Callable[[PoolStatistics], bool]) -> None:
    """Wait until the pool's numbers are so; they change in other threads."""
    with anyio.fail_after(10):
        while not condition(pool.statistics()):
            await anyio.lowlevel.checkpoint()


def admissions(engine: GatedEngine) -> list[str]:
    return [line.removeprefix("admit ") for line in engine.log if line.startswith("admit")]


async def test_an_answer_comes_with_its_chunks_in_order(engine: GatedEngine, make: Make) -> None:
    engine.open()
    chunks: list[tuple[str, int]] = []
    answer = await make().run(
        ask("a", 3), lambda text: chunks.append((text, threading.get_ident()))
    )
    assert isinstance(answer, Completion)
    assert answer.text == "a0 a1 a2 "
    assert chunks == [(text, threading.get_ident()) for text in ("a0 ", "a1 ", "a2 ")]


async def test_threads_start_when_they_are_needed(engine: GatedEngine, make: Make) -> None:
    before = threading.active_count()
    pool = make(workers=3)
    assert threading.active_count() == before
    first = start(pool, "a")
    await engine.happens("admit a")
    assert [line for line in engine.log if "open" in line] == ["open on asteady-worker-0"]
    second = start(pool, "b")
    await engine.happens("admit b")
    assert "open on asteady-worker-1" in engine.log
    assert "open on asteady-worker-2" not in engine.log
    engine.open()
    await asyncio.gather(first, second)


@pytest.mark.parametrize("width", [1, 3])
async def test_first_come_first_served(engine: GatedEngine, make: Make, width: int) -> None:
    pool = make(workers=1, width=width)
    names = [str(number) for number in range(20)]
    tasks = [start(pool, name, chunks=int(name) % 4) for name in names]
    await settle(pool, lambda now: now.pending == 20 - width)
    engine.open()
    await asyncio.gather(*tasks)
    assert admissions(engine) == names


@pytest.mark.parametrize(("workers", "width"), [(1, 1), (2, 1), (1, 3), (2, 4)])
async def test_never_more_at_once_than_there_are_slots(
    engine: GatedEngine, make: Make, workers: int, width: int
) -> None:
    pool = make(workers=workers, width=width)
    tasks = [start(pool, str(number), chunks=2) for number in range(30)]
    slots = workers * width
    await settle(pool, lambda now: now.pending == 30 - slots and now.started == slots)
    assert pool.statistics().running == slots
    assert pool.statistics().busy == workers
    engine.open()
    await asyncio.gather(*tasks)
    assert engine.peak == slots
    await settle(pool, lambda now: now.running == 0)


async def test_jobs_are_spread_over_the_workers(engine: GatedEngine, make: Make) -> None:
    pool = make(workers=2, width=4)
    tasks = [start(pool, str(number)) for number in range(4)]
    await engine.happens("open on asteady-worker-0", "open on asteady-worker-1")
    assert pool.statistics().busy == 2
    assert pool.statistics().running == 4
    engine.open()
    await asyncio.gather(*tasks)


async def test_a_full_queue_refuses_with_the_numbers(engine: GatedEngine, make: Make) -> None:
    pool = make(workers=1, max_pending=2)
    tasks = [start(pool, name) for name in "abc"]
    # At once, before anything was admitted: what counts is what is there, not how far it got.
    await anyio.lowlevel.checkpoint()
    with pytest.raises(QueueFullError, match=r"max_pending=2.*1 slots.*raise max_pending"):
        await pool.run(ask("d"))
    await engine.happens("admit a")
    with pytest.raises(QueueFullError, match="2 requests are waiting"):
        await pool.run(ask("d"))
    assert "prepare d" not in engine.log
    assert pool.statistics().refused == 2
    engine.let(1)
    await tasks[0]
    await settle(pool, lambda now: now.running + now.pending == 2)
    tasks.append(start(pool, "d"))
    engine.open()
    await asyncio.gather(*tasks)


async def test_statistics_and_repr_show_what_happens(engine: GatedEngine, make: Make) -> None:
    pool = make(workers=2, max_pending=7, width=1)
    assert repr(pool) == "<Pool open workers=2 width=1 running=0 pending=0>"
    tasks = [start(pool, name) for name in "abc"]
    await settle(pool, lambda now: now.pending == 1 and now.started == 2)
    assert pool.statistics() == PoolStatistics(
        workers=2,
        width=1,
        max_pending=7,
        busy=2,
        running=2,
        pending=1,
        started=2,
        finished=0,
        cancelled=0,
        failed=0,
        refused=0,
        restarted=0,
    )
    tasks[2].cancel()
    await asyncio.wait(tasks[2:])
    engine.open()
    await asyncio.gather(*tasks[:2])
    await pool.aclose()
    now = pool.statistics()
    assert (now.started, now.finished, now.cancelled, now.running) == (2, 2, 1, 0)
    assert repr(pool) == "<Pool closed workers=2 width=1 running=0 pending=0>"


# Cancellation: by task.cancel, asyncio.wait_for and an anyio scope.


async def by_task(work: Awaitable[Any], ready: Awaitable[Any]) -> None:
    task = asyncio.ensure_future(work)
    await ready
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_wait_for(work: Awaitable[Any], ready: Awaitable[Any]) -> None:
    # The time-out strikes by itself; `ready` only says that the stage was reached before.
    stage = asyncio.ensure_future(ready)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(work, 0.2)
    await stage


async def by_scope(work: Awaitable[Any], ready: Awaitable[Any]) -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:

            async def waits() -> None:
                await work

            group.start_soon(waits)
            await ready
            scope.cancel()
    assert scope.cancelled_caught


WAYS = pytest.mark.parametrize("cancel", [by_task, by_wait_for, by_scope])
Cancel = Callable[[Awaitable[Any], Awaitable[Any]], Awaitable[None]]


@WAYS
async def test_a_waiting_job_leaves_the_queue_at_once(
    engine: GatedEngine, make: Make, cancel: Cancel
) -> None:
    pool = make(max_pending=1)
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
    engine: GatedEngine, make: Make, cancel: Cancel
) -> None:
    pool = make()
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


async def test_a_running_jobs_neighbours_run_on(engine: GatedEngine, make: Make) -> None:
    pool = make(width=3)
    tasks = [start(pool, name, chunks=3) for name in "abc"]
    await engine.happens("admit a", "admit b", "admit c")
    tasks[1].cancel()
    await engine.happens("release b")
    engine.open()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[1], asyncio.CancelledError)
    assert [a.text for a in answers if isinstance(a, Completion)] == ["a0 a1 a2 ", "c0 c1 c2 "]


async def test_cancelled_between_assignment_and_admission(engine: GatedEngine, make: Make) -> None:
    """The worker is in a step that cannot be interrupted when its next job comes and goes."""
    pool = make(width=2)
    engine.deaf = True
    first = start(pool, "a")
    await engine.happens("admit a")
    second = start(pool, "b")
    await settle(pool, lambda now: now.running == 2)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert pool.statistics().running == 1
    engine.open()
    await first
    assert admissions(engine) == ["a"]


async def test_cancelled_while_it_is_admitted(engine: GatedEngine, make: Make) -> None:
    pool = make()
    reached, proceed = threading.Event(), threading.Event()
    original = engine.open_worker

    def slow() -> object:
        reached.set()
        assert proceed.wait(10)
        return original()

    engine.open_worker = slow  # type: ignore[method-assign,assignment]  # a slow context
    task = start(pool, "a")
    await asyncio.to_thread(reached.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    proceed.set()
    # Interrupted before its first step, which would be a long one of a long prompt.
    await engine.happens("release a")
    assert "interrupt a" in engine.log
    await settle(pool, lambda now: now.running == 0)
    assert pool.statistics().cancelled == 1


async def test_cancelled_while_it_is_prepared(engine: GatedEngine, make: Make) -> None:
    pool = make(max_pending=1)
    blocked = threading.Event()
    original = engine.prepare

    def slow(request: Any) -> Any:
        job = original(request)
        assert blocked.wait(10)
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


async def test_cancelled_just_as_it_finishes(engine: GatedEngine, make: Make) -> None:
    pool = make()
    task = start(pool, "a")
    await engine.happens("admit a")
    engine.open()
    # The answer is on its way while this thread does not look at it.
    with engine.changed:
        engine.changed.wait_for(lambda: "answer a" in engine.log, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle(pool, lambda now: now.running == 0)
    now = pool.statistics()
    assert now.finished + now.cancelled == 1
    assert isinstance(await pool.run(ask("b")), Completion)


async def test_a_storm_of_cancellations_leaves_the_counters_right(
    engine: GatedEngine, make: Make
) -> None:
    engine.open()
    pool = make(workers=2, width=2, max_pending=200)
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


# Failures.


async def test_a_request_that_does_not_fit_never_enters_the_queue(
    engine: GatedEngine, make: Make
) -> None:
    engine.fail_prepare = InvalidRequestError("no")
    pool = make()
    with pytest.raises(InvalidRequestError, match="no"):
        await pool.run(ask("a"))
    engine.fail_prepare = ZeroDivisionError("oops")
    with pytest.raises(EngineError, match=r"prepare.*oops") as caught:
        await pool.run(ask("a"))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    now = pool.statistics()
    assert (now.refused, now.pending, now.started) == (2, 0, 0)


async def test_a_job_that_fails_fails_alone(engine: GatedEngine, make: Make) -> None:
    pool = make()
    engine.fail_job = EngineError("bad luck")
    engine.open()
    with pytest.raises(EngineError, match="bad luck") as caught:
        await pool.run(ask("a"))
    assert caught.value.__cause__ is engine.fail_job
    engine.fail_job = ValueError("odd")
    with pytest.raises(EngineError, match="odd"):
        await pool.run(ask("a"))
    engine.fail_job = None
    await pool.run(ask("b"))
    now = pool.statistics()
    assert (now.failed, now.finished, now.restarted) == (2, 1, 0)


@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit(3)])
async def test_a_worker_that_fails_is_replaced(
    engine: GatedEngine, make: Make, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    pool = make(width=2)
    tasks = [start(pool, name) for name in "ab"]
    await engine.happens("admit a", "admit b")
    engine.fail_step = error
    engine.fail_close = OSError("cannot")
    with caplog.at_level(logging.ERROR, "asteady"):
        engine.let(1)
        failures = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(failure) for failure in failures] == [EngineError, EngineError]
    assert failures[0] is not failures[1]
    assert all(getattr(failure, "__cause__", None) is error for failure in failures)
    assert "failed on 2 jobs and is replaced" in caplog.text
    assert "could not be closed" in caplog.text
    engine.fail_step = engine.fail_close = None
    engine.open()
    assert isinstance(await pool.run(ask("c")), Completion)
    assert [line for line in engine.log if line.startswith("open on")] == (
        ["open on asteady-worker-0"] * 2
    )
    now = pool.statistics()
    assert (now.restarted, now.failed, now.finished, now.running) == (1, 2, 1, 0)


@pytest.mark.parametrize("stage", ["fail_open", "fail_admit"])
async def test_a_worker_that_takes_no_job_fails_it(
    engine: GatedEngine, make: Make, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make()
    setattr(engine, stage, MemoryError("none left"))
    with pytest.raises(EngineError, match="none left"):
        await pool.run(ask("a"))
    setattr(engine, stage, None)
    engine.open()
    assert isinstance(await pool.run(ask("b")), Completion)
    assert pool.statistics().failed == 1


async def test_a_cancelled_job_of_a_worker_that_fails_counts_as_cancelled(
    engine: GatedEngine, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make()
    engine.deaf = True
    task = start(pool, "a")
    await engine.happens("admit a")
    task.cancel()
    await asyncio.wait([task])
    engine.fail_step = RuntimeError("broken")
    engine.let(1)
    await settle(pool, lambda now: now.running == 0)
    now = pool.statistics()
    assert (now.cancelled, now.failed, now.restarted) == (1, 0, 1)
    engine.fail_step = None
    engine.open()
    await pool.run(ask("b"))


async def test_an_emit_that_raises_fails_its_own_call(engine: GatedEngine, make: Make) -> None:
    pool = make(width=2)

    def emit(text: str) -> None:
        raise ZeroDivisionError(text)

    other = start(pool, "b", chunks=1)
    task = asyncio.ensure_future(pool.run(ask("a", 1), emit))
    await engine.happens("admit a", "admit b")
    engine.let(1)
    with pytest.raises(ZeroDivisionError, match="a0"):
        await task
    await engine.happens("release a")
    engine.open()
    assert isinstance(await other, Completion)


# Closing.


async def test_closing_ends_what_runs_and_what_waits(engine: GatedEngine, make: Make) -> None:
    pool = make()
    tasks = [start(pool, name) for name in "ab"]
    await engine.happens("admit a")
    await settle(pool, lambda now: now.pending == 1)
    await pool.aclose()
    for task in tasks:
        with pytest.raises(SessionClosedError):
            await task
    with pytest.raises(SessionClosedError):
        await pool.run(ask("c"))
    assert engine.log[-2:] == ["close", "engine closed"]
    await pool.aclose()
    assert engine.log.count("engine closed") == 1
    now = pool.statistics()
    assert (now.cancelled, now.running, now.pending, now.failed) == (2, 0, 0, 0)


async def test_closing_an_unused_pool_closes_the_engine(engine: GatedEngine, make: Make) -> None:
    await make().aclose()
    assert engine.log == ["engine closed"]


async def test_a_request_that_is_prepared_while_the_pool_closes(
    engine: GatedEngine, make: Make
) -> None:
    pool = make()
    task = start(pool, "a")
    await anyio.lowlevel.checkpoint()
    closing = asyncio.ensure_future(pool.aclose())
    with pytest.raises(SessionClosedError):
        await task
    await closing


async def test_a_worker_that_does_not_stop_is_left_behind_with_a_warning(
    engine: GatedEngine, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make()
    engine.deaf = True
    task = start(pool, "a")
    await engine.happens("admit a")
    await pool.aclose(timeout_s=0.05)
    assert "did not stop within 0.1 s" in caplog.text or "did not stop within 0.0" in caplog.text
    assert "engine closed" not in engine.log
    engine.open()
    with pytest.raises(SessionClosedError):
        await task


async def test_closing_goes_on_when_the_one_who_waits_is_cancelled(
    engine: GatedEngine, make: Make
) -> None:
    pool = make()
    engine.deaf = True
    task = start(pool, "a")
    await engine.happens("admit a")
    closing = asyncio.ensure_future(pool.aclose())
    await anyio.lowlevel.checkpoint()
    closing.cancel()
    await asyncio.wait([closing])
    engine.open()
    await engine.happens("engine closed")
    with pytest.raises(SessionClosedError):
        await task


async def test_a_slow_loop_holds_up_no_worker(engine: GatedEngine, make: Make) -> None:
    pool = make(workers=2)
    engine.open()
    chunks: list[str] = []
    tasks = [asyncio.ensure_future(pool.run(ask(name, 500), chunks.append)) for name in "ab"]
    await engine.happens("admit a", "admit b")
    # The loop's thread waits here; the workers still finish.
    with engine.changed:
        done = engine.changed.wait_for(
            lambda: {"answer a", "answer b"} <= set(engine.log), timeout=10
        )
    assert done
    await asyncio.gather(*tasks)
    assert len(chunks) == 1000
    assert [text for text in chunks if text[0] == "a"] == [f"a{n} " for n in range(500)]


async def test_several_events_take_one_wake_up(
    engine: GatedEngine, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make()
    wakes = []
    loop = asyncio.get_running_loop()
    original = loop.call_soon_threadsafe

    def counted(*args: Any, **options: Any) -> Any:
        wakes.append(args)
        return original(*args, **options)

    task = start(pool, "a", chunks=200)
    await engine.happens("admit a")
    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    engine.open()
    with engine.changed:
        engine.changed.wait_for(lambda: "answer a" in engine.log, 10)
    await task
    assert len(wakes) <= 2


def test_a_loop_that_was_closed_does_not_harm_the_pool(engine: GatedEngine) -> None:
    pool = Pool(engine, 1, 10)

    async def leave(*names: str) -> None:
        for name in names:
            asyncio.get_running_loop().create_task(pool.run(ask(name, 3)))
        await engine.happens(f"prepare {names[-1]}", f"admit {names[0]}")

    def run_and_drop(*names: str) -> None:
        # A loop that is closed without cancelling its tasks, as a careless program does.
        loop = asyncio.new_event_loop()
        loop.run_until_complete(leave(*names))
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # meant to be left
            tasks.append(task)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    tasks: list[asyncio.Task[Any]] = []
    run_and_drop("a", "b")
    engine.let(1)

    async def afterwards() -> None:
        await engine.happens("release a")
        engine.open()
        assert isinstance(await pool.run(ask("c")), Completion)
        await settle(pool, lambda now: now.running == 0)
        now = pool.statistics()
        assert (now.finished, now.cancelled, now.restarted) == (1, 2, 0)
        await pool.aclose()

    asyncio.run(afterwards())
