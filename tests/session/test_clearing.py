"""What was asked for before a clear is not stored after it, here and in other processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import pytest

from asteady import GenerateRequest, Session
from asteady.testing import FakeEngine

pytestmark = pytest.mark.anyio

Clear: TypeAlias = Callable[[Session], Awaitable[object]]


@pytest.fixture
async def other() -> AsyncIterator[Session]:
    """Another session on the same cache; it shares nothing else, as if in another process."""
    async with Session(engine=FakeEngine()) as session:
        yield session


async def clear_all(session: Session) -> None:
    await session.cache.clear_all_caches()


async def clear_above(session: Session) -> None:
    await session.namespace("tenants").clear()


async def delete(session: Session) -> None:
    key = GenerateRequest.of("private").key(FakeEngine().fingerprint)
    assert not await session.cache.generation.delete(key)


CLEARS = pytest.mark.parametrize("clear", [clear_all, clear_above, delete])


@CLEARS
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_an_answer_asked_for_before_is_delivered_but_not_stored(
    session: Session, other: Session, engine: FakeEngine, clear: Clear, elsewhere: bool
) -> None:
    engine.hold()
    asked = asyncio.create_task(session.namespace("tenants/a").generate("private"))
    await engine.wait_computed(1)
    await clear(other if elsewhere else session)
    engine.resume()
    assert await asked == "You said: private"
    assert not await session.is_cached("private")
    assert not await other.is_cached("private")
    assert await session.namespace("tenants/a").generate("private") == "You said: private"
    assert len(engine.computed) == 2
    assert await other.is_cached("private")


@CLEARS
async def test_who_asks_after_it_does_not_join_the_old_computation(
    session: Session, engine: FakeEngine, clear: Clear
) -> None:
    engine.hold()
    namespace = session.namespace("tenants/a")
    before = asyncio.create_task(namespace.generate("private"))
    await engine.wait_computed(1)
    await clear(session)
    after = asyncio.create_task(namespace.generate("private"))
    engine.resume()
    assert await before == await after
    assert len(engine.computed) == 2
    assert await session.is_cached("private")


async def test_a_cleared_namespace_is_none_of_the_others_business(
    session: Session, engine: FakeEngine
) -> None:
    engine.hold()
    asked = asyncio.create_task(session.namespace("tenants/a").generate("private"))
    plain = asyncio.create_task(session.generate("of nobody"))
    await engine.wait_computed(2)
    await session.namespace("tenants/ab").clear()
    await session.namespace("tenant").clear()
    engine.resume()
    await asked
    await plain
    assert await session.is_cached("private")
    assert await session.is_cached("of nobody")
