"""The pool on an engine with gates: order, bounds, numbers, and few wake-ups of the loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from asteady._base.errors import QueueFullError, SessionClosedError
from asteady._base.requests import Chunk, Completion
from asteady._engine.pool import Pool, PoolStatistics
from tests.engine.gated import GatedEngine, WideningEngine, ask
from tests.engine.pooled import MakePool, OpenPool, admissions, settle, start

pytestmark = pytest.mark.anyio


async def test_an_answer_comes_with_its_chunks_in_order(
    engine: GatedEngine, make_pool: MakePool
) -> None:
    engine.open()
    chunks: list[tuple[Chunk, int]] = []
    answer = await make_pool().run(
        ask("a", 3), lambda text: chunks.append((text, threading.get_ident()))
    )
    assert isinstance(answer, Completion)
    assert answer.text == "a0 a1 a2 "
    assert chunks == [(text, threading.get_ident()) for text in ("a0 ", "a1 ", "a2 ")]


async def test_threads_start_when_they_are_needed(engine: GatedEngine, make_pool: MakePool) -> None:
    before = set(threading.enumerate())
    pool = make_pool(workers=3)
    assert set(threading.enumerate()) <= before
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
async def test_first_come_first_served(
    engine: GatedEngine, make_pool: MakePool, width: int
) -> None:
    pool = make_pool(workers=1, width=width)
    names = [str(number) for number in range(20)]
    tasks = [start(pool, name, chunks=int(name) % 4) for name in names]
    await settle(pool, lambda now: now.pending == 20 - width)
    engine.open()
    await asyncio.gather(*tasks)
    assert admissions(engine) == names


@pytest.mark.parametrize(("workers", "width"), [(1, 1), (2, 1), (1, 3), (2, 4)])
async def test_never_more_at_once_than_there_are_slots(
    engine: GatedEngine, make_pool: MakePool, workers: int, width: int
) -> None:
    pool = make_pool(workers=workers, width=width)
    tasks = [start(pool, str(number), chunks=2) for number in range(30)]
    slots = workers * width
    await settle(pool, lambda now: now.pending == 30 - slots and now.started == slots)
    assert pool.statistics().running == slots
    assert pool.statistics().busy == workers
    engine.open()
    await asyncio.gather(*tasks)
    assert engine.peak == slots
    await settle(pool, lambda now: now.running == 0)


async def test_jobs_fill_a_worker_before_the_next_one_computes(
    engine: GatedEngine, make_pool: MakePool
) -> None:
    pool = make_pool(workers=2, width=4)
    tasks = [start(pool, str(number)) for number in range(4)]
    await settle(pool, lambda now: now.running == 4)
    assert pool.statistics().busy == 1
    tasks.append(start(pool, "4"))
    await settle(pool, lambda now: now.running == 5)
    assert pool.statistics().busy == 2
    await engine.happens("open on asteady-worker-0", "open on asteady-worker-1")
    engine.open()
    await asyncio.gather(*tasks)


async def test_a_full_queue_refuses_with_the_numbers(
    engine: GatedEngine, make_pool: MakePool
) -> None:
    pool = make_pool(workers=1, max_pending=2)
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


async def test_statistics_and_repr_show_what_happens(
    engine: GatedEngine, make_pool: MakePool
) -> None:
    pool = make_pool(workers=2, max_pending=7, width=1)
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
        prompt_tokens=0,
        reused_tokens=0,
        answer_tokens=0,
        weights_bytes=None,
    )
    tasks[2].cancel()
    await asyncio.wait(tasks[2:])
    engine.open()
    await asyncio.gather(*tasks[:2])
    await pool.aclose()
    now = pool.statistics()
    assert (now.started, now.finished, now.cancelled, now.running) == (2, 2, 1, 0)
    assert repr(pool) == "<Pool closed workers=2 width=1 running=0 pending=0>"


async def test_a_slow_loop_holds_up_no_worker(engine: GatedEngine, make_pool: MakePool) -> None:
    pool = make_pool(workers=2)
    engine.open()
    chunks: list[Chunk] = []
    tasks = [asyncio.ensure_future(pool.run(ask(name, 500), chunks.append)) for name in "ab"]
    await engine.happens("admit a", "admit b")
    # The loop's thread waits here; the workers still finish.
    with engine.changed:
        done = engine.changed.wait_for(
            lambda: {"answer a", "answer b"} <= set(engine.log), timeout=60
        )
    assert done
    await asyncio.gather(*tasks)
    assert len(chunks) == 1000
    assert [text for text in chunks if str(text)[0] == "a"] == [f"a{n} " for n in range(500)]


async def test_several_events_take_one_wake_up(
    engine: GatedEngine, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool()
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
        engine.changed.wait_for(lambda: "answer a" in engine.log, 60)
    await task
    assert len(wakes) <= 2


FIRST, SECOND = "asteady-worker-0", "asteady-worker-1"


async def busy_workers(pool: Pool, engine: GatedEngine) -> list[asyncio.Task[Any]]:
    """Both of the pool's workers have begun with a job, of two that each can take."""
    tasks = [start(pool, name) for name in "xyz"]
    await settle(pool, lambda now: now.running == 3)
    await engine.happens("admit x", "admit y", "admit z")
    assert [engine.workers[name] for name in "xyz"] == [FIRST, FIRST, SECOND]
    return tasks


