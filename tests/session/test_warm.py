"""Warming: order, budget, failures, sources; on a fake engine that can be held."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import asteady
from asteady import InvalidRequestError, Session, SessionClosedError, SessionNotOpenError
from asteady._base.requests import GenerateRequest
from asteady.operate import (
    StrategicCacheWarmer,
    WarmProgress,
    warm_cache_parallel,
    warm_cache_sequential,
)
from asteady.testing import FakeEngine

pytestmark = pytest.mark.anyio


def prompts(engine: FakeEngine) -> list[str | None]:
    return [r.prompt for r in engine.computed if isinstance(r, GenerateRequest)]


async def test_each_prompt_is_warmed_with_each_seed(session: Session, engine: FakeEngine) -> None:
    report = await session.warm(["a", "b"], seeds=[1, 2], max_new_tokens=100)
    assert (report.warmed, report.already_cached, report.skipped) == (4, 0, 0)
    assert report.failed == ()
    assert report.seconds > 0
    assert str(report).startswith("warmed 4, already cached 0, failed 0, skipped for time 0, in ")
    for prompt in ("a", "b"):
        for seed in (1, 2):
            assert await session.is_cached(prompt, seed=seed, max_new_tokens=100)
    assert not await session.is_cached("a", max_new_tokens=100)


async def test_what_is_cached_is_skipped_and_not_touched(
    session: Session, engine: FakeEngine
) -> None:
    await session.generate("a")
    hits = session.cache.generation.counters.hits
    report = await session.warm(["a", "b", "b", "a"])
    assert (report.warmed, report.already_cached, report.duplicates) == (1, 1, 2)
    assert session.cache.generation.counters.hits == hits
    assert prompts(engine) == ["a", "b"]
    assert (await session.warm(["a", "b"])).already_cached == 2


async def test_priorities_are_strict(session: Session, engine: FakeEngine) -> None:
    """No medium prompt begins while a high one is being computed, though workers are idle."""
    engine.hold()
    warming = asyncio.create_task(
        session.warm(
            [
                {"prompt": "l", "priority": "low"},
                {"prompt": "m", "priority": "medium"},
                "m2",
                {"prompt": "h", "priority": "high"},
            ]
        )
    )
    await engine.wait_computed(1)
    await anyio.wait_all_tasks_blocked()
    assert prompts(engine) == ["h"]
    engine.resume()
    report = await warming
    assert prompts(engine)[0] == "h"
    assert sorted(map(str, prompts(engine)[1:3])) == ["m", "m2"]
    assert prompts(engine)[3] == "l"
    assert report.by_priority == {"high": 1, "medium": 2, "low": 1}


async def test_concurrency_is_bounded(session: Session, engine: FakeEngine) -> None:
    engine.hold()
    warming = asyncio.create_task(session.warm(["a", "b", "c"], concurrency=1))
    await engine.wait_computed(1)
    await anyio.wait_all_tasks_blocked()
    engine.resume()
    await warming
    assert engine.peak == 1
    with pytest.raises(InvalidRequestError, match="concurrency=0"):
        await session.warm(["a"], concurrency=0)


async def test_the_budget_cancels_what_is_under_way(
    session: Session, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await session.generate("cached")
    engine.hold()
    warming = asyncio.create_task(
        session.warm(["cached", "b", "c", "d"], concurrency=2, budget_s=1000)
    )
    await engine.wait_computed(3)
    loop = asyncio.get_running_loop()
    now_s = loop.time
    monkeypatch.setattr(loop, "time", lambda: now_s() + 1000)
    report = await warming
    assert (report.warmed, report.already_cached, report.skipped) == (0, 1, 3)
    assert report.failed == ()
    await engine.wait_released(2)
    engine.resume()
    # The same call goes on where the budget ended.
    report = await session.warm(["cached", "b", "c", "d"])
    assert (report.warmed, report.already_cached) == (3, 1)
    assert (await session.warm(["e", "f"], budget_s=0)).skipped == 2


async def test_cancelling_stops_the_computations(session: Session, engine: FakeEngine) -> None:
    engine.hold()
    task = asyncio.create_task(session.warm(["a", "b", "c"], concurrency=2))
    await engine.wait_computed(2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    engine.resume()
    await engine.wait_released(2)
    assert session.statistics().flights == 0


async def test_one_failure_loses_nothing_else() -> None:
    def answer(request: GenerateRequest) -> str:
        if request.prompt == "bad":
            raise ValueError("no answer to that")
        return "fine"

    async with Session(engine=FakeEngine(answer)) as session:
        report = await session.warm(
            [
                "good",
                "bad",
                7,  # type: ignore[list-item]  # as a user might
                {"prompt": "p", "priority": "urgent"},
                {"prompt": "p", "seeds": "12"},
                {"prompt": "p", "seed": 1, "seeds": [2]},
                {"prompt": "p", "temprature": 1},
                {"prompt": "p", "seed": -1},
                {"seed": 1},
                {"messages": [{"role": "user", "content": "hi"}], "seeds": [1, 2]},
            ]
        )
    assert report.warmed == 3
    reasons = {failure.where: failure.reason for failure in report.failed}
    assert len(report.failed) == len(reasons) == 8
    assert "no answer to that" in reasons["prompts[1]"]
    assert "7 is not allowed" in reasons["prompts[2]"]
    assert "priority='urgent'" in reasons["prompts[3]"]
    assert "seeds='12'" in reasons["prompts[4]"]
    assert "not both" in reasons["prompts[5]"]
    assert "did you mean 'temperature'" in reasons["prompts[6]"]
    assert "seed=-1" in reasons["prompts[7]"]
    assert "neither was given" in reasons["prompts[8]"]
    assert str(report.failed[0]).startswith("prompts[2] (7): ")


async def test_an_answer_that_is_not_kept_is_a_failure() -> None:
    engine = FakeEngine(lambda request: "too long " * 10_000)
    async with Session(engine=engine, generation_cache_max_size_mb=0.01) as session:
        report = await session.warm(["a"], max_new_tokens=100_000)
    assert report.warmed == 0
    assert "has not stored it" in report.failed[0].reason


async def test_a_disabled_cache_is_said_and_nothing_is_computed_in_vain(
    engine: FakeEngine,
) -> None:
    async with Session(engine=engine, disable_cache=True) as session:
        report = await session.warm(["a", "b"])
    assert [type(failure.error) for failure in report.failed] == [asteady.StoreError] * 2
    assert "ASTEADY_DISABLE_CACHE" in report.failed[0].reason
    assert engine.computed == []


async def test_progress_is_told_and_may_fail(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[WarmProgress] = []

    def on_progress(progress: WarmProgress) -> None:
        told.append(progress)
        if progress.done == 1:
            raise RuntimeError("a listener's mistake")

    await session.generate("a")
    await session.warm(["a", "b", {"prompt": ""}], concurrency=1, on_progress=on_progress)
    assert [(p.done, p.total, p.outcome, p.prompt) for p in told] == [
        (1, 3, "already_cached", "a"),
        (2, 3, "warmed", "b"),
        (3, 3, "failed", "{'prompt': ''}"),
    ]
    assert isinstance(told[2].error, InvalidRequestError)
    assert "a listener's mistake" in caplog.text


async def test_an_async_iterator_is_asked_as_it_goes(session: Session, engine: FakeEngine) -> None:
    asked: list[int] = []

    async def source() -> AsyncIterator[str]:
        for n in range(4):
            asked.append(n)
            yield f"prompt {n}"
        raise OSError("the feed broke")

    told: list[WarmProgress] = []
    engine.hold()
    task = asyncio.create_task(
        session.warm(source(), concurrency=2, on_progress=told.append, seeds=[1, 2])
    )
    await engine.wait_computed(2)
    await anyio.wait_all_tasks_blocked()
    assert asked == [0]
    engine.resume()
    report = await task
    assert report.warmed == 8
    assert [failure.reason for failure in report.failed] == ["OSError: the feed broke"]
    assert told[0].total is None
    again = await session.warm(source())
    assert again.warmed == 4


async def test_a_json_lines_file_is_read_line_by_line(session: Session, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    lines: list[Any] = ["one", {"prompt": "two", "seed": 7, "max_new_tokens": 9}]
    text = "\ufeff" + "\n".join(map(json.dumps, lines)) + "\n\nnot json\n"
    file.write_bytes(text.encode() + b"\xff\n")
    report = await session.warm(file)
    assert report.warmed == 2
    assert [failure.where for failure in report.failed] == ["line 4", "line 5"]
    assert await session.is_cached("two", seed=7, max_new_tokens=9)
    with pytest.raises(FileNotFoundError):
        await session.warm(tmp_path / "missing")


async def test_mistakes_in_the_call_are_refused(session: Session) -> None:
    with pytest.raises(InvalidRequestError, match="prompts is one str"):
        await session.warm("prompts.jsonl")
    with pytest.raises(InvalidRequestError, match="prompts=7"):
        await session.warm(7)  # type: ignore[arg-type]  # as a user might
    with pytest.raises(InvalidRequestError, match="seeds=\\[\\]"):
        await session.warm(["a"], seeds=[])
    with pytest.raises(InvalidRequestError, match="did you mean 'seeds'"):
        await session.warm(["a"], seed=1)


async def test_a_session_that_closes_ends_the_warming(engine: FakeEngine) -> None:
    session = Session(engine=engine)
    with pytest.raises(SessionNotOpenError):
        await session.warm(["a"])
    await session.open()
    engine.hold()
    warming = asyncio.create_task(session.warm(["a", "b", "c"], concurrency=1))
    await engine.wait_computed(1)
    await session.aclose()
    with pytest.raises(SessionClosedError):
        await warming


async def test_the_guides_names(session: Session, engine: FakeEngine) -> None:
    assert (await warm_cache_sequential(["a", "b"], session=session)).warmed == 2
    assert engine.peak == 1
    report = await warm_cache_parallel(["a", "c"], [42, 7], max_workers=2, session=session)
    assert (report.warmed, report.already_cached) == (3, 1)
    assert await session.is_cached("a", max_new_tokens=100)


async def test_the_strategic_warmer_goes_by_priority(session: Session, engine: FakeEngine) -> None:
    warmer = StrategicCacheWarmer(session)
    warmer.add_prompts(["late"], priority="low")
    warmer.add_prompts(["middle", {"prompt": "other", "seed": 3}])
    warmer.add_prompts(["first"], priority="high")
    with pytest.raises(InvalidRequestError, match="priority='urgent'"):
        warmer.add_prompts([], priority="urgent")  # type: ignore[arg-type]  # as a user might
    report = await warmer.warm_cache(available_time=60.0)
    assert prompts(engine)[0] == "first"
    assert prompts(engine)[-1] == "late"
    assert report.by_priority == {"high": 1, "medium": 2, "low": 1}
    assert (await warmer.warm_cache(available_time=None)).already_cached == 4


async def test_the_default_session_warms_too_on_the_real_model() -> None:
    try:
        report = await asteady.warm(["Write a haiku about caching"], max_new_tokens=4)
        assert report.warmed == 1
        answer = await asteady.complete("Write a haiku about caching", max_new_tokens=4)
        assert answer.cached
    finally:
        await asteady.aclose()
