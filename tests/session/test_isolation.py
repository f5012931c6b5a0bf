"""Isolated namespaces: nothing is shared with calls from elsewhere."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from asteady import InvalidRequestError, Namespace, Session
from asteady.testing import FakeEngine

pytestmark = pytest.mark.anyio


async def test_no_answer_is_shared_with_calls_from_elsewhere(
    session: Session, engine: FakeEngine
) -> None:
    tenant = session.namespace("tenants/a", isolated=True)
    callers = [
        tenant,
        session,
        session.namespace("tenants/a"),
        session.namespace("tenants/b", isolated=True),
    ]
    for caller in callers[1:]:
        await caller.generate("private")
        await caller.embed("private")
    # Two are one request: the plain namespace only tags the session's.
    assert len(engine.computed) == 4
    assert not await tenant.is_cached("private")
    with pytest.raises(Exception, match="not in the cache"):
        await tenant.generate("private", cache="only")
    for _ in range(2):
        await tenant.generate("private")
        await tenant.embed("private")
    assert len(engine.computed) == 6


async def test_computations_are_not_shared_either(session: Session, engine: FakeEngine) -> None:
    engine.hold()
    asked = [
        asyncio.create_task(caller.generate("private"))
        for caller in (session, session.namespace("a", isolated=True))
    ]
    await engine.wait_computed(2)
    engine.resume()
    await asyncio.gather(*asked)


async def test_what_is_made_from_it_is_isolated_with_it(
    session: Session, engine: FakeEngine
) -> None:
    tenant = session.namespace("a", isolated=True)
    await tenant.generate("private")
    below = tenant.namespace("emails")
    await below.generate("private")
    assert len(engine.computed) == 1
    assert below.isolation == "a"
    own = tenant.namespace("emails", isolated=True)
    await own.generate("private")
    assert len(engine.computed) == 2

    # A declared prefix finds its answers by other arguments, also in memory.
    for caller in (session.namespace("a"), tenant, session.namespace("b", isolated=True)):
        for _ in range(2):
            await caller.prefix("You are brief.").generate("private")
    assert len(engine.computed) == 5

    report = await tenant.warm(["private", "another"])
    assert (report.already_cached, report.warmed) == (1, 1)
    assert not await session.is_cached("another")


async def test_it_survives_a_restart_an_export_and_a_verification(tmp_path: Path) -> None:
    async with Session(engine=FakeEngine()) as session:
        await session.namespace("a", isolated=True).generate("private", seed=7)
        await session.cache.export_entries(tmp_path / "exported")
        (entry,) = await session.cache.generation.entries()
        request = await session.cache.generation.request(entry.key)
        assert request is not None
        assert request.isolation == "a"
        await session.cache.clear_all_caches()
        await session.cache.import_entries(tmp_path / "exported")
    async with Session(engine=FakeEngine()) as session:
        assert await session.namespace("a", isolated=True).is_cached("private", seed=7)
        assert not await session.is_cached("private", seed=7)
        imported = await session.cache.generation.request(entry.key)
        assert imported == request


def test_blocking_and_async_namespaces_are_alike() -> None:
    from asteady import blocking

    with blocking.Session(engine=FakeEngine()) as session:
        tenant = session.namespace("a", isolated=True)
        tenant.generate("private")
        assert tenant.namespace("b").is_cached("private")
        assert not tenant.namespace("b", isolated=True).is_cached("private")
        assert not session.is_cached("private")
        assert "isolated in a" in repr(tenant)


async def test_isolated_is_true_or_false(session: Session) -> None:
    with pytest.raises(InvalidRequestError, match="isolated='yes' is not allowed: True or False"):
        session.namespace("a", isolated="yes")  # type: ignore[arg-type]


async def test_what_is_reused_of_prompts_is_isolated_too() -> None:
    beginning = "Once upon a time there was a cache that remembered everything. " * 8
    async with Session(workers=1) as session:
        acme = session.namespace("acme", isolated=True)
        globex = session.namespace("globex", isolated=True)

        async def reused(calls: Session | Namespace, end: str) -> int:
            answer = await calls.complete(beginning + end, max_new_tokens=1, raw=True)
            return answer.reused_tokens

        assert await reused(acme, "It") == 0
        assert await reused(globex, "It") == 0
        assert await reused(session, "It") == 0
        assert await reused(acme, "It forgot") >= 64
        assert await reused(globex, "A queue") >= 64
        assert await reused(session, "A queue") >= 64
