"""Namespaces: one entry for all who ask."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from asteady import Session
from asteady._base.errors import (
    AsteadyError,
    CacheMissError,
    InvalidRequestError,
    SessionClosedError,
    SessionNotOpenError,
)
from asteady._cache.store.api import Tag
from asteady.testing import FakeEngine
from tests.operate.namespaced import held, writes

pytestmark = pytest.mark.anyio


async def test_two_namespaces_and_plain_calls_share_one_entry(
    session: Session, engine: FakeEngine
) -> None:
    emails, docs = session.namespace("emails/marketing"), session.namespace("docs")
    texts = {
        await emails.generate("hello", seed=7),
        await docs.generate("hello", seed=7),
        await session.generate("hello", seed=7),
        (await docs.complete("hello", seed=7)).text,
    }
    assert len(texts) == len(engine.computed) == 1
    assert len(await session.cache.generation.keys()) == 1
    assert await held(session, "emails/marketing") == await held(session, "docs") == 1


async def test_a_computed_answer_is_held_in_the_commit_that_stores_it(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = await writes(session.cache.generation, monkeypatch)
    monkeypatch.setattr(
        await session.cache.generation.ready(), "tagged", None
    )  # nor is it looked for
    await session.namespace("emails").generate("hello")
    (put,) = submitted
    assert put.namespaces == ("emails",)  # type: ignore[attr-defined]  # a Put


async def test_a_warm_hit_under_a_namespace_reads_and_writes_nothing(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    emails = session.namespace("emails")
    first = await emails.generate("hello")
    submitted = await writes(session.cache.generation, monkeypatch)
    monkeypatch.setattr(await session.cache.generation.ready(), "tagged", None)
    for _ in range(3):
        assert await session.namespace("emails").generate("hello") == first
        assert (await emails.complete("hello")).cached
    assert not [op for op in submitted if isinstance(op, Tag)]


async def test_what_is_known_without_a_namespace_is_held_from_the_first_call_under_one(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    await session.generate("hello")
    assert await held(session, "emails") == 0
    submitted = await writes(session.cache.generation, monkeypatch)
    for _ in range(3):
        await session.namespace("emails").generate("hello")
    assert len([op for op in submitted if isinstance(op, Tag)]) == 1
    assert await held(session, "emails") == 1


async def test_a_stream_is_held_when_it_was_read_to_its_end(session: Session) -> None:
    emails = session.namespace("emails")
    async with emails.stream("one two three") as stream:
        chunks = [chunk async for chunk in stream]
    assert "".join(chunks) == stream.answer.text
    assert await held(session, "emails") == 1
    async with session.namespace("docs").stream("one two three") as stream:
        assert [chunk async for chunk in stream] == chunks
        assert await held(session, "docs") == 1


async def test_a_stream_that_is_left_early_holds_nothing(session: Session) -> None:
    await session.generate("one two three")
    async with session.namespace("emails").stream("one two three") as stream:
        await anext(stream)
    assert await held(session, "emails") == 0


async def test_embeddings_are_held_one_by_one(session: Session, engine: FakeEngine) -> None:
    emails = session.namespace("emails")
    one = await emails.embed("a text")
    matrix = await emails.embed(["a text", "another"])
    assert matrix.shape == (2, *one.shape)
    batches = [b async for b in emails.embed_batches(["another", "third"], batch_size=1)]
    assert len(batches) == 2
    again = await session.namespace("docs").embed(["a text", "another", "third"])
    assert (again[0] == one).all()
    assert len(engine.computed) == 3
    for path in ("emails", "docs"):
        assert (await session.cache.namespace_size(path)).embedding.entries == 3


async def test_the_modes_are_the_session_s(session: Session, engine: FakeEngine) -> None:
    emails = session.namespace("emails")
    with pytest.raises(CacheMissError):
        await emails.generate("hello", cache="only")
    await emails.generate("hello", cache="bypass")
    assert await held(session, "emails") == 0
    await session.generate("hello")
    await emails.generate("hello", cache="bypass")
    assert await held(session, "emails") == 0
    assert await emails.generate("hello", cache="only")
    assert await held(session, "emails") == 1
    await session.namespace("docs").generate("hello", cache="refresh")
    assert await held(session, "docs") == await held(session, "emails") == 1
    assert len(engine.computed) == 4
    asked = (await session.namespace("docs").statistics()).generation
    assert (asked.hits, asked.misses) == (0, 0)  # no look-ups
    with pytest.raises(InvalidRequestError, match="cache='sometimes'"):
        await emails.generate("hello", cache="sometimes")  # type: ignore[arg-type]  # no mode


async def test_is_cached_looks_at_the_answer_and_holds_nothing(session: Session) -> None:
    emails = session.namespace("emails")
    assert not await emails.is_cached("hello")
    await session.generate("hello")
    assert await emails.is_cached("hello")
    assert await held(session, "emails") == 0


async def test_namespaces_that_ask_at_once_share_the_flight_and_all_hold_the_answer(
    session: Session, engine: FakeEngine
) -> None:
    engine.hold()
    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(asking.generate("hello"))
            for asking in (session.namespace("a"), session, session.namespace("b/c"))
        ]
        await engine.wait_computed(1)
        await anyio.wait_all_tasks_blocked()
        engine.resume()
    assert len({task.result() for task in asked}) == len(engine.computed) == 1
    assert await held(session, "a") == await held(session, "b") == 1
    counts = [(await session.namespace(path).statistics()).generation for path in ("a", "b/c")]
    assert [(c.misses, c.coalesced) for c in counts] == [(1, 0), (0, 1)]


async def test_one_who_joins_while_the_answer_is_written_holds_it_too(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, written = session.cache.generation, asyncio.Event()
    put, go_on = cache.put, asyncio.Event()

    async def slow(*args: Any, **kwargs: Any) -> bool:
        stored = await put(*args, **kwargs)
        written.set()
        await go_on.wait()
        return stored

    monkeypatch.setattr(cache, "put", slow)
    async with asyncio.TaskGroup() as group:
        group.create_task(session.namespace("a").complete("hello", seed=1))
        await written.wait()
        cache.memory.clear()  # else it would be found in memory
        group.create_task(session.namespace("b").complete("hello", seed=1))
        await anyio.wait_all_tasks_blocked()
        go_on.set()
    assert await held(session, "a") == await held(session, "b") == 1


async def test_a_thousand_who_ask_at_once_cost_one_look_and_one_write(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    await session.generate("hello")
    store, looks = await session.cache.generation.ready(), []
    tagged = store.tagged

    async def looked(key: str, namespace: str) -> bool:
        looks.append(namespace)
        return await tagged(key, namespace)

    monkeypatch.setattr(store, "tagged", looked)
    submitted = await writes(session.cache.generation, monkeypatch)
    emails, docs = session.namespace("emails"), session.namespace("docs")
    await asyncio.gather(*(emails.generate("hello") for _ in range(1000)), docs.generate("hello"))
    assert sorted(looks) == ["docs", "emails"]
    assert len([op for op in submitted if isinstance(op, Tag)]) == 2
    assert (await emails.statistics()).generation.hits == 1000


async def test_a_caller_that_is_cancelled_while_it_is_written_leaves_the_others_waiting(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    await session.generate("hello")
    store, go_on, looks = await session.cache.generation.ready(), asyncio.Event(), []
    tagged = store.tagged

    async def slow(key: str, namespace: str) -> bool:
        looks.append(namespace)
        await go_on.wait()
        return await tagged(key, namespace)

    monkeypatch.setattr(store, "tagged", slow)
    emails = session.namespace("emails")
    first = asyncio.ensure_future(emails.generate("hello"))
    await anyio.wait_all_tasks_blocked()
    other = asyncio.ensure_future(emails.generate("hello"))
    await anyio.wait_all_tasks_blocked()
    first.cancel()
    await asyncio.wait([first])
    await anyio.wait_all_tasks_blocked()
    assert first.cancelled()
    assert not other.done()
    go_on.set()
    assert await other == await session.generate("hello")
    assert await held(session, "emails") == len(looks) == 1
    assert not session.cache.generation.pending_tags


async def test_who_asks_after_a_clear_does_not_wait_for_a_look_before_it(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    emails, docs = session.namespace("emails"), session.namespace("docs")
    for asking in (emails, docs):
        await asking.generate("hello")
    cache, go_on = session.cache.generation, asyncio.Event()
    cache.forget_tags()  # as after a removal by another process
    tagged = (await cache.ready()).tagged

    async def late(key: str, namespace: str) -> bool:
        found = await tagged(key, namespace)
        await go_on.wait()
        return found

    monkeypatch.setattr(await cache.ready(), "tagged", late)
    early = asyncio.ensure_future(emails.generate("hello"))
    await anyio.wait_all_tasks_blocked()
    # The thread that reads has its own pace.
    await (await cache.ready()).removals()
    await emails.clear()
    monkeypatch.setattr(await cache.ready(), "tagged", tagged)
    with anyio.fail_after(10):
        await emails.generate("hello")
    assert await held(session, "emails") == 1
    go_on.set()
    await early
    assert not cache.pending_tags


async def test_a_failure_is_nobody_s(session: Session) -> None:
    emails = session.namespace("emails")
    with pytest.raises(InvalidRequestError, match="prompt"):
        await emails.generate("")
    with pytest.raises(InvalidRequestError, match="did you mean 'seed'"):
        await emails.generate("hello", sede=1)  # type: ignore[call-arg]  # no such option
    assert (await emails.statistics()).both.misses == 0


@pytest.mark.parametrize("streaming", [False, True])
async def test_an_engine_s_error_reaches_the_caller_and_is_a_miss(streaming: bool) -> None:
    def fail(_: object) -> str:
        raise ArithmeticError("no answer")

    async with Session(engine=FakeEngine(fail)) as session:
        emails = session.namespace("emails")

        async def ask() -> None:
            if streaming:
                async with emails.stream("hello") as stream:
                    await stream.read()
            else:
                await emails.generate("hello")

        with pytest.raises((AsteadyError, ArithmeticError), match="no answer"):
            await ask()
        counts = (await emails.statistics()).generation
        assert (counts.entries, counts.hits, counts.misses) == (0, 0, 1)


async def test_a_store_that_fails_costs_no_answer(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    await session.generate("hello")
    await (await session.cache.generation.ready()).aclose()
    assert await session.namespace("emails").generate("hello")
    assert "closed" in caplog.text
    assert session.cache.generation.counters.errors == 1


async def test_a_disabled_cache_holds_nothing(engine: FakeEngine) -> None:
    async with Session(engine=engine, disable_cache=True) as session:
        emails = session.namespace("emails")
        for _ in range(2):
            await emails.generate("hello")
            await emails.embed("hello")
        assert (await emails.statistics()).both.entries == 0
        assert await emails.entries() == []
        assert await emails.children() == []
        assert await emails.clear() == 0
    assert len(engine.computed) == 4


async def test_before_the_session_opens_it_says_so(engine: FakeEngine) -> None:
    emails = Session(engine=engine).namespace("emails")
    with pytest.raises(SessionNotOpenError):
        await emails.generate("hello")
    for ask in (emails.statistics, emails.entries, emails.children, emails.clear):
        with pytest.raises(SessionNotOpenError):
            await ask()


async def test_a_closed_cache_is_not_told_to_be_empty(engine: FakeEngine) -> None:
    async with Session(engine=engine) as session:
        emails = session.namespace("emails")
        await emails.generate("hello")
    for ask in (emails.statistics, emails.entries, emails.children, emails.clear):
        with pytest.raises(SessionClosedError):
            await ask()
    with pytest.raises(SessionClosedError):
        await emails.generate("hello")
