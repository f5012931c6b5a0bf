"""Fallbacks and batches: which prompt is used, in which order, and what goes on behind."""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter
from typing import Any

import anyio
import pytest

from asteady import CacheMissError, InvalidRequestError, Session
from asteady._base.requests import GenerateRequest
from asteady.operate import CacheAwareGenerator
from asteady.testing import FakeEngine

pytestmark = pytest.mark.anyio


async def test_is_cached_is_exact(session: Session) -> None:
    aware = CacheAwareGenerator(session)
    assert not await aware.is_cached("hi", seed=1)
    await session.generate("hi", seed=1)
    assert await aware.is_cached("hi", seed=1)
    assert await aware.is_likely_cached("hi", seed=1)
    assert not await aware.is_likely_cached("hi", seed=2)


async def test_is_likely_cached_takes_the_seed_second(session: Session) -> None:
    aware = CacheAwareGenerator(session)
    await session.generate("hi", seed=7)
    assert await aware.is_likely_cached("hi", 7)
    assert not await aware.is_likely_cached("hi")


async def test_the_primary_is_used_if_cached(session: Session, engine: FakeEngine) -> None:
    aware = CacheAwareGenerator(session)
    await session.generate("primary")
    await session.generate("fallback")
    text, used_fallback = await aware.generate_with_fallback("primary", "fallback")
    assert (text, used_fallback) == ("You said: primary", False)
    assert len(engine.computed) == 2


async def test_the_fallback_is_used_if_only_it_is_cached(
    session: Session, engine: FakeEngine
) -> None:
    aware = CacheAwareGenerator(session)
    await session.generate("fallback", max_new_tokens=9)
    told = await aware.generate_with_fallback("primary", "fallback", max_new_tokens=9)
    assert told.used_fallback
    assert told.text == "You said: fallback"
    assert aware.background == 0
    assert len(engine.computed) == 1
    assert session.cache.generation.counters.misses == 1


async def test_the_primary_is_computed_if_neither_is_cached(session: Session) -> None:
    aware = CacheAwareGenerator(session)
    assert await aware.generate_with_fallback("primary", "fallback") == ("You said: primary", False)
    assert await aware.generate_with_fallback("other") == ("You said: other", False)
    assert not await session.is_cached("fallback")


async def test_the_primary_is_computed_in_the_background(
    session: Session, engine: FakeEngine
) -> None:
    aware = CacheAwareGenerator(session)
    await session.generate("fallback")
    engine.hold()

    async def ask() -> bool:
        return (
            await aware.generate_with_fallback("primary", "fallback", background=True)
        ).used_fallback

    # The callers are gone before it is done; it is the session's.
    assert await asyncio.create_task(ask())
    assert await asyncio.create_task(ask())
    assert aware.background == 1
    await engine.wait_computed(2)
    engine.resume()
    await aware.wait_background()
    assert aware.background == 0
    # The second one who asked started nothing that would have joined the first one's.
    assert session.cache.generation.counters.coalesced == 0
    assert not await ask()
    assert len(engine.computed) == 2


async def test_a_failure_in_the_background_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def answer(request: GenerateRequest) -> str:
        if request.prompt == "primary":
            raise ValueError("no answer to that")
        return "fine"

    async with Session(engine=FakeEngine(answer)) as session:
        aware = CacheAwareGenerator(session)
        await session.generate("fallback")
        with caplog.at_level(logging.WARNING, "asteady"):
            await aware.generate_with_fallback("primary", "fallback", background=True)
            await aware.wait_background()
        assert "no answer to that" in caplog.text
        assert session.is_open
        assert await session.generate("another") == "fine"


async def test_an_unexpected_failure_in_the_background_does_not_close_the_session(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    aware = CacheAwareGenerator(session)
    await session.generate("fallback")
    real = session.generate

    async def failing(prompt: str, **options: Any) -> str:
        if prompt == "primary":
            raise RuntimeError("a bug")
        text: str = await real(prompt, **options)
        return text

    monkeypatch.setattr(session, "generate", failing)
    await aware.generate_with_fallback("primary", "fallback", background=True)
    await aware.wait_background()
    assert "a bug" in caplog.text
    assert await real("another")


async def test_a_timeout_cancels_the_computation(session: Session, engine: FakeEngine) -> None:
    aware = CacheAwareGenerator(session)
    engine.hold()
    with pytest.raises(TimeoutError, match=r"not answered in 0\.05 s"):
        await aware.generate_with_fallback("primary", "fallback", timeout_s=0.05)
    engine.resume()
    await engine.wait_idle()
    assert not await session.is_cached("primary")


async def test_a_background_computation_continues_after_the_timeout(
    session: Session, engine: FakeEngine
) -> None:
    aware = CacheAwareGenerator(session)
    engine.hold()
    with pytest.raises(TimeoutError):
        await aware.generate_with_fallback("primary", timeout_s=0.05, background=True)
    engine.resume()
    await aware.wait_background()
    assert await session.is_cached("primary")
    assert len(engine.computed) == 1


async def test_closing_the_session_ends_the_background(engine: FakeEngine) -> None:
    async with Session(engine=engine) as session:
        aware = CacheAwareGenerator(session)
        await session.generate("fallback")
        engine.hold()
        await aware.generate_with_fallback("primary", "fallback", background=True)
        await engine.wait_computed(2)
    with anyio.fail_after(60):
        await aware.wait_background()
    engine.resume()


async def test_a_fallback_that_is_evicted_meanwhile_is_not_computed(
    session: Session, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    aware = CacheAwareGenerator(session)
    real = session.generate

    async def evicted(prompt: str, **options: Any) -> str:
        if options.get("cache") == "only":
            raise CacheMissError("evicted since we looked")
        text: str = await real(prompt, **options)
        return text

    await session.generate("fallback")
    monkeypatch.setattr(session, "generate", evicted)
    assert not (await aware.generate_with_fallback("primary", "fallback")).used_fallback


async def test_a_batch_is_in_order_and_cached_ones_come_first(
    session: Session, engine: FakeEngine
) -> None:
    aware = CacheAwareGenerator(session)
    await session.generate("known", seed=3)
    engine.hold()
    began_s = perf_counter()
    batch = asyncio.create_task(
        aware.batch_generate_optimized(["new", "known", "other", "new", "known"], seed=3)
    )
    await engine.wait_computed(3)
    # The cached prompt was answered while the engine holds those before it in the batch.
    assert session.cache.generation.counters.hits == 1
    known_after_s = perf_counter() - began_s
    engine.resume()
    results, stats = await batch
    assert results == [f"You said: {p}" for p in ("new", "known", "other", "new", "known")]
    assert (stats.total, stats.unique, stats.cached, stats.uncached) == (5, 3, 1, 2)
    assert stats.cache_rate == pytest.approx(100 / 3)
    assert stats.avg_uncached_time_s > 0
    # The others took longer than this.
    assert 0 < stats.avg_cached_time_s < known_after_s
    assert len(engine.computed) == 3


async def test_an_empty_batch_and_invalid_arguments(session: Session) -> None:
    aware = CacheAwareGenerator(session)
    results, stats = await aware.batch_generate_optimized([])
    assert results == []
    assert stats.cache_rate == 0.0
    with pytest.raises(InvalidRequestError, match="one str"):
        await aware.batch_generate_optimized("hi")
    with pytest.raises(InvalidRequestError, match="concurrency=0"):
        await aware.batch_generate_optimized(["hi"], concurrency=0)
