"""Namespaces: one entry for all who ask, and what is held together goes together."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from asteady import Session
from asteady._errors import (
    AsteadyError,
    CacheMissError,
    InvalidRequestError,
    SessionClosedError,
    SessionNotOpenError,
)
from asteady.cache._cache import Cache
from asteady.cache._namespaces import COUNTED, TAGS_PER_ENTRY
from asteady.cache._store import Tag
from asteady.operate import HierarchicalCache, Namespace
from asteady.testing import FakeEngine
from tests.cache.helpers import Process

pytestmark = pytest.mark.anyio


async def held(session: Session, path: str) -> int:
    return (await session.cache.namespace_size(path)).entries


def writes(cache: Cache[Any], monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is submitted to the store from now on."""
    submitted: list[object] = []
    store, submit = cache._store, cache._store.submit

    def note(operation: Any) -> Any:
        submitted.append(operation)
        return submit(operation)

    monkeypatch.setattr(store, "submit", note)
    return submitted


# -- asking ---------------------------------------------------------------------------------------


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
    submitted = writes(session.cache.generation, monkeypatch)
    monkeypatch.setattr(session.cache.generation._store, "tagged", None)  # nor is it looked for
    await session.namespace("emails").generate("hello")
    (put,) = submitted
    assert put.namespaces == ("emails",)  # type: ignore[attr-defined]  # a Put


