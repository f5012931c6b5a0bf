"""How a session opens and closes, and what is left when it does not."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from asteady import Session, SessionClosedError, SessionError, SessionNotOpenError, StoreError
from asteady._base.requests import Kind
from asteady._engine.api import Engine
from asteady._session.generation import context_of
from asteady._session.models import GivenEngine
from asteady.testing import FakeEngine

pytestmark = pytest.mark.anyio

Workers = Callable[[], set[threading.Thread]]


@pytest.fixture
def workers() -> Workers:
    """The worker threads that are alive, without those of earlier tests."""

    def alive() -> set[threading.Thread]:
        return {t for t in threading.enumerate() if t.name.startswith("asteady-worker")}

    before = alive()
    return lambda: alive() - before


async def test_a_session_is_used_only_while_it_is_open(engine: FakeEngine) -> None:
    session = Session(engine=engine)
    with pytest.raises(SessionNotOpenError, match="async with"):
        await session.generate("hi")
    async with session:
        await session.generate("hi")
        with pytest.raises(SessionError, match="opens only once"):
            await session.open()
    with pytest.raises(SessionClosedError):
        await session.generate("hi")
    with pytest.raises(SessionError, match="opens only once"):
        await session.open()
    await session.aclose()
    assert engine.closed


async def test_an_unopened_session_can_be_closed() -> None:
    session = Session(engine=FakeEngine())
    await session.aclose()
    assert "closed" in repr(session)


async def test_it_may_be_opened_in_one_task_and_closed_in_another(engine: FakeEngine) -> None:
    session = await asyncio.create_task(Session(engine=engine).open())
    assert await asyncio.create_task(session.generate("hi")) == "You said: hi"
    await asyncio.create_task(session.aclose())
    assert not session.is_open


async def test_closing_ends_what_is_under_way(engine: FakeEngine, workers: Workers) -> None:
    engine.hold()
    session = await Session(engine=engine, workers=1).open()
    tasks = [asyncio.create_task(session.generate(f"prompt {n}")) for n in range(3)]
    await engine.wait_computed(1)
    await session.aclose()
    for task in tasks:
        with pytest.raises(SessionClosedError):
            await task
    assert engine.closed
    assert not workers()


async def test_closing_is_finished_even_if_it_is_cancelled(engine: FakeEngine) -> None:
    session = await Session(engine=engine).open()
    await session.generate("hi")
    closing = asyncio.create_task(session.aclose())
    await anyio.lowlevel.checkpoint()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert engine.closed


async def test_a_cache_that_cannot_be_opened_leaves_nothing_behind(
    tmp_path: Path, workers: Workers
) -> None:
    with closing(sqlite3.connect(tmp_path / "embedding_cache.db")) as connection:
        connection.execute("CREATE TABLE mine (x)")
    session = Session(engine=FakeEngine(), cache_dir=tmp_path)
    with pytest.raises(StoreError, match="another application"):
        await session.open()
    assert not session.is_open
    assert not workers()


async def test_repr_shows_what_is_going_on(session: Session, engine: FakeEngine) -> None:
    engine.hold()
    task = asyncio.create_task(session.generate("hi"))
    await engine.wait_computed(1)
    assert "open" in repr(session)
    assert "1 flights" in repr(session)
    assert "generation:builtin" in repr(session)
    engine.resume()
    await task


def test_a_session_that_its_loop_closed_does_not_warn(engine: FakeEngine) -> None:
    sessions: list[Session] = []

    async def main() -> None:
        sessions.append(await Session(engine=engine).open())
        await sessions[0].generate("hi")

    asyncio.run(main())
    assert sessions[0].is_closed
    assert engine.closed
    sessions.clear()
    gc.collect()  # a warning would be an error


def test_a_session_dropped_before_its_loop_ends_is_closed_with_it_and_warns(
    engine: FakeEngine,
) -> None:
    async def main() -> None:
        session = await Session(engine=engine).open()
        await session.generate("hi")

    def run() -> None:
        asyncio.run(main())
        gc.collect()

    with pytest.warns(ResourceWarning, match="never closed"):
        run()
    assert engine.closed


async def test_a_session_that_is_dropped_open_warns_and_is_closed_after_all() -> None:
    engine = FakeEngine()
    sessions = [await Session(engine=engine).open()]
    await sessions[0].generate("hi")
    tasks = context_of(sessions[0]).tasks

    def drop() -> None:
        sessions.clear()
        gc.collect()

    with pytest.warns(ResourceWarning, match="never closed"):
        drop()
    await tasks.stop()
    assert engine.closed


async def test_a_session_that_is_dropped_open_waits_for_no_lock_of_its_pools() -> None:
    """Garbage is collected in any thread, also in one that has that lock."""

    class Asked(FakeEngine):
        def __init__(self) -> None:
            self.asked = 0
            super().__init__()

        @property
        def width(self) -> int:
            self.asked += 1  # under the lock
            return 1

        @width.setter
        def width(self, width: int) -> None: ...

    engine = Asked()
    sessions = [await Session(engine=engine).open()]
    await sessions[0].generate("hi")
    tasks = context_of(sessions[0]).tasks
    before = engine.asked
    assert "generation:builtin" in repr(sessions[0])
    assert engine.asked == before + 1

    def drop() -> None:
        sessions.clear()
        gc.collect()

    with pytest.warns(ResourceWarning, match="never closed"):
        drop()
    assert engine.asked == before + 1
    await tasks.stop()


async def test_closing_does_not_wait_for_a_load_and_the_model_is_freed_afterwards() -> None:
    """As with a model of many gigabytes on a slow disk."""
    began, may_end, ended = threading.Event(), threading.Event(), threading.Event()
    engine = FakeEngine()

    class SlowSource(GivenEngine):
        def load(self, kind: Kind, reference: str) -> Engine:
            began.set()
            assert may_end.wait(120)  # longer than closing may take
            return engine

    class Closing(FakeEngine):
        def close(self) -> None:
            super().close()
            ended.set()

    engine = Closing()
    session = await Session(engine=engine).open()
    context_of(session).models._source = SlowSource(engine)
    asking = asyncio.create_task(session.generate("hi"))
    assert await asyncio.to_thread(began.wait, 30)
    with anyio.fail_after(60):
        await session.aclose()
    with pytest.raises(SessionClosedError):
        await asking
    may_end.set()
    assert await asyncio.to_thread(ended.wait, 30)
    assert session.statistics().pools == {}


async def elsewhere(call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """The result of a call on another event loop, in a thread of its own."""
    return await asyncio.to_thread(lambda: asyncio.run(call()))


AWAITED: dict[str, Callable[[Session], Coroutine[Any, Any, Any]]] = {
    "warm": lambda session: session.generate("warm"),
    "warm complete": lambda session: session.complete("warm"),
    "warm in a namespace": lambda session: session.namespace("n").generate("warm"),
    "warm embed": lambda session: session.embed("warm"),
    "cold": lambda session: session.generate("cold"),
    "messages": lambda session: session.generate(messages=[{"role": "user", "content": "hi"}]),
    "cold embed": lambda session: session.embed(["warm", "cold"]),
    "stream": lambda session: session.stream("warm").__aenter__(),
    "is_cached": lambda session: session.is_cached("warm"),
    "warming": lambda session: session.warm(["warm"]),
    "load": lambda session: session.load(),
    "statistics of the caches": lambda session: session.cache.get_cache_stats(),
    "keys": lambda session: session.cache.generation.keys(),
    "clear": lambda session: session.cache.clear_all_caches(),
    "namespace": lambda session: session.namespace("n").statistics(),
    "namespaces": lambda session: session.cache.namespaces(),
}


@pytest.mark.parametrize("call", AWAITED.values(), ids=AWAITED.keys())
async def test_what_is_awaited_raises_on_another_loop(
    call: Callable[[Session], Coroutine[Any, Any, Any]], engine: FakeEngine
) -> None:
    async with Session(engine=engine) as session:
        await session.generate("warm")
        await session.namespace("n").generate("warm")
        await session.embed("warm")
        # Written touches, as they are a second after the last use.
        session.cache.generation.flush()
        session.cache.embedding.flush()
        before = await session.cache.get_cache_stats()
        with pytest.raises(SessionError, match="another event loop"):
            await elsewhere(lambda: call(session))
        after = await session.cache.get_cache_stats()
        assert [after[kind]["hits"] for kind in after] == [before[kind]["hits"] for kind in before]
        assert await session.generate("warm") == "You said: warm"


async def test_what_is_not_awaited_may_be_read_on_any_thread(session: Session) -> None:
    await session.generate("hi")
    assert await asyncio.to_thread(session.statistics) == session.statistics()
    assert await asyncio.to_thread(repr, session) == repr(session)
    assert await asyncio.to_thread(lambda: session.is_open)


async def test_a_stream_cannot_be_read_on_another_loop(
    session: Session, engine: FakeEngine
) -> None:
    engine.hold()
    async with session.stream("hi") as stream:
        with pytest.raises(SessionError, match="another event loop"):
            await elsewhere(stream.read)


async def test_it_can_be_closed_on_another_loop(engine: FakeEngine, workers: Workers) -> None:
    session = await Session(engine=engine).open()
    engine.hold()
    asked = asyncio.create_task(session.generate("hi"))
    await engine.wait_computed(1)
    await elsewhere(session.aclose)
    with pytest.raises(SessionClosedError):
        await asked
    assert session.is_closed
    assert engine.closed
    assert not workers()


async def test_closing_on_another_loop_can_be_cancelled(engine: FakeEngine) -> None:
    session = await Session(engine=engine).open()
    cancelled = threading.Event()

    async def close_and_cancel() -> None:
        closing = asyncio.create_task(session.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        assert closing.cancelled()
        cancelled.set()

    thread = threading.Thread(target=asyncio.run, args=(close_and_cancel(),))
    thread.start()
    assert cancelled.wait(30)  # blocks the session's loop, so that the session cannot close
    thread.join()
    assert session.is_open
    await session.aclose()


@pytest.mark.parametrize("close_loop", [False, True])
def test_a_session_whose_loop_stands_still_is_closed_without_it(
    close_loop: bool, engine: FakeEngine, workers: Workers
) -> None:
    sqlite = {t for t in threading.enumerate() if "connection" in t.name}
    loop = asyncio.new_event_loop()
    session = loop.run_until_complete(Session(engine=engine).open())
    loop.run_until_complete(session.generate("hi"))
    if close_loop:
        loop.close()
    asyncio.run(session.aclose())
    loop.close()
    assert session.is_closed
    assert engine.closed
    assert not workers()
    for thread in {t for t in threading.enumerate() if "connection" in t.name} - sqlite:
        thread.join(30)
        assert not thread.is_alive()


async def test_a_session_that_is_still_opening_takes_no_requests(engine: FakeEngine) -> None:
    session = Session(engine=engine)
    opening = asyncio.create_task(session.open())
    await asyncio.sleep(0)
    with pytest.raises(SessionNotOpenError):
        await session.generate("hi")
    await opening
    assert await session.generate("hi") == "You said: hi"
    await session.aclose()


async def test_closed_while_it_opens(engine: FakeEngine) -> None:
    session = Session(engine=engine)
    opening = asyncio.create_task(session.open())
    await asyncio.sleep(0)
    await session.aclose()
    with pytest.raises(SessionClosedError, match="while it opened"):
        await opening
    assert session.is_closed


def test_a_flight_that_never_began_does_not_hold_up_the_loops_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The loop ends in the very moment in which a computation is started."""

    async def main() -> None:
        session = await Session(engine=FakeEngine()).open()
        await session.generate("warm")
        sessions.append(session)
        asyncio.create_task(session.generate("other"))  # noqa: RUF006  # left to the loop's end
        await asyncio.sleep(0)

    sessions: list[Session] = []
    asyncio.run(main())
    assert caplog.text == ""
    assert sessions[0].is_closed
