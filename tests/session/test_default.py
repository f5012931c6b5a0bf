"""The module's functions, over one default session per event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

import asteady
from asteady._session import default as _default

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
async def _closed_afterwards() -> AsyncIterator[None]:
    yield
    await asteady.aclose()


async def test_it_opens_at_the_first_use_and_once() -> None:
    sessions = await asyncio.gather(*(_default.default_session() for _ in range(10)))
    assert len(set(map(id, sessions))) == 1
    assert sessions[0].is_open


async def test_all_functions_use_it() -> None:
    text = await asteady.generate("Write a haiku about caching", max_new_tokens=8)
    assert await asteady.is_cached("Write a haiku about caching", max_new_tokens=8)
    answer = await asteady.complete("Write a haiku about caching", max_new_tokens=8)
    assert answer.text == text
    assert answer.cached
    async with asteady.stream("Write a haiku about caching", max_new_tokens=8) as stream:
        assert [chunk async for chunk in stream] == list(answer.chunks)
    vector = await asteady.embed("async cache")
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


async def test_the_cache_manager_can_be_asked_first() -> None:
    manager = asteady.get_cache_manager()
    stats = await manager.get_cache_stats()
    assert stats["generation"]["size"] == 0
    await asteady.generate("hi", max_new_tokens=4)
    assert asteady.get_cache_manager() is manager
    assert (await manager.get_cache_stats())["generation"]["size"] == 1
    await manager.clear_all_caches()
    assert not await asteady.is_cached("hi", max_new_tokens=4)


async def test_after_aclose_the_next_call_opens_another() -> None:
    first = await _default.default_session()
    await asteady.aclose()
    await asteady.aclose()
    second = await _default.default_session()
    assert first is not second
    assert first.is_closed


async def test_an_unopened_session_s_cache_says_what_to_do() -> None:
    session = asteady.Session()
    with pytest.raises(asteady.SessionNotOpenError, match="open the session first"):
        await session.cache.get_cache_stats()


async def test_concurrent_first_calls_are_all_answered() -> None:
    texts = await asyncio.gather(
        asteady.generate("one", max_new_tokens=2),
        asteady.generate("two", max_new_tokens=2),
        asteady.generate("one", max_new_tokens=2),
        asteady.get_cache_manager().get_cache_stats(),
        asteady.embed("one"),
    )
    assert texts[0] == texts[2]
    assert len(texts) == 5
