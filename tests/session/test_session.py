"""What a session answers, on a fake engine; the cache, the flights and the threads are real."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asteady import (
    CacheMissError,
    EngineError,
    InvalidRequestError,
    Observed,
    Session,
    Settings,
    SettingsError,
)
from asteady._base.requests import GenerateRequest
from asteady._session.generation import context_of
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
        await session.generate("hi", seed=1.0)  # type: ignore[call-overload]  # what is tested


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


# -- arguments -------------------------------------------------------------------------------------


async def test_bad_arguments_are_named(session: Session) -> None:
    with pytest.raises(InvalidRequestError, match="it is called 'max_new_tokens' here"):
        await session.generate("hi", max_tokens=5)  # type: ignore[call-overload]  # what is tested
    with pytest.raises(InvalidRequestError, match=r"embed\(\) has no option 'trunkate'"):
        await session.embed("hi", trunkate=True)  # type: ignore[call-arg]  # what is tested
    with pytest.raises(InvalidRequestError, match="cache='always'"):
        await session.generate("hi", cache="always")  # type: ignore[call-overload]  # what is tested
    with pytest.raises(InvalidRequestError, match="model=''"):
        await session.generate("hi", model="")
    with pytest.raises(InvalidRequestError, match="'chat' is not allowed"):
        await session.load("chat")  # type: ignore[arg-type]  # what is tested


async def test_settings_come_whole_or_one_by_one() -> None:
    with pytest.raises(SettingsError, match="not both"):
        Session(Settings(), workers=1)
    assert Session(Settings(workers=3)).settings.workers == 3
    with pytest.raises(SettingsError, match="no setting 'worker'"):
        Session(worker=1)  # type: ignore[call-arg]  # a wrong name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seed": 7, "temperature": 0.5},
        {"stop": ["a", "b"]},
        {"logit_bias": {5: 1.0}},
        {"logit_bias": {"5": 1.0}},
        {"seed": None, "temperature": None, "top_p": None, "stop": None, "max_new_tokens": None},
        {"prompt": None, "messages": [{"role": "user", "content": "hi"}]},
    ],
)
async def test_every_form_of_a_call_is_a_warm_hit(
    session: Session, options: dict[str, Any]
) -> None:
    call = {"prompt": "hi", **options}
    first = await session.complete(**call)
    observed: list[Observed] = []
    with session.observe(observed.append):
        assert await session.generate(**call) == first.text
    assert observed[0].outcome == "memory"
    prompt = call.pop("prompt")
    alias = context_of(session).alias_of(prompt, None, call)
    held = session.cache.generation.peek_alias(alias)
    assert held is not None
    assert (await session.complete(prompt, **call)) is held.answer


async def test_equal_numbers_of_other_types_are_no_warm_hit(session: Session) -> None:
    await session.generate("hi", seed=1)
    for seed in (1.0, True):
        with pytest.raises(InvalidRequestError, match="seed="):
            await session.generate("hi", seed=seed)  # type: ignore[arg-type]  # wrong on purpose
