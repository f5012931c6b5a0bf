"""What fails in a pool on an engine with gates: requests, jobs, whole workers, callbacks."""

from __future__ import annotations

import asyncio
import logging

import pytest

from asteady._base.errors import EngineError, InvalidRequestError
from asteady._base.requests import Chunk, Completion
from tests.engine.gated import GatedEngine, ask
from tests.engine.pooled import MakePool, settle, start

pytestmark = pytest.mark.anyio


async def test_a_request_that_does_not_fit_never_enters_the_queue(
    engine: GatedEngine, make_pool: MakePool
) -> None:
    engine.fail_prepare = InvalidRequestError("no")
    pool = make_pool()
    with pytest.raises(InvalidRequestError, match="no"):
        await pool.run(ask("a"))
    engine.fail_prepare = ZeroDivisionError("oops")
    with pytest.raises(EngineError, match=r"prepare.*oops") as caught:
        await pool.run(ask("a"))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    now = pool.statistics()
    assert (now.refused, now.pending, now.started) == (2, 0, 0)


async def test_a_job_that_fails_fails_alone(engine: GatedEngine, make_pool: MakePool) -> None:
    pool = make_pool()
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
    engine: GatedEngine, make_pool: MakePool, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    pool = make_pool(width=2)
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
    engine: GatedEngine, make_pool: MakePool, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool()
    setattr(engine, stage, MemoryError("none left"))
    with pytest.raises(EngineError, match="none left"):
        await pool.run(ask("a"))
    setattr(engine, stage, None)
    engine.open()
    assert isinstance(await pool.run(ask("b")), Completion)
    assert pool.statistics().failed == 1


async def test_a_cancelled_job_of_a_worker_that_fails_counts_as_cancelled(
    engine: GatedEngine, make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool()
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


async def test_an_emit_that_raises_fails_its_own_call(
    engine: GatedEngine, make_pool: MakePool
) -> None:
    pool = make_pool(width=2)

    def emit(text: Chunk) -> None:
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
