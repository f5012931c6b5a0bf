"""What a session answers, on a fake engine; the cache, the flights and the threads are real."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from asteady import (
    CacheMissError,
    EngineError,
    InvalidRequestError,
    PromptTooLongError,
    QueueFullError,
    Session,
    Settings,
    SettingsError,
)
from asteady._requests import GenerateRequest
from asteady.testing import FakeEngine

pytestmark = pytest.mark.anyio


async def stats(session: Session, cache: str = "generation") -> dict[str, Any]:
    return (await session.cache.get_cache_stats())[cache]


# -- answers and the cache -------------------------------------------------------------------------


async def test_an_answer_is_computed_once_and_remembered(
    session: Session, engine: FakeEngine
) -> None:
    assert await session.generate("hi") == "You said: hi"
    assert await session.generate("hi") == "You said: hi"
    assert len(engine.computed) == 1
    counted = await stats(session)
    assert (counted["hits"], counted["misses"], counted["size"]) == (1, 1, 1)


async def test_an_answer_outlives_the_session(engine: FakeEngine) -> None:
    async with Session(engine=engine) as first:
        computed = await first.complete("hi there")
    async with Session(engine=FakeEngine()) as second:
        remembered = await second.complete("hi there")
        assert second.statistics().pools == {}, "a remembered answer loads no model"
    assert not computed.cached
    assert remembered.cached
    assert remembered.text == computed.text
    assert remembered.chunks == computed.chunks == ("You ", "said: ", "hi ", "there")
    assert remembered.finish_reason == "stop"
    assert remembered.cost_s == computed.cost_s


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 7},
        {"max_new_tokens": 7},
        {"temperature": 0.5},
        {"stop": "x"},
        {"raw": True},
        {"logprobs": 0},
        {"top_k": 1},
    ],
)
async def test_a_different_request_is_a_different_entry(
    session: Session, engine: FakeEngine, other: dict[str, Any]
) -> None:
    await session.generate("hi")
    await session.generate("hi", **other)
    assert len(engine.computed) == 2


async def test_an_eos_string_is_a_stop_string_in_every_call(
    session: Session, engine: FakeEngine
) -> None:
    await session.generate("hi", stop="X")
    assert await session.is_cached("hi", eos_string="X")
    await session.generate("hi", eos_string="X")
    await session.complete("hi", eos_string="X")
    async with session.stream("hi", eos_string="X") as stream:
        await stream.read()
    warmed = await session.warm(["hi", {"prompt": "hi", "stop": ["X"]}], eos_string="X")
    assert (warmed.warmed, warmed.already_cached, warmed.duplicates) == (0, 1, 1)
    warmed = await session.warm([{"prompt": "hi", "eos_string": "X"}])
    assert (warmed.warmed, warmed.already_cached) == (0, 1)
    (request,) = engine.computed
    assert isinstance(request, GenerateRequest)
    assert request.stop == ("X",)
    await session.generate("hi", eos_string="[EOS]")
    await session.generate("hi")
    assert len(engine.computed) == 2


async def test_the_built_in_models_text_ends_before_an_eos_string() -> None:
    async with Session(workers=1) as session:
        whole = await session.generate("Write a haiku about rain", max_new_tokens=12)
        end = whole[4:7]
        answer = await session.complete(
            "Write a haiku about rain", max_new_tokens=12, eos_string=end
        )
    assert answer.text == whole[: whole.index(end)]
    assert answer.finish_reason == "stop"


async def test_another_engine_gets_none_of_the_answers(engine: FakeEngine) -> None:
    async with Session(engine=engine) as session:
        await session.generate("hi")
    changed = FakeEngine(lambda request: "changed", fingerprint="fake-2")
    async with Session(engine=changed) as session:
        assert await session.generate("hi") == "changed"


async def test_equal_numbers_of_another_type_are_not_taken_for_a_warm_hit(
    session: Session,
) -> None:
    await session.generate("hi", seed=1)
    assert await session.generate("hi", seed=1) == "You said: hi"
    with pytest.raises(InvalidRequestError, match="seed=True"):
        await session.generate("hi", seed=True)
    with pytest.raises(InvalidRequestError, match=r"seed=1\.0"):
        await session.generate("hi", seed=1.0)  # type: ignore[arg-type]  # what is tested


async def test_options_that_cannot_be_hashed_are_answered_from_the_cache_too(
    session: Session, engine: FakeEngine
) -> None:
    for _ in range(2):
        await session.generate("hi", stop=["x", "y"])
        await session.generate(messages=[{"role": "user", "content": "hi"}])
    assert len(engine.computed) == 2
    assert (await stats(session))["hits"] == 2


async def test_refresh_computes_again_and_replaces(tmp_path: Path) -> None:
    answers = iter(["first", "second"])
    async with Session(engine=FakeEngine(lambda request: next(answers))) as session:
        assert await session.generate("hi") == "first"
        assert await session.generate("hi", cache="refresh") == "second"
        assert await session.generate("hi") == "second"
        assert (await stats(session))["size"] == 1


async def test_bypass_neither_reads_nor_writes_nor_shares(
    session: Session, engine: FakeEngine
) -> None:
    engine.hold()
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(session.generate("hi", cache="bypass"))
        await engine.wait_computed(2)
        engine.resume()
    assert not await session.is_cached("hi")
    counted = await stats(session)
    assert (counted["hits"], counted["misses"], counted["coalesced"]) == (0, 0, 0)


async def test_only_never_computes(session: Session, engine: FakeEngine) -> None:
    with pytest.raises(CacheMissError, match="is not in the cache"):
        await session.generate("hi", cache="only")
    assert engine.computed == []
    await session.generate("hi")
    assert await session.generate("hi", cache="only") == "You said: hi"


async def test_only_counts_each_call_once(engine: FakeEngine) -> None:
    async with Session(engine=engine) as session:
        await session.generate("hi")
    async with Session(engine=engine) as session:
        await asyncio.gather(*(session.complete("hi", cache="only") for _ in range(10)))
        counted = await stats(session)
        assert counted["hits"] + counted["misses"] + counted["coalesced"] == 10


async def test_is_cached_is_exact_and_leaves_no_trace(session: Session) -> None:
    assert not await session.is_cached("hi")
    await session.generate("hi")
    before = await stats(session)
    assert await session.is_cached("hi")
    assert not await session.is_cached("hi", seed=1)
    assert not await session.is_cached("hi", messages=None, max_new_tokens=5)
    after = await stats(session)
    assert (after["hits"], after["misses"]) == (before["hits"], before["misses"])


async def test_a_disabled_cache_remembers_nothing_but_still_coalesces(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.hold()
    async with Session(engine=engine, disable_cache=True) as session:
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(session.generate("hi"))
            await engine.wait_computed(1)
            engine.resume()
        assert len(engine.computed) == 1
        await session.generate("hi")
        assert len(engine.computed) == 2
        assert not await session.is_cached("hi")
        assert set(await session.cache.get_cache_stats()) == {"generation", "embedding"}


async def test_both_budgets_hold_whatever_is_asked(engine: FakeEngine) -> None:
    async with Session(engine=engine, generation_cache_capacity=2) as session:
        for number in range(10):
            await session.generate(f"prompt {number}")
            counted = await stats(session)
            assert counted["size"] <= 2
        assert counted["evictions"] == 8
        cached = [n for n in range(10) if await session.is_cached(f"prompt {n}")]
        assert len(cached) == 2, "the memory tier keeps no more than the budget either"


async def test_errors_are_not_remembered() -> None:
    answers: Iterator[str | Exception] = iter([ValueError("a passing fault"), "fine"])

    def answer(request: GenerateRequest) -> str:
        result = next(answers)
        if isinstance(result, Exception):
            raise result
        return result

    async with Session(engine=FakeEngine(answer)) as session:
        with pytest.raises((ValueError, EngineError), match="a passing fault"):
            await session.generate("hi")
        assert await session.generate("hi") == "fine"


async def test_clearing_clears_both_tiers(session: Session, engine: FakeEngine) -> None:
    await session.generate("hi")
    await session.embed("hi")
    await session.cache.clear_all_caches()
    assert not await session.is_cached("hi")
    await session.generate("hi")
    assert len(engine.computed) == 3


# -- coalescing ------------------------------------------------------------------------------------


async def test_concurrent_callers_share_one_computation(
    session: Session, engine: FakeEngine
) -> None:
    engine.hold()
    tasks = [asyncio.create_task(session.generate("hi")) for _ in range(200)]
    await engine.wait_computed(1)
    engine.resume()
    assert await asyncio.gather(*tasks) == ["You said: hi"] * 200
    assert len(engine.computed) == 1
    counted = await stats(session)
    assert (counted["hits"], counted["misses"], counted["coalesced"]) == (0, 1, 199)


async def by_task(call: Callable[[], Awaitable[str]], engine: FakeEngine) -> None:
    task = asyncio.ensure_future(call())
    await engine.wait_computed(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_wait_for(call: Callable[[], Awaitable[str]], engine: FakeEngine) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call(), 0.05)
    await engine.wait_computed(1)


async def by_scope(call: Callable[[], Awaitable[str]], engine: FakeEngine) -> None:
    with anyio.move_on_after(0.05) as scope:
        await call()
    assert scope.cancelled_caught
    await engine.wait_computed(1)


@pytest.mark.parametrize("cancel", [by_task, by_wait_for, by_scope])
async def test_when_nobody_waits_the_worker_is_freed_and_the_next_caller_starts_afresh(
    cancel: Callable[[Callable[[], Awaitable[str]], FakeEngine], Awaitable[None]],
) -> None:
    engine = FakeEngine()
    engine.hold()
    async with Session(engine=engine, workers=1) as session:
        await cancel(lambda: session.generate("hi"), engine)
        await engine.wait_released(1)
        assert not await session.is_cached("hi")
        engine.resume()
        assert await session.generate("hi") == "You said: hi"
        assert len(engine.computed) == 2


async def test_199_of_200_callers_leave_at_random_moments(
    session: Session, engine: FakeEngine
) -> None:
    draw = random.Random(42)
    engine.hold()
    tasks = [asyncio.create_task(session.generate("one two three")) for _ in range(200)]
    await engine.wait_computed(1)
    staying = draw.randrange(200)
    leaving = [task for index, task in enumerate(tasks) if index != staying]
    draw.shuffle(leaving)
    for task in leaving:
        task.cancel()
        if draw.random() < 0.05:
            engine.step()
            await anyio.lowlevel.checkpoint()
    engine.resume()
    assert await tasks[staying] == "You said: one two three"
    assert len(engine.computed) == 1
    assert engine.released == []


async def test_no_more_is_computed_at_once_than_there_are_workers(
    session: Session, engine: FakeEngine
) -> None:
    engine.hold()
    tasks = [asyncio.create_task(session.generate(f"prompt {n}")) for n in range(20)]
    await engine.wait_computed(2)
    engine.resume()
    await asyncio.gather(*tasks)
    assert engine.peak == 2
    assert len(engine.computed) == 20


async def test_the_queue_is_bounded() -> None:
    engine = FakeEngine()
    engine.hold()
    async with Session(engine=engine, workers=1, max_pending=3) as session:
        running = asyncio.create_task(session.generate("running"))
        await engine.wait_computed(1)
        waiting = [asyncio.create_task(session.generate(f"waiting {n}")) for n in range(3)]
        while session.statistics().pools["generation:builtin"].pending < 3:
            await anyio.lowlevel.checkpoint()
        with pytest.raises(QueueFullError, match="3"):
            await session.generate("one too many")
        engine.resume()
        await asyncio.gather(running, *waiting)
        assert await session.generate("one too many") == "You said: one too many"


async def test_what_cannot_be_served_is_refused_before_the_queue() -> None:
    engine = FakeEngine(context=3)
    async with Session(engine=engine) as session:
        with pytest.raises(PromptTooLongError, match=r"4 words.*room for 3"):
            await session.generate("one two three four")
    assert engine.computed == []


# -- embedding -------------------------------------------------------------------------------------


async def test_a_vector_is_a_read_only_unit_vector(session: Session) -> None:
    vector = await session.embed("async cache")
    assert vector.shape == (8,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="read-only"):
        vector[0] = 0


async def test_each_text_is_cached_and_coalesced_on_its_own(
    session: Session, engine: FakeEngine
) -> None:
    alone = await session.embed("b")
    matrix = await session.embed(["a", "b", "a", "c"])
    assert matrix.shape == (4, 8)
    assert (matrix[1] == alone).all()
    assert (matrix[0] == matrix[2]).all()
    assert len(engine.computed) == 3
    with pytest.raises(ValueError, match="read-only"):
        matrix[0, 0] = 0


async def test_many_texts_keep_their_order_and_fit_a_small_queue(tmp_path: Path) -> None:
    texts = [f"text {n}" for n in range(300)]
    async with Session(engine=FakeEngine(), workers=2) as session:
        matrix = await session.embed(texts)
        for index in (0, 150, 299):
            assert (matrix[index] == await session.embed(texts[index])).all()


async def test_a_bad_text_among_many_is_named(session: Session) -> None:
    with pytest.raises(InvalidRequestError, match="text=5") as caught:
        await session.embed(["a", 5])  # type: ignore[list-item]  # what is tested
    assert "(at text[1])" in caught.value.__notes__
    with pytest.raises(InvalidRequestError, match="at least one text"):
        await session.embed([])
    with pytest.raises(InvalidRequestError, match="text=b'abc'"):
        await session.embed(b"abc")  # type: ignore[arg-type]  # what is tested
    with pytest.raises(InvalidRequestError, match="text="):
        await session.embed({"a": 1})  # type: ignore[call-overload]  # what is tested
    with pytest.raises(InvalidRequestError, match="text=5"):
        await session.embed(5)  # type: ignore[call-overload]  # what is tested


async def test_embeddings_outlive_the_session(engine: FakeEngine) -> None:
    async with Session(engine=engine) as session:
        first = await session.embedding("hi")
    async with Session(engine=FakeEngine()) as session:
        second = await session.embedding("hi")
    assert second.cached
    assert (first.vector == second.vector).all()
    assert second.tokens == first.tokens == 1


# -- arguments -------------------------------------------------------------------------------------


async def test_bad_arguments_are_named(session: Session) -> None:
    with pytest.raises(InvalidRequestError, match="did you mean 'max_new_tokens'"):
        await session.generate("hi", max_tokens=5)  # type: ignore[call-arg]  # what is tested
    with pytest.raises(InvalidRequestError, match=r"embed\(\) has no option 'trunkate'"):
        await session.embed("hi", trunkate=True)  # type: ignore[call-overload]  # what is tested
    with pytest.raises(InvalidRequestError, match="cache='always'"):
        await session.generate("hi", cache="always")  # type: ignore[arg-type]  # what is tested
    with pytest.raises(InvalidRequestError, match="model=''"):
        await session.generate("hi", model="")
    with pytest.raises(InvalidRequestError, match="'chat' is not allowed"):
        await session.load("chat")  # type: ignore[arg-type]  # what is tested


async def test_settings_come_whole_or_one_by_one() -> None:
    with pytest.raises(SettingsError, match="not both"):
        Session(Settings(), workers=1)
    assert Session(Settings(workers=3)).settings.workers == 3
    with pytest.raises(SettingsError, match="no setting 'worker'"):
        Session(worker=1)
