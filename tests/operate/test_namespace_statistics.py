"""Statistics, entries, paths and preloading of namespaces."""

from __future__ import annotations

from typing import Any

import pytest

from asteady import Session
from asteady._base.errors import InvalidRequestError
from asteady._cache.cache import MAX_COUNTED_NAMESPACES
from asteady.operate import HierarchicalCache, Namespace
from asteady.testing import FakeEngine
from tests.operate.helpers import tagged_entries

pytestmark = pytest.mark.anyio


async def test_statistics_include_all_namespaces_below(session: Session) -> None:
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


async def test_a_stream_that_is_left_early_counts_as_a_hit(session: Session) -> None:
    emails = session.namespace("emails")
    await session.generate("one two")
    for _ in range(2):
        async with emails.stream("one two") as stream:
            await anext(stream)
        session.cache.generation.memory.clear()
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


async def test_counters_of_the_least_recently_used_namespaces_are_dropped(
    session: Session,
) -> None:
    cache = session.cache.generation
    cache.lookups_of("first").hits += 1
    for number in range(MAX_COUNTED_NAMESPACES - 1):
        cache.lookups_of(str(number))
    assert cache.lookups_of("first").hits == 1  # used again, so that another one goes
    cache.lookups_of("one more")
    assert cache.namespace_lookups("first").hits == 1
    assert len(cache._lookups) == MAX_COUNTED_NAMESPACES


async def test_counters_of_a_referenced_namespace_are_never_dropped(
    session: Session,
) -> None:
    emails = session.namespace("emails/marketing")
    for number in range(MAX_COUNTED_NAMESPACES):
        session.namespace(f"customers/{number}")
    await emails.generate("hello")
    assert (await emails.statistics()).generation.misses == 1
    again = session.namespace("emails/marketing")
    await again.generate("hello")
    counts = (await session.namespace("emails").statistics()).generation
    assert (counts.misses, counts.hits) == (1, 1)


@pytest.mark.parametrize(
    "path",
    ["", "/", "/emails", "emails/", "a//b", " a", "a/ b", "a\nb", "a\0", "\ud800", "x" * 201, 5],
)
def test_an_invalid_path_is_refused(engine: FakeEngine, path: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"namespace=.* is not allowed"):
        Session(engine=engine).namespace(path)


@pytest.mark.parametrize("path", ["a", "a/b/c", "Grüße/2024", "two words/x", ".", "a" * 200])
async def test_valid_paths(session: Session, path: str) -> None:
    await session.namespace(path).generate("hello")
    assert list(await session.cache.namespaces()) == [path]
    assert repr(session.namespace(path)).startswith(f"<Namespace {path} of <Session open")


async def test_paths_are_joined(session: Session) -> None:
    below = session.namespace("emails").namespace("marketing/summer")
    assert isinstance(below, Namespace)
    assert below.path == "emails/marketing/summer"
    with pytest.raises(InvalidRequestError, match="'/x'"):
        session.namespace("emails").namespace("/x")


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
    assert await tagged_entries(session, "docs") == 4


async def test_an_invalid_item_is_in_the_report(session: Session) -> None:
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


async def test_hierarchical_cache_works_as_in_the_guide(
    session: Session, engine: FakeEngine
) -> None:
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
