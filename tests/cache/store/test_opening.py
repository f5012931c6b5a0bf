"""How a cache opens and closes, and that it only misses while it is closed or disabled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import stat
import sys
from pathlib import Path

import anyio
import pytest

from asteady._base.errors import StoreError
from asteady._cache.manager import CacheManager
from tests.cache.helpers import completion, key_of, opened, settings

pytestmark = pytest.mark.anyio

KEY = key_of("a request")
ALIAS = ("a request", 42)


async def test_a_disabled_cache_remembers_nothing(directory: Path) -> None:
    async with opened(directory, disable_cache=True) as manager:
        cache = manager.generation
        assert not await cache.put(KEY, completion(), alias=ALIAS)
        assert cache.recall(ALIAS) is None
        assert cache.recall_key(KEY) is None
        assert await cache.get(KEY) is None
        assert not await cache.contains(KEY)
        assert not await cache.delete(KEY)
        assert await cache.clear() == 0
        assert await cache.keys() == []
        assert await cache.entries() == []
        async with cache.computing(KEY) as waited:
            assert not waited
        await manager.clear_all_caches()
        statistics = (await manager.get_cache_stats())["generation"]
        assert (statistics["size"], statistics["misses"], statistics["declined"]) == (0, 1, 0)
    assert not directory.exists()


async def test_directory_and_files_are_the_owner_s_alone(
    manager: CacheManager, directory: Path
) -> None:
    await manager.generation.put(KEY, completion())
    assert manager.directory == directory
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    names = {path.name for path in directory.iterdir() if path.is_file()}
    assert {"generation_cache.db", "generation_cache.db-wal", "embedding_cache.db"} <= names
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


async def test_closing_twice_or_unopened_is_no_matter(directory: Path) -> None:
    manager = CacheManager(settings(directory))
    await manager.aclose()
    await manager.open()
    await manager.aclose()
    await manager.aclose()


async def test_a_closed_cache_misses_and_says_so(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(directory) as manager:
        cache = manager.generation
        await cache.put(KEY, completion(), alias=ALIAS)
    with caplog.at_level(logging.WARNING, "asteady"):
        assert cache.recall(ALIAS) is None
        assert await cache.get(KEY) is None
        assert not await cache.put(KEY, completion())
        async with cache.computing(KEY) as waited:
            assert not waited
    assert "is closed" in caplog.text
    with pytest.raises(StoreError, match="closed"):
        await cache.clear()
    with pytest.raises(StoreError, match="closed"):
        await cache.contains(KEY)
    statistics = await cache.statistics()
    assert statistics["errors"] >= 3
    assert statistics["size"] == 0


async def test_with_a_file_in_the_way_of_the_directory_answers_are_in_memory_until_it_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "caches").write_text("")
    async with opened(tmp_path / "caches") as manager:
        cache = manager.generation
        with pytest.raises(StoreError, match=r"cannot be opened.*ASTEADY_CACHE_DIR"):
            await manager.check_open()
        assert not await cache.put(KEY, completion(), alias=ALIAS)
        assert cache.recall(ALIAS) is not None
        assert await cache.contains(KEY)
        for refused in (cache.delete(key_of("other")), cache.clear(), cache.keys()):
            with pytest.raises(StoreError, match=r"cannot be opened.*ASTEADY_CACHE_DIR"):
                await refused
        statistics = await cache.statistics()
        assert (statistics["delayed"], statistics["pending_writes"]) == (1, 1)
        assert len(caplog.records) == 2  # one for each cache
        (tmp_path / "caches").unlink()
        with anyio.fail_after(60):
            while (await cache.statistics())["pending_writes"]:  # noqa: ASYNC110  # a file
                await anyio.sleep(0.01)
        assert await cache.keys() == [KEY]
        assert await cache.put(key_of("other"), completion())
        with anyio.fail_after(60):
            while True:  # the other cache is opened on its own
                with contextlib.suppress(StoreError):
                    await manager.check_open()
                    break
                await anyio.sleep(0.01)
    assert len(caplog.records) == 2


async def test_the_module_is_cheap_to_import() -> None:
    program = (
        "import sys; before = set(sys.modules); import asteady._cache.manager;"
        "loaded = set(sys.modules) - before;"
        "print(sorted({'numpy', 'aiosqlite', 'filelock', 'sqlite3'} & loaded))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert output.strip() == b"[]"
