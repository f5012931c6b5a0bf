"""Namespaces: tags on entries that all callers share."""

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
from tests.operate.helpers import tagged_entries, writes

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
    assert (
        await tagged_entries(session, "emails/marketing")
        == await tagged_entries(session, "docs")
        == 1
    )


async def test_a_computed_answer_is_tagged_in_the_commit_that_stores_it(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = await writes(session.cache.generation, monkeypatch)
    # Reading the tag would call None.
    monkeypatch.setattr(await session.cache.generation.ready(), "tagged", None)
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


async def test_a_cached_entry_is_tagged_by_the_first_call_in_a_namespace(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    await session.generate("hello")
    assert await tagged_entries(session, "emails") == 0
    submitted = await writes(session.cache.generation, monkeypatch)
    for _ in range(3):
        await session.namespace("emails").generate("hello")
    assert len([op for op in submitted if isinstance(op, Tag)]) == 1
    assert await tagged_entries(session, "emails") == 1


async def test_a_stream_is_tagged_when_it_was_read_to_its_end(session: Session) -> None:
    emails = session.namespace("emails")
    async with emails.stream("one two three") as stream:
        chunks = [chunk async for chunk in stream]
    assert "".join(chunks) == stream.answer.text
    assert await tagged_entries(session, "emails") == 1
    async with session.namespace("docs").stream("one two three") as stream:
        assert [chunk async for chunk in stream] == chunks
        assert await tagged_entries(session, "docs") == 1


async def test_a_stream_that_is_left_early_is_not_tagged(session: Session) -> None:
    await session.generate("one two three")
    async with session.namespace("emails").stream("one two three") as stream:
        await anext(stream)
    assert await tagged_entries(session, "emails") == 0


async def test_each_embedding_is_tagged(session: Session, engine: FakeEngine) -> None:
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


async def test_cache_modes_work_as_in_the_session(session: Session, engine: FakeEngine) -> None:
    emails = session.namespace("emails")
    with pytest.raises(CacheMissError):
        await emails.generate("hello", cache="only")
    await emails.generate("hello", cache="bypass")
    assert await tagged_entries(session, "emails") == 0
    await session.generate("hello")
    await emails.generate("hello", cache="bypass")
    assert await tagged_entries(session, "emails") == 0
    assert await emails.generate("hello", cache="only")
    assert await tagged_entries(session, "emails") == 1
    await session.namespace("docs").generate("hello", cache="refresh")
    assert await tagged_entries(session, "docs") == await tagged_entries(session, "emails") == 1
    assert len(engine.computed) == 4
    counts = (await session.namespace("docs").statistics()).generation
    assert (counts.hits, counts.misses) == (0, 0)  # no lookups
    with pytest.raises(InvalidRequestError, match="cache='sometimes'"):
        await emails.generate("hello", cache="sometimes")  # type: ignore[call-overload]  # no mode


async def test_is_cached_ignores_tags_and_writes_none(session: Session) -> None:
    emails = session.namespace("emails")
    assert not await emails.is_cached("hello")
    await session.generate("hello")
    assert await emails.is_cached("hello")
    assert await tagged_entries(session, "emails") == 0


async def test_concurrent_calls_in_several_namespaces_share_the_flight_and_all_tag_the_entry(
    session: Session, engine: FakeEngine
) -> None:
    engine.hold()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(calls.generate("hello"))
            for calls in (session.namespace("a"), session, session.namespace("b/c"))
        ]
        await engine.wait_computed(1)
        await anyio.wait_all_tasks_blocked()
        engine.resume()
    assert len({task.result() for task in tasks}) == len(engine.computed) == 1
    assert await tagged_entries(session, "a") == await tagged_entries(session, "b") == 1
    counts = [(await session.namespace(path).statistics()).generation for path in ("a", "b/c")]
    assert [(c.misses, c.coalesced) for c in counts] == [(1, 0), (0, 1)]


async def test_a_caller_that_joins_while_the_answer_is_written_tags_it_too(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, written = session.cache.generation, asyncio.Event()
    put, proceed = cache.put, asyncio.Event()

    async def slow(*args: Any, **kwargs: Any) -> bool:
        stored = await put(*args, **kwargs)
        written.set()
        await proceed.wait()
        return stored

    monkeypatch.setattr(cache, "put", slow)
    async with asyncio.TaskGroup() as group:
        group.create_task(session.namespace("a").complete("hello", seed=1))
        await written.wait()
        cache.memory.clear()  # else it would be found in memory
        group.create_task(session.namespace("b").complete("hello", seed=1))
        await anyio.wait_all_tasks_blocked()
        proceed.set()
    assert await tagged_entries(session, "a") == await tagged_entries(session, "b") == 1


async def test_a_thousand_concurrent_calls_cost_one_tag_read_and_one_write(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    await session.generate("hello")
    store, reads = await session.cache.generation.ready(), []
    tagged = store.tagged

    async def counted(key: str, namespace: str) -> bool:
        reads.append(namespace)
        return await tagged(key, namespace)

    monkeypatch.setattr(store, "tagged", counted)
    submitted = await writes(session.cache.generation, monkeypatch)
    emails, docs = session.namespace("emails"), session.namespace("docs")
    await asyncio.gather(*(emails.generate("hello") for _ in range(1000)), docs.generate("hello"))
    assert sorted(reads) == ["docs", "emails"]
    assert len([op for op in submitted if isinstance(op, Tag)]) == 2
    assert (await emails.statistics()).generation.hits == 1000


async def test_cancelling_one_caller_does_not_cancel_the_tag_that_others_wait_for(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    await session.generate("hello")
    store, proceed, reads = await session.cache.generation.ready(), asyncio.Event(), []
    tagged = store.tagged

    async def slow(key: str, namespace: str) -> bool:
        reads.append(namespace)
        await proceed.wait()
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
    proceed.set()
    assert await other == await session.generate("hello")
    assert await tagged_entries(session, "emails") == len(reads) == 1
    assert not session.cache.generation.pending_tags


async def test_a_call_after_a_clear_does_not_wait_for_a_tag_read_before_it(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    emails, docs = session.namespace("emails"), session.namespace("docs")
    for namespace in (emails, docs):
        await namespace.generate("hello")
    cache, proceed = session.cache.generation, asyncio.Event()
    cache.forget_tags()  # as after a removal by another process
    tagged = (await cache.ready()).tagged

    async def late(key: str, namespace: str) -> bool:
        found = await tagged(key, namespace)
        await proceed.wait()
        return found

    monkeypatch.setattr(await cache.ready(), "tagged", late)
    early = asyncio.ensure_future(emails.generate("hello"))
    await anyio.wait_all_tasks_blocked()
    # The thread that reads has its own pace.
    await (await cache.ready()).removals()
    await emails.clear()
    monkeypatch.setattr(await cache.ready(), "tagged", tagged)
    with anyio.fail_after(60):
        await emails.generate("hello")
    assert await tagged_entries(session, "emails") == 1
    proceed.set()
    await early
    assert not cache.pending_tags


async def test_a_refused_request_is_no_miss(session: Session) -> None:
    emails = session.namespace("emails")
    with pytest.raises(InvalidRequestError, match="prompt"):
        await emails.generate("")
    with pytest.raises(InvalidRequestError, match="did you mean 'seed'"):
        await emails.generate("hello", sede=1)  # type: ignore[call-overload]  # no such option
    assert (await emails.statistics()).both.misses == 0


@pytest.mark.parametrize("streaming", [False, True])
async def test_an_engine_s_error_reaches_the_caller_and_is_a_miss(streaming: bool) -> None:
    def fail(_: object) -> str:
        raise ArithmeticError("no answer")

    async with Session(engine=FakeEngine(fail)) as session:
        emails = session.namespace("emails")

        async def call() -> None:
            if streaming:
                async with emails.stream("hello") as stream:
                    await stream.read()
            else:
                await emails.generate("hello")

        with pytest.raises((AsteadyError, ArithmeticError), match="no answer"):
            await call()
        counts = (await emails.statistics()).generation
        assert (counts.entries, counts.hits, counts.misses) == (0, 0, 1)


async def test_a_store_that_fails_costs_no_answer(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    await session.generate("hello")
    await (await session.cache.generation.ready()).aclose()
    assert await session.namespace("emails").generate("hello")
    assert "closed" in caplog.text
    # Once for the call, and for each look of the cache at its database.
    assert session.cache.generation.counters.errors >= 1


async def test_a_disabled_cache_has_no_tags(engine: FakeEngine) -> None:
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


async def test_before_the_session_is_open_every_method_raises(engine: FakeEngine) -> None:
    emails = Session(engine=engine).namespace("emails")
    with pytest.raises(SessionNotOpenError):
        await emails.generate("hello")
    for method in (emails.statistics, emails.entries, emails.children, emails.clear):
        with pytest.raises(SessionNotOpenError):
            await method()


async def test_after_the_session_was_closed_every_method_raises(engine: FakeEngine) -> None:
    async with Session(engine=engine) as session:
        emails = session.namespace("emails")
        await emails.generate("hello")
    for method in (emails.statistics, emails.entries, emails.children, emails.clear):
        with pytest.raises(SessionClosedError):
            await method()
    with pytest.raises(SessionClosedError):
        await emails.generate("hello")
