"""What became of each call, told exactly, also under concurrency."""

from __future__ import annotations

import asyncio
import logging

import anyio
import pytest

from asteady import InvalidRequestError, Session
from asteady._session.observe import Observed
from asteady.testing import FakeEngine

pytestmark = pytest.mark.anyio


async def test_each_outcome_is_told(session: Session, engine: FakeEngine) -> None:
    seen: list[Observed] = []
    with session.observe(seen.append):
        await session.generate("hi")
        await session.generate("hi")
    async with Session(engine=engine) as another:
        with another.observe(seen.append):
            await another.generate("hi")
            with pytest.raises(InvalidRequestError):
                await another.generate("hi", cache="never")  # type: ignore[call-overload]  # a failure
    assert [o.outcome for o in seen] == ["computed", "memory", "disk", "failed"]
    assert [o.hit for o in seen] == [False, True, True, False]
    assert seen[0].answer is not None
    assert seen[0].answer.cached is False
    assert seen[0].key == seen[1].key
    assert isinstance(seen[3].error, InvalidRequestError)
    assert seen[3].key is None
    assert all(o.duration_s > 0 for o in seen)


async def test_concurrent_calls_are_told_apart(session: Session, engine: FakeEngine) -> None:
    engine.hold()

    async def one() -> list[str]:
        seen: list[Observed] = []
        with session.observe(seen.append):
            await session.generate("hi")
        return [o.outcome for o in seen]

    tasks = [asyncio.create_task(one()) for _ in range(5)]
    await engine.wait_computed(1)
    await anyio.wait_all_tasks_blocked()
    engine.resume()
    assert sorted(await asyncio.gather(*tasks)) == [["coalesced"]] * 4 + [["computed"]]


async def test_an_observer_sees_its_own_context_or_everything(session: Session) -> None:
    here: list[Observed] = []
    everywhere: list[Observed] = []

    async def elsewhere() -> None:
        await session.generate("elsewhere")

    release = anyio.Event()

    async def waiting() -> None:
        await release.wait()
        await session.generate("begun before")

    before = asyncio.create_task(waiting())
    await anyio.wait_all_tasks_blocked()
    with (
        session.observe(everywhere.append, everywhere=True),
        session.observe(here.append),
    ):
        release.set()
        await before
        await asyncio.create_task(elsewhere())
        await session.embed(["a", "b"])
    await session.generate("after")
    assert len(here) == 3
    assert len(everywhere) == 4


async def test_streams_are_told_when_they_end(session: Session, engine: FakeEngine) -> None:
    seen: list[Observed] = []
    with session.observe(seen.append):
        async with session.stream("a b") as stream:
            await stream.read()
        async with session.stream("a b") as stream:
            await stream.read()
        engine.hold()
        async with session.stream("another") as stream:
            engine.step()
            await anext(stream)
        task = asyncio.create_task(session.generate("a third"))
        await anyio.wait_all_tasks_blocked()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [o.outcome for o in seen] == ["computed", "memory", "computed", "failed"]
    assert [o.answer is None for o in seen] == [False, False, True, True]
    assert isinstance(seen[3].error, asyncio.CancelledError)


async def test_an_observer_that_fails_hurts_nobody(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(observed: Observed) -> None:
        raise ValueError("observer")

    with session.observe(failing), caplog.at_level(logging.ERROR):
        assert await session.generate("hi") == "You said: hi"
    assert "an observer raised" in caplog.text
