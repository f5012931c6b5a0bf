"""The pool on an engine with gates: order, bounds, numbers, and few wake-ups of the loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from asteady._base.errors import QueueFullError
from asteady._base.requests import Completion
from asteady._engine.pool import PoolStatistics
from tests.engine.gated import GatedEngine, ask
from tests.engine.pooled import MakePool, admissions, settle, start

pytestmark = pytest.mark.anyio


async def test_an_answer_comes_with_its_chunks_in_order(
    engine: GatedEngine, make_pool: MakePool
) -> None:
    engine.open()
    chunks: list[tuple[str, int]] = []
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


async def test_jobs_are_spread_over_the_workers(engine: GatedEngine, make_pool: MakePool) -> None:
    pool = make_pool(workers=2, width=4)
    tasks = [start(pool, str(number)) for number in range(4)]
    await settle(pool, lambda now: now.running == 4)
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
    chunks: list[str] = []
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
    assert [text for text in chunks if text[0] == "a"] == [f"a{n} " for n in range(500)]


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