async def test_a_warm_hit_under_a_namespace_reads_and_writes_nothing(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    emails = session.namespace("emails")
    first = await emails.generate("hello")
    submitted = writes(session.cache.generation, monkeypatch)
    monkeypatch.setattr(session.cache.generation._store, "tagged", None)
    for _ in range(3):
        assert await session.namespace("emails").generate("hello") == first
        assert (await emails.complete("hello")).cached
    assert not [op for op in submitted if isinstance(op, Tag)]


async def test_what_is_known_without_a_namespace_is_held_from_the_first_call_under_one(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    await session.generate("hello")
    assert await held(session, "emails") == 0
    submitted = writes(session.cache.generation, monkeypatch)
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
        cache._memory.clear()  # else it would be found in memory
        group.create_task(session.namespace("b").complete("hello", seed=1))
        await anyio.wait_all_tasks_blocked()
        go_on.set()
    assert await held(session, "a") == await held(session, "b") == 1


async def test_a_thousand_who_ask_at_once_cost_one_look_and_one_write(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    await session.generate("hello")
    store, looks = session.cache.generation._store, []
    tagged = store.tagged

    async def looked(key: str, namespace: str) -> bool:
        looks.append(namespace)
        return await tagged(key, namespace)

    monkeypatch.setattr(store, "tagged", looked)
    submitted = writes(session.cache.generation, monkeypatch)
    emails, docs = session.namespace("emails"), session.namespace("docs")
    await asyncio.gather(*(emails.generate("hello") for _ in range(1000)), docs.generate("hello"))
    assert sorted(looks) == ["docs", "emails"]
    assert len([op for op in submitted if isinstance(op, Tag)]) == 2
    assert (await emails.statistics()).generation.hits == 1000


async def test_a_caller_that_is_cancelled_while_it_is_written_leaves_the_others_waiting(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    await session.generate("hello")
    store, go_on, looks = session.cache.generation._store, asyncio.Event(), []
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
    assert not session.cache.generation._namespaces._holding


async def test_who_asks_after_a_clear_does_not_wait_for_a_look_before_it(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    emails, docs = session.namespace("emails"), session.namespace("docs")
    for asking in (emails, docs):
        await asking.generate("hello")
    cache, go_on = session.cache.generation, asyncio.Event()
    cache._namespaces.forget()  # as after a removal by another process
    tagged = cache._store.tagged

    async def late(key: str, namespace: str) -> bool:
        found = await tagged(key, namespace)
        await go_on.wait()
        return found

    monkeypatch.setattr(cache._store, "tagged", late)
    early = asyncio.ensure_future(emails.generate("hello"))
    await anyio.wait_all_tasks_blocked()
    # The thread that reads has its own pace.
    await cache._store.removals()
    await emails.clear()
    monkeypatch.setattr(cache._store, "tagged", tagged)
    with anyio.fail_after(10):
        await emails.generate("hello")
    assert await held(session, "emails") == 1
    go_on.set()
    await early
    assert not cache._namespaces._holding


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
    await session.cache.generation._store.aclose()
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


# -- clearing -------------------------------------------------------------------------------------


async def test_clearing_removes_only_what_no_other_namespace_holds(
    session: Session, engine: FakeEngine
) -> None:
    for path, prompt in (
        ("emails", "one"),
        ("emails/marketing", "two"),
        ("emails-old", "three"),
        ("docs", "two"),
    ):
        await session.namespace(path).generate(prompt)
    await session.generate("one")
    await session.generate("four")
    await session.namespace("emails").embed("one")
    assert await session.namespace("emails").clear() == 2
    assert await held(session, "emails") == 0
    assert await held(session, "emails-old") == await held(session, "docs") == 1
    cached = [p for p in ("one", "two", "three", "four") if await session.is_cached(p)]
    assert cached == ["two", "three", "four"]
    assert await session.namespace("docs").clear() == 1
    assert not await session.is_cached("two")
    computed = len(engine.computed)
    await session.generate("one")
    assert len(engine.computed) == computed + 1


async def test_memory_does_not_go_on_serving_what_was_cleared(
    session: Session, engine: FakeEngine
) -> None:
    emails = session.namespace("emails")
    await emails.generate("hello")
    await emails.generate("hello")
    await emails.clear()
    assert not await session.is_cached("hello")
    await emails.generate("hello")
    assert len(engine.computed) == 2
    assert await held(session, "emails") == 1


async def test_a_namespace_that_was_cleared_holds_again_what_stayed_for_others(
    session: Session, engine: FakeEngine
) -> None:
    emails, docs = session.namespace("emails"), session.namespace("docs")
    await emails.generate("hello")
    await docs.generate("hello")
    assert await emails.clear() == 0
    assert await held(session, "emails") == 0
    await emails.generate("hello")
    assert await held(session, "emails") == 1
    assert await docs.clear() == 0
    assert await session.is_cached("hello")
    assert len(engine.computed) == 1


async def test_clearing_by_a_whole_path_reaches_up_and_down_but_not_aside(
    session: Session,
) -> None:
    summer = session.namespace("emails/marketing/summer")
    await summer.generate("one")
    await session.namespace("emails").generate("two")
    emails = session.namespace("emails/marketing")
    with pytest.raises(InvalidRequestError, match="'emails/marketing/summer'"):
        await emails.clear("summer")
    assert await emails.clear("emails/marketing/summer") == 1
    assert await emails.clear("emails") == 1
    assert await held(session, "emails") == 0


async def test_a_clear_between_reading_and_knowing_is_not_lost(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = session.cache.generation
    emails, docs = session.namespace("emails"), session.namespace("docs")
    for asking in (emails, docs):
        await asking.generate("hello")
    cache._namespaces.forget()  # as after a removal by another process
    tagged = cache._store.tagged

    async def late(key: str, namespace: str) -> bool:
        found = await tagged(key, namespace)
        await emails.clear()
        return found

    monkeypatch.setattr(cache._store, "tagged", late)
    await emails.generate("hello")
    monkeypatch.undo()
    assert await held(session, "emails") == 0
    await emails.generate("hello")
    assert await held(session, "emails") == 1


async def test_a_hold_survives_a_restart_and_is_not_written_again(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Session(engine=engine) as session:
        await session.namespace("emails").generate("hello")
    async with Session(engine=FakeEngine()) as session:
        assert await held(session, "emails") == 1
        submitted = writes(session.cache.generation, monkeypatch)
        assert await session.namespace("emails").generate("hello", cache="only")
        assert not submitted
        counts = (await session.namespace("emails").statistics()).generation
        assert (counts.hits, counts.misses) == (1, 0)
        assert await session.namespace("emails").clear() == 1


async def test_an_entry_that_is_evicted_leaves_its_namespaces_and_comes_back(
    engine: FakeEngine,
) -> None:
    async with Session(engine=engine, generation_cache_capacity=2) as session:
        emails = session.namespace("emails")
        await emails.generate("one")
        for number in range(6):
            await session.generate(f"a longer and longer prompt, number {number}")
        assert not await session.is_cached("one")
        assert await held(session, "emails") == 0
        await emails.generate("one")
        assert await held(session, "emails") == 1


async def test_more_namespaces_than_memory_knows_are_held_all_the_same(
    session: Session, engine: FakeEngine
) -> None:
    paths = [f"user/{number}" for number in range(3 * TAGS_PER_ENTRY)]
    for _ in range(2):
        for path in paths:
            await session.namespace(path).generate("hello")
    (entry,) = session.cache.generation._memory.by_key.values()
    assert len(entry.tags) == TAGS_PER_ENTRY
    assert len(await session.cache.namespaces("user")) == len(paths)
    assert len(engine.computed) == 1


async def test_tags_count_for_the_byte_budget(engine: FakeEngine) -> None:
    async with Session(engine=engine, generation_cache_max_size_mb=0.01) as session:
        await session.generate("another")
        for number in range(400):
            await session.namespace(f"user/{number}").generate("hello")
        statistics = (await session.cache.get_cache_stats())["generation"]
        assert statistics["total_size_bytes"] <= statistics["max_size_bytes"]
        assert statistics["evictions"]
        assert 0 < len(await session.cache.namespaces("user")) < 400


# -- looking --------------------------------------------------------------------------------------


async def test_statistics_are_of_the_namespace_and_all_below(session: Session) -> None:
    emails, marketing = session.namespace("emails"), session.namespace("emails/marketing")
    await emails.generate("one")
    await marketing.generate("one")
    await marketing.generate("one")
    await marketing.generate("two")
    await marketing.embed("one")
    await session.generate("one")
    found = await emails.statistics()
    sizes = {e.key: e.size_bytes for e in await session.cache.generation.entries()}
    assert (found.generation.entries, found.generation.size_bytes) == (2, sum(sizes.values()))
    assert (found.generation.hits, found.generation.misses) == (2, 2)
    assert found.generation.hit_rate == 0.5
    assert found.embedding.entries == found.embedding.misses == 1
    assert found.both.entries == 3
    assert found.both.hit_rate == 0.4
    below = await marketing.statistics()
    assert (below.generation.hits, below.generation.misses) == (2, 1)
    nothing = await session.namespace("docs").statistics()
    assert nothing.both.hit_rate == nothing.both.entries == 0


async def test_a_stream_left_early_counts_as_what_it_met(session: Session) -> None:
    emails = session.namespace("emails")
    await session.generate("one two")
    for _ in range(2):
        async with emails.stream("one two") as stream:
            await anext(stream)
        session.cache.generation._memory.clear()
    counts = (await emails.statistics()).generation
    assert (counts.hits, counts.misses) == (2, 0)


async def test_entries_and_children_are_listed(session: Session) -> None:
    for path in ("emails", "emails/marketing/summer", "emails/sales", "emails-old/x"):
        await session.namespace(path).generate(path)
    await session.namespace("emails/sales").embed("one")
    emails = session.namespace("emails")
    assert len(await emails.entries()) == 3
    assert len(await emails.entries("embedding")) == 1
    assert len(await emails.entries(limit=1, order_by="size")) == 1
    assert await emails.children() == ["emails/marketing", "emails/sales"]
    assert await session.namespace("emails/sales").children() == []
    assert list(await session.cache.namespaces()) == [
        "emails",
        "emails-old/x",
        "emails/marketing/summer",
        "emails/sales",
    ]
    sizes = await session.cache.namespaces("emails/sales")
    assert (sizes["emails/sales"].entries, len(sizes)) == (2, 1)
    assert sizes["emails/sales"].size_bytes == (
        sizes["emails/sales"].generation.size_bytes + sizes["emails/sales"].embedding.size_bytes
    )
    with pytest.raises(InvalidRequestError, match="kind='answers'"):
        await emails.entries("answers")  # type: ignore[arg-type]  # no such cache


async def test_calls_of_namespaces_that_were_used_long_ago_are_forgotten(
    session: Session,
) -> None:
    namespaces = session.cache.generation._namespaces
    namespaces.asked("first").hits += 1
    for number in range(COUNTED - 1):
        namespaces.asked(str(number))
    assert namespaces.asked("first").hits == 1  # used again, so that another one goes
    namespaces.asked("one more")
    assert namespaces.asked_below("first").hits == 1
    assert len(namespaces._asked) == COUNTED


async def test_a_namespace_at_hand_is_counted_however_many_others_are_used(
    session: Session,
) -> None:
    emails = session.namespace("emails/marketing")
    for number in range(COUNTED):
        session.namespace(f"customers/{number}")
    await emails.generate("hello")
    assert (await emails.statistics()).generation.misses == 1
    again = session.namespace("emails/marketing")
    await again.generate("hello")
    counts = (await session.namespace("emails").statistics()).generation
    assert (counts.misses, counts.hits) == (1, 1)


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["", "/", "/emails", "emails/", "a//b", " a", "a/ b", "a\nb", "a\0", "\ud800", "x" * 201, 5],
)
def test_a_path_that_is_none_is_refused(engine: FakeEngine, path: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"namespace=.* is not allowed"):
        Session(engine=engine).namespace(path)


@pytest.mark.parametrize("path", ["a", "a/b/c", "Grüße/2024", "two words/x", ".", "a" * 200])
async def test_any_other_path_is_a_namespace(session: Session, path: str) -> None:
    await session.namespace(path).generate("hello")
    assert list(await session.cache.namespaces()) == [path]
    assert repr(session.namespace(path)).startswith(f"<Namespace {path} of <Session open")


async def test_a_path_is_given_in_parts_or_whole(session: Session) -> None:
    below = session.namespace("emails").namespace("marketing/summer")
    assert isinstance(below, Namespace)
    assert below.path == "emails/marketing/summer"
    with pytest.raises(InvalidRequestError, match="'/x'"):
        session.namespace("emails").namespace("/x")


# -- preloading -----------------------------------------------------------------------------------

ITEMS: list[dict[str, Any]] = [
    {"subcategory": "api", "prompt": "Document an endpoint", "kwargs": {"max_new_tokens": 20}},
    {"subcategory": "api", "prompt": "Document an endpoint", "kwargs": {"max_new_tokens": 20}},
    {"subcategory": "functions", "prompt": "Document a function", "seed": 7},
    {"prompt": "Document"},
]


async def test_items_are_preloaded_under_their_subcategories(
    session: Session, engine: FakeEngine
) -> None:
    docs = session.namespace("docs")
    await session.generate("Document a function", seed=7)
    report = await docs.preload(ITEMS)
    assert (report.warmed, report.already_cached, report.duplicates) == (2, 1, 1)
    assert not report.failed
    sizes = await session.cache.namespaces("docs")
    assert {path: size.entries for path, size in sizes.items()} == {
        "docs": 1,
        "docs/api": 1,
        "docs/functions": 1,
    }
    assert await docs.generate("Document an endpoint", max_new_tokens=20, cache="only")
    assert (await docs.preload(ITEMS)).already_cached == 3
    assert len(engine.computed) == 3
    assert (await docs.warm(["Document", "more"])).warmed == 1
    assert await held(session, "docs") == 4


async def test_an_item_that_cannot_be_preloaded_is_in_the_report(session: Session) -> None:
    items: list[Any] = [
        {"prompt": "x", "kwargs": 5},
        {"prompt": "x", "subcategory": "a//b"},
        {"prompt": "x", "kwargs": {"sede": 1}},
        {"subcategory": "api"},
        7,
        "a prompt alone",
    ]
    report = await session.namespace("docs").preload(items)
    assert report.warmed == 1
    assert [failure.where for failure in report.failed] == [f"prompts[{n}]" for n in range(5)]
    with pytest.raises(InvalidRequestError, match="items='x'"):
        await session.namespace("docs").preload("x")


async def test_the_guide_s_class_does_what_it_did(session: Session, engine: FakeEngine) -> None:
    hierarchy = HierarchicalCache(session)
    text = await hierarchy.get_or_generate("emails", "marketing", "Write a subject", seed=100)
    assert await hierarchy.get_or_generate("emails", "marketing", "Write a subject", 100) == text
    assert len(engine.computed) == 1
    report = await hierarchy.preload_category("documentation", ITEMS)
    assert report.warmed == 3
    assert list(await hierarchy.namespaces("documentation")) == [
        "documentation/api",
        "documentation/default",
        "documentation/functions",
    ]
    assert (await hierarchy.statistics("emails")).generation.hits == 1
    assert await hierarchy.clear_category("documentation") == 3
    assert await hierarchy.clear("emails") == 1
    assert await session.cache.generation.keys() == []
    assert isinstance(await hierarchy.namespace("emails"), Namespace)
    assert repr(hierarchy).startswith("<HierarchicalCache of <Session open")
    assert repr(HierarchicalCache()) == "<HierarchicalCache of the default session>"


# -- other processes ------------------------------------------------------------------------------


@pytest.fixture
def directory() -> Path:
    return Path(os.environ["ASTEADY_CACHE_DIR"])


async def test_what_another_process_clears_is_served_no_more_within_a_second(
    session: Session, engine: FakeEngine, directory: Path
) -> None:
    emails, docs = session.namespace("emails"), session.namespace("docs")
    await emails.generate("one")
    await emails.generate("two")
    await docs.generate("two")
    body = """
async with opened(directory) as manager:
    say(await manager.clear_namespace("emails"))
"""
    with Process(directory, body) as process:
        assert process.hear() == "1"
        assert process.finish() == 0
    with anyio.fail_after(10):
        while len(engine.computed) == 2:
            await emails.generate("one")
            await anyio.sleep(0.01)
    assert await session.cache.generation.contains(
        next(iter(session.cache.generation._memory.by_key))
    )
    await emails.generate("two")
    assert await held(session, "emails") == 2
    assert len(engine.computed) == 3


async def test_a_hold_that_a_caller_relies_on_survives_a_kill(directory: Path) -> None:
    program = """
from asteady import Session
from asteady.testing import FakeEngine
async with Session(engine=FakeEngine(), cache_dir=directory) as session:
    for number in range(10_000):
        if number % 2:
            await session.generate(f"prompt {number}")
        await session.namespace("emails").generate(f"prompt {number}")
        say(number)
"""
    with Process(directory, program) as process:
        said = [int(process.hear()) for _ in range(41)]
        process.kill()
    database = directory / "generation_cache.db"
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    async with Session(engine=FakeEngine()) as session:
        entries = await session.namespace("emails").entries(limit=-1)
        assert len(entries) >= len(said)
        for number in said:
            assert await session.is_cached(f"prompt {number}")
        assert await session.namespace("emails").clear() == len(entries)
