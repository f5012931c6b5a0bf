"""Namespaces travel with their entries, and a file that lies about them changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from asteady._base.errors import StoreError
from asteady._cache import transfer as _transfer
from asteady._cache.manager import CacheManager
from asteady._cache.store.api import Tag
from asteady._cache.store.transaction import tag_bytes
from tests.cache.helpers import change, completion, embedding, key_of, opened

pytestmark = pytest.mark.anyio


async def put(manager: CacheManager, name: object, *namespaces: str) -> None:
    assert await manager.generation.put(
        key_of(name), completion(f"answer {name}"), namespaces=namespaces
    )


async def entries(manager: CacheManager) -> dict[str, int]:
    return {path: size.entries for path, size in (await manager.namespaces()).items()}


async def totals_agree(manager: CacheManager) -> None:
    stats = (await manager.get_cache_stats())["generation"]
    sizes = [entry.size_bytes for entry in await manager.generation.entries(-1)]
    assert stats["total_size_bytes"] == sum(sizes) <= stats["max_size_bytes"]


@pytest.fixture
async def export(tmp_path: Path) -> Path:
    """Three completions and a vector, of which one completion has no namespace."""
    path = tmp_path / "export.db"
    async with opened(tmp_path / "other") as other:
        await put(other, "both", "docs", "emails/marketing")
        await put(other, "one", "docs")
        await put(other, "none")
        await other.embedding.put(key_of("v"), embedding(0.6, 0.8), namespaces=("docs",))
        await other.export_entries(path)
    return path


async def test_namespaces_are_imported_with_their_entries(
    manager: CacheManager, export: Path, tmp_path: Path
) -> None:
    await manager.import_entries(export)
    assert await entries(manager) == {"docs": 3, "emails/marketing": 1}
    async with opened(tmp_path / "other") as other:
        assert await manager.namespaces() == await other.namespaces()
    await totals_agree(manager)
    assert await manager.clear_namespace("docs") == 2
    assert await manager.generation.keys() == sorted(map(key_of, ("both", "none")))


async def test_an_entry_that_is_known_has_the_namespaces_of_both(
    manager: CacheManager, export: Path
) -> None:
    await put(manager, "both", "docs", "here")
    await put(manager, "none", "here")
    before = {e.key: e.size_bytes for e in await manager.generation.entries()}
    merged = await manager.import_entries(export)
    assert merged["generation"].known == 2
    assert await entries(manager) == {"docs": 3, "emails/marketing": 1, "here": 2}
    after = {e.key: e.size_bytes for e in await manager.generation.entries()}
    more_bytes = tag_bytes(["emails/marketing"])
    assert after[key_of("both")] == before[key_of("both")] + more_bytes
    assert after[key_of("none")] == before[key_of("none")]
    await manager.import_entries(export)
    assert {e.key: e.size_bytes for e in await manager.generation.entries()} == after
    await totals_agree(manager)


async def test_the_budget_holds_when_entries_grow_by_their_tags(
    directory: Path, tmp_path: Path
) -> None:
    path = tmp_path / "export.db"
    async with opened(tmp_path / "other") as other:
        for number in range(9):
            await put(other, number, *(f"{'n' * 100}/{n}" for n in range(5)))
        await other.export_entries(path)
    async with opened(directory, generation_cache_max_size_mb=0.0115) as manager:
        for number in range(9):
            await put(manager, number)
        assert len(await manager.generation.keys()) == 9
        await manager.import_entries(path)
        assert 0 < len(await manager.generation.keys()) < 9
        await totals_agree(manager)
        left = len(await manager.generation.keys())
        assert set((await entries(manager)).values()) == {left}


@pytest.mark.parametrize(
    ("statement", "match"),
    [
        ("UPDATE generation_tag SET namespace = 'a//b' WHERE namespace = 'docs'", "'a//b'"),
        ("UPDATE embedding_tag SET namespace = CAST('docs' AS BLOB)", "a str is needed"),
        ("INSERT INTO embedding_tag VALUES ('nobody', 'docs')", "no entry 'nobody'"),
        ("DELETE FROM generation", "no entry"),
        ("DROP TABLE embedding_tag", "its tables are not those of an export"),
        ("PRAGMA user_version = 2", "export it again"),
    ],
)
async def test_a_file_that_says_what_cannot_be_is_refused(
    manager: CacheManager, export: Path, statement: str, match: str
) -> None:
    change(export, statement)
    with pytest.raises(StoreError, match=match):
        await manager.import_entries(export)
    assert await manager.generation.keys() == await manager.embedding.keys() == []
    assert await entries(manager) == {}


async def test_a_file_with_more_tags_than_memory_is_for_is_refused(
    manager: CacheManager, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_transfer, "MAX_TAGS", 2)
    with pytest.raises(StoreError, match="more than 2"):
        await manager.import_entries(export)


async def test_an_imported_entry_can_be_tagged(manager: CacheManager, export: Path) -> None:
    await manager.import_entries(export)
    assert await (await manager.generation.ready()).submit(Tag(key_of("none"), "later"))
    assert (await entries(manager))["later"] == 1
