"""How a pool on an engine with gates is closed, and what is left when its loop is closed first."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeVarTuple

import anyio
import anyio.lowlevel
import pytest

from asteady._base.errors import SessionClosedError
from asteady._base.requests import Completion
from asteady._engine.pool import Pool
from tests.engine.gated import GatedEngine, WideningEngine, ask
from tests.engine.pooled import MakePool, OpenPool, queued, settle, start

Ts = TypeVarTuple("Ts")

pytestmark = pytest.mark.anyio


async def test_closing_ends_what_runs_and_what_waits(
    engine: GatedEngine, make_pool: MakePool
) -> None:
    pool = make_pool()
    tasks = [start(pool, name) for name in "ab"]
    await engine.happens("admit a")
    await queued(pool, 1)  # one that is still prepared would count as refused
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


async def test_closing_an_unused_pool_closes_the_engine(
    engine: GatedEngine, make_pool: MakePool
) -> None:
    await make_pool().aclose()
    assert engine.log == ["engine closed"]


async def test_an_engine_that_is_being_closed_is_not_asked_for_a_larger_width(
    open_pool: OpenPool,
) -> None:
    engine = WideningEngine()
    pool = open_pool(engine, 1, 10)
    await pool.aclose()
    await pool.widen()
    assert engine.log == ["engine closed"]


async def test_a_request_that_is_prepared_while_the_pool_closes(
    engine: GatedEngine, make_pool: MakePool
) -> None:
    pool = make_pool()
    task = start(pool, "a")
    await anyio.lowlevel.checkpoint()
    closing = asyncio.ensure_future(pool.aclose())
    with pytest.raises(SessionClosedError):
        await task
    await closing


async def test_a_worker_that_does_not_stop_is_left_behind_with_a_warning(
    engine: GatedEngine, make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool()
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
    engine: GatedEngine, make_pool: MakePool
) -> None:
    pool = make_pool()
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


def test_a_loop_that_was_closed_does_not_harm_the_pool(engine: GatedEngine) -> None:
    pool = Pool(engine, 1, 10)

    async def leave(*names: str) -> None:
        for name in names:
            asyncio.get_running_loop().create_task(pool.run(ask(name, 3)))
        await engine.happens(f"admit {names[0]}")
        await queued(pool, len(names) - 1)

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


def test_a_loop_that_was_closed_with_chunks_on_their_way_does_not_keep_a_worker(
    engine: GatedEngine,
) -> None:
    pool = Pool(engine, 1, 10)
    posted = threading.Event()

    class Loop(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(
            self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
        ) -> asyncio.Handle:
            handle = super().call_soon_threadsafe(callback, *args, context=context)
            posted.set()
            return handle

    async def begin() -> asyncio.Task[Any]:
        task = asyncio.ensure_future(pool.run(ask("a", 3), lambda _: None))
        await engine.happens("admit a")
        return task

    loop = Loop()
    task = loop.run_until_complete(begin())
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # meant to be left
    loop.run_until_complete(loop.shutdown_default_executor())
    posted.clear()
    engine.let(1)
    assert posted.wait(60)
    loop.close()

    async def afterwards() -> None:
        engine.let(1)
        await engine.happens("release a")
        await pool.aclose()

    asyncio.run(afterwards())
