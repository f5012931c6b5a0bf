"""Many texts: order, bounded memory, progress, and an event loop that goes on turning."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

import numpy as np
import pytest

from asteady import InvalidRequestError, PromptTooLongError, Session
from asteady._base.tasks import map_concurrently
from asteady.testing import FakeEngine
from tests.waiting import until

pytestmark = pytest.mark.anyio


def texts(count: int) -> list[str]:
    return [f"text number {number}" for number in range(count)]


async def test_batches_hold_all_texts_in_order(session: Session) -> None:
    every = texts(300)
    batches = [matrix async for matrix in session.embed_batches(every, batch_size=128)]
    assert [matrix.shape for matrix in batches] == [(128, 8), (128, 8), (44, 8)]
    assert not any(matrix.flags.writeable for matrix in batches)
    assert (np.concatenate(batches) == await session.embed(every)).all()
    for index in (0, 127, 128, 299):
        row = np.concatenate(batches)[index]
        assert (row == await session.embed(every[index])).all()


async def test_ten_thousand_texts_in_bounded_memory(engine: FakeEngine) -> None:
    drawn = held = 0

    def source() -> Iterator[str]:
        nonlocal drawn
        for number in range(10_000):
            drawn += 1
            # Few different texts, so that the test takes its time for the batches.
            yield f"text {number % 50}"

    seen: list[int] = []
    rows = 0
    async with Session(engine=engine, workers=2, disable_cache=False) as session:
        async for matrix in session.embed_batches(source(), batch_size=500, progress=seen.append):
            held = max(held, drawn - rows)
            rows += len(matrix)
    assert rows == 10_000
    assert held == 500
    assert len(engine.computed) == 50
    assert seen == sorted(seen)
    assert seen[-1] == 10_000
    assert len(seen) == 10_000 // 64 + 1


async def test_an_async_source_is_read_as_it_comes(session: Session) -> None:
    async def source() -> AsyncIterator[str]:
        for text in texts(5):
            await asyncio.sleep(0)
            yield text

    batches = [matrix async for matrix in session.embed_batches(source(), batch_size=2)]
    assert [len(matrix) for matrix in batches] == [2, 2, 1]
    assert (np.concatenate(batches) == await session.embed(texts(5))).all()


@pytest.mark.parametrize("count", [0, 4])
async def test_a_source_may_end_at_a_batch_or_at_once(count: int, session: Session) -> None:
    async def source() -> AsyncIterator[str]:
        for text in texts(count):
            yield text

    seen: list[int] = []
    expected = [2] * (count // 2)
    for given in (source(), texts(count)):
        batches = session.embed_batches(given, batch_size=2, progress=seen.append)
        assert [len(matrix) async for matrix in batches] == expected
    assert seen == [count] * (2 if count else 0)


async def test_equal_texts_are_computed_once(session: Session, engine: FakeEngine) -> None:
    engine.hold()
    task = asyncio.create_task(session.embed(["same", "other", "same"] * 10))
    await engine.wait_computed(2)
    engine.resume()
    matrix = await task
    assert len(engine.computed) == 2
    assert (matrix[0] == matrix[2]).all()
    assert not (matrix[0] == matrix[1]).all()


async def test_progress_of_one_matrix(session: Session) -> None:
    seen: list[int] = []
    await session.embed(texts(130), progress=seen.append)
    assert seen == [64, 128, 130]
    seen.clear()
    await session.embed(texts(64), progress=seen.append)
    assert seen == [64]


async def test_an_error_names_the_text_among_all(engine: FakeEngine) -> None:
    engine._context = 3
    every = [*texts(10), "one two three four"]
    async with Session(engine=engine, workers=1) as session:
        batches = session.embed_batches(every, batch_size=4)
        assert len(await anext(batches)) == 4
        assert len(await anext(batches)) == 4
        with pytest.raises(PromptTooLongError) as caught:
            await anext(batches)
        assert "(at text[10])" in caught.value.__notes__


async def test_a_caller_that_has_enough_leaves_nothing_behind(
    session: Session, engine: FakeEngine
) -> None:
    async for _ in session.embed_batches(texts(100), batch_size=10):
        break
    assert session.statistics().flights == 0
    assert len(engine.computed) == 10


async def test_a_cancelled_batch_stops_computing(session: Session, engine: FakeEngine) -> None:
    engine.hold()
    task = asyncio.ensure_future(anext(session.embed_batches(texts(10))))
    await engine.wait_computed(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # Not `engine.wait_idle`: a worker may be about to begin with the next one.
    await until(lambda: not session.statistics().pools["embedding:builtin"].running)
    # Whatever was begun was given up, none of it finished.
    assert len(engine.released) == len(engine.computed) >= 2
    assert session.statistics().flights == 0


async def turns_during(work: Awaitable[object]) -> int:
    """How often another task had its turn while this was done."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.create_task(count())
    await asyncio.sleep(0)
    before = turns
    await work
    during = turns - before
    counter.cancel()
    return during


async def test_the_loop_turns_while_everything_is_remembered(session: Session) -> None:
    every = texts(200) * 10
    await session.embed(every)
    assert await turns_during(session.embed(every)) >= len(every) // 256


async def test_the_loop_turns_while_no_call_suspends() -> None:
    async def double(number: int) -> int:
        return 2 * number

    work = map_concurrently(double, range(2000), limit=64)
    assert await turns_during(work) >= 2000 // 256


async def test_what_is_remembered_is_a_hit_and_computes_nothing(
    session: Session, engine: FakeEngine
) -> None:
    for text in texts(3):
        await session.embed(text)
    await session.embed(texts(4))
    stats = (await session.cache.get_cache_stats())["embedding"]
    assert (stats["hits"], stats["misses"]) == (3, 4)
    assert len(engine.computed) == 4


@pytest.mark.parametrize(
    ("given", "more"),
    [("text", {}), (7, {}), (["a"], {"batch_size": 0}), (["a"], {"batch_size": True})],
)
async def test_what_cannot_be_a_batch_is_refused(
    given: Any, more: dict[str, Any], session: Session
) -> None:
    with pytest.raises(InvalidRequestError):
        session.embed_batches(given, **more)


async def test_what_passes_the_cache_is_computed_each_time(
    session: Session, engine: FakeEngine
) -> None:
    for _ in range(2):
        await session.embed(["same", "same"], cache="bypass")
    assert len(engine.computed) == 4


async def test_an_option_that_is_not_allowed_is_refused_with_its_text(session: Session) -> None:
    with pytest.raises(InvalidRequestError, match="dimensions") as caught:
        await session.embed(["a", "b"], dimensions=[3])  # type: ignore[arg-type]
    assert "(at text[0])" in caught.value.__notes__
