"""Short texts pass long ones, and nothing waits for a preparation that nobody wants any more."""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from asteady._base.errors import EngineError, PromptTooLongError, SessionClosedError
from asteady._base.requests import GenerateRequest
from asteady._engine.pool import Pool
from asteady._engine.preparer import Preparer, check_wanted
from tests.engine.gated import GatedEngine, ask
from tests.engine.pooled import MakePool, start

pytestmark = pytest.mark.anyio

LONG = 10**6


class Held:
    """A function that prepares until it is let go."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.go_on = threading.Event()

    def __call__(self) -> str:
        self.began.set()
        assert self.go_on.wait(60)
        return "held"

    async def wait_began(self) -> None:
        assert await asyncio.to_thread(self.began.wait, 60)


@pytest.fixture
async def preparer() -> AsyncIterator[Preparer]:
    preparer = Preparer()
    yield preparer
    for thread in preparer.close():
        thread.join(60)
        assert not thread.is_alive()


async def test_short_texts_pass_a_long_one(preparer: Preparer) -> None:
    long = Held()
    future = preparer.submit(long, LONG)
    await long.wait_began()
    assert [await preparer.submit(lambda n=n: n, 10) for n in range(3)] == [0, 1, 2]  # type: ignore[misc]
    assert not future.done()
    long.go_on.set()
    assert await future == "held"


def noting(log: list[str], text: str) -> Callable[[], None]:
    return lambda: log.append(text)


async def test_the_shortest_of_the_long_texts_comes_first_until_others_have_waited(
    preparer: Preparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("asteady._engine.preparer.time.monotonic", lambda: now)
    first, log = Held(), list[str]()
    futures: list[asyncio.Future[object]] = [preparer.submit(first, LONG)]
    await first.wait_began()
    futures.append(preparer.submit(noting(log, "5 MB"), 5 * LONG))
    futures.append(preparer.submit(noting(log, "2 MB"), 2 * LONG))
    now = 4.5
    futures.append(preparer.submit(noting(log, "1 MB, 4.5 s later"), LONG))
    monkeypatch.undo()
    first.go_on.set()
    await asyncio.gather(*futures)
    assert log == ["2 MB", "5 MB", "1 MB, 4.5 s later"]


@pytest.mark.parametrize("characters", [10, LONG])
async def test_what_is_cancelled_while_it_waits_is_never_prepared(
    preparer: Preparer, characters: int
) -> None:
    first, log = Held(), list[str]()
    running = preparer.submit(first, characters)
    await first.wait_began()
    waiting = preparer.submit(noting(log, "cancelled"), characters)
    waiting.cancel()
    later = preparer.submit(noting(log, "later"), characters)
    first.go_on.set()
    await asyncio.gather(running, later)
    assert log == ["later"]


@pytest.mark.parametrize("characters", [10, LONG])
async def test_what_is_cancelled_while_it_runs_ends_at_its_next_check(
    preparer: Preparer, characters: int
) -> None:
    held, ended = Held(), threading.Event()

    def prepare() -> None:
        held()
        try:
            check_wanted()
        except SessionClosedError:
            ended.set()
            raise

    running = preparer.submit(prepare, characters)
    await held.wait_began()
    running.cancel()
    await asyncio.wait([running])
    held.go_on.set()
    assert await asyncio.to_thread(ended.wait, 60)
    await preparer.submit(check_wanted, characters)


async def test_closing_fails_what_waits_and_stops_what_runs() -> None:
    preparer = Preparer()
    held = [Held(), Held()]

    def prepare(hold: Held) -> None:
        hold()
        check_wanted()

    sizes = (10, LONG)
    running = [
        preparer.submit(lambda hold=hold: prepare(hold), size)  # type: ignore[misc]
        for hold, size in zip(held, sizes, strict=True)
    ]
    for hold in held:
        await hold.wait_began()
    waiting = [preparer.submit(lambda: None, size) for size in sizes]
    busy = preparer.close()
    for future in waiting:
        with pytest.raises(SessionClosedError):
            await future
    with pytest.raises(SessionClosedError):
        preparer.submit(lambda: None, 10)
    assert len(busy) == 2
    for hold in held:
        hold.go_on.set()
    for future in running:
        with pytest.raises(SessionClosedError):
            await future
    for thread in busy:
        await asyncio.to_thread(thread.join, 60)
        assert not thread.is_alive()


@pytest.mark.parametrize("error", [StopIteration(), SystemExit(), KeyboardInterrupt()])
async def test_no_error_costs_the_thread(preparer: Preparer, error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(EngineError, match=type(error).__name__):
        await preparer.submit(fail, 10)
    assert await preparer.submit(lambda: 1, 10) == 1


async def test_a_thread_that_cannot_be_started_is_an_error_of_its_own_request(
    preparer: Preparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    long = Held()
    first = preparer.submit(long, LONG)
    await long.wait_began()
    second = preparer.submit(lambda: None, LONG)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", full)
        with pytest.raises(EngineError, match="no room for a thread"):
            preparer.submit(lambda: None, 10)
        long.go_on.set()
        with pytest.raises(EngineError, match="no room for a thread"):
            await second
        with pytest.raises(EngineError, match="no room for a thread"):
            preparer.submit(lambda: None, LONG)
    assert await first == "held"
    assert await preparer.submit(lambda: 1, LONG) == 1
    assert await preparer.submit(lambda: 1, 10) == 1


async def test_the_stack_of_a_thread_is_no_other_threads(preparer: Preparer) -> None:
    before = threading.stack_size()
    assert await preparer.submit(lambda: 1, LONG) == 1
    assert threading.stack_size() == before


async def test_a_pool_needs_no_executor(
    engine: GatedEngine, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As it is while the interpreter waits for threads that are no daemons.
    monkeypatch.setattr(concurrent.futures.thread, "_shutdown", True)
    pool: Pool = make_pool()
    engine.open()
    assert (await pool.run(ask("a"))).text == ""  # type: ignore[union-attr]
    await pool.aclose()
    monkeypatch.undo()
    assert engine.log[-1] == "engine closed"


async def test_what_cannot_fit_is_refused_before_any_queue(
    engine: GatedEngine, make_pool: MakePool
) -> None:
    def check_size(request: object) -> None:
        raise PromptTooLongError("too long")

    engine.check_size = check_size  # type: ignore[attr-defined]
    pool = make_pool(max_pending=0)
    running = start(pool, "a")
    await engine.happens("admit a")
    with pytest.raises(PromptTooLongError):  # no QueueFullError
        await pool.run(GenerateRequest.of("x" * LONG))
    now = pool.statistics()
    assert (now.refused, now.pending, now.running) == (1, 0, 1)
    engine.open()
    await running
    await pool.aclose()
    with pytest.raises(SessionClosedError):
        await pool.run(GenerateRequest.of("x" * LONG))