async def test_a_job_goes_to_the_worker_that_holds_most_of_its_prompt(
    engine: GatedEngine, make_pool: MakePool
) -> None:
    pool = make_pool(workers=2, width=2)
    tasks = await busy_workers(pool, engine)
    engine.open()
    await asyncio.gather(*tasks)
    await settle(pool, lambda now: now.running == 0)
    engine.held = {FIRST: "a", SECOND: "ab"}
    for name in ("abc", "acb", "other"):
        await pool.run(ask(name))
        await settle(pool, lambda now: now.running == 0)
    assert [engine.workers[name] for name in ("abc", "acb", "other")] == [SECOND, FIRST, FIRST]


async def test_a_full_worker_is_not_waited_for(engine: GatedEngine, make_pool: MakePool) -> None:
    pool = make_pool(workers=2, width=2)
    tasks = await busy_workers(pool, engine)
    engine.held = {FIRST: "ab"}
    tasks.append(start(pool, "abc"))
    await engine.happens("admit abc")
    assert engine.workers["abc"] == SECOND
    engine.open()
    await asyncio.gather(*tasks)


async def test_what_is_held_comes_before_a_worker_that_computes(
    engine: GatedEngine, make_pool: MakePool
) -> None:
    pool = make_pool(workers=2, width=2)
    tasks = await busy_workers(pool, engine)
    engine.open()
    await asyncio.gather(*tasks)
    await settle(pool, lambda now: now.running == 0)
    engine.shut()
    engine.held = {SECOND: "b"}
    tasks = [start(pool, name) for name in ("a", "b")]
    await engine.happens("admit a", "admit b")
    assert [engine.workers[name] for name in "ab"] == [FIRST, SECOND]
    engine.open()
    await asyncio.gather(*tasks)


async def test_only_requests_that_wait_ask_for_more_width(open_pool: OpenPool) -> None:
    engine = WideningEngine()
    pool = open_pool(engine, 1, 100)
    first = start(pool, "a")
    await engine.happens("admit a")
    assert "widen" not in engine.log
    second = start(pool, "b")
    await engine.happens("widen")
    assert pool.statistics().pending == 1
    engine.open()
    await asyncio.gather(first, second)


async def test_waiting_requests_start_when_the_width_has_grown(open_pool: OpenPool) -> None:
    engine = WideningEngine()
    pool = open_pool(engine, 1, 100)
    tasks = [start(pool, name) for name in "abcd"]
    await engine.happens("admit a", "widen")
    await settle(pool, lambda now: now.pending == 3)
    assert pool.statistics().running == 1
    # On a thread of its own, as a probe does.
    await asyncio.to_thread(engine.grow, 3)
    await engine.happens("admit b", "admit c")
    now = pool.statistics()
    assert (now.width, now.running, now.pending) == (3, 3, 1)
    assert admissions(engine) == list("abc")
    engine.open()
    await asyncio.gather(*tasks)
    assert engine.peak == 3


async def test_a_width_that_grows_after_closing_starts_nothing(open_pool: OpenPool) -> None:
    engine = WideningEngine()
    pool = open_pool(engine, 1, 100)
    tasks = [start(pool, name) for name in "ab"]
    await engine.happens("admit a", "widen")
    await pool.aclose()
    engine.grow(3)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [SessionClosedError] * 2
    assert admissions(engine) == ["a"]


async def test_a_wider_pool_refuses_later(open_pool: OpenPool) -> None:
    engine = WideningEngine()
    pool = open_pool(engine, 1, 1)
    tasks = [start(pool, name) for name in "ab"]
    await engine.happens("admit a", "widen")
    with pytest.raises(QueueFullError):
        await pool.run(ask("c"))
    engine.grow(2)
    tasks.append(start(pool, "c"))
    await engine.happens("admit b")
    engine.open()
    await asyncio.gather(*tasks)
