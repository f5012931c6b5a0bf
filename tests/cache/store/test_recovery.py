"""Databases that are damaged, foreign, too new, too old, full, or gone."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from asteady._base.errors import StoreError, StoreVersionError
from asteady._cache.manager import CacheManager
from asteady._cache.store import schema as _schema
from asteady._cache.store.sqlite import SqliteStore
from tests.cache.helpers import change, completion, key_of, opened, settings

pytestmark = pytest.mark.anyio
KEY = key_of("key")


@pytest.fixture
def database(directory: Path) -> Path:
    return directory / "generation_cache.db"


async def fill(directory: Path, entries: int = 50) -> None:
    async with opened(directory) as manager:
        for number in range(entries):
            await manager.generation.put(key_of(number), completion(str(number) * 100))


def scribble(database: Path, start: int, length: int) -> None:
    with database.open("r+b") as file:
        file.seek(start)
        file.write(b"\xde\xad" * (length // 2))


def set_aside(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.damaged-*"))


def databases(paths: Iterable[Path]) -> list[str]:
    """The names, without those of journals."""
    return [path.name for path in paths if not path.name.endswith(("-wal", "-shm"))]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"this is no database at all" * 1000),
        lambda path: scribble(path, 0, 100),
        lambda path: scribble(path, 100, 8000),
        lambda path: os.truncate(path, 8192),
    ],
    ids=["text", "header", "schema", "cut"],
)
async def test_a_damaged_database_is_set_aside_with_its_journals_and_begun_anew(
    directory: Path,
    database: Path,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    await fill(directory)
    damage(database)
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").write_bytes(b"left behind")
    with caplog.at_level(logging.ERROR, "asteady"):
        async with opened(directory) as manager:
            assert await manager.generation.keys() == []
            assert await manager.generation.put(KEY, completion())
            assert await manager.generation.get(KEY) is not None
    assert "is damaged" in caplog.text
    assert any(not name.endswith(("-wal", "-shm")) for name in set_aside(directory))
    check(database)


async def test_damage_that_is_met_later_is_set_aside_too(
    directory: Path, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(directory)
    async with opened(directory) as manager:
        cache = manager.generation
        scribble(database, 2 * 8192, 60 * 8192)
        keys = [key_of(number) for number in range(50)]
        with anyio.fail_after(60):
            while not set_aside(directory):
                cache.memory.clear()
                for key in keys:
                    await cache.get(key)
        assert await cache.put(KEY, completion())
        assert await cache.get(KEY) is not None
        assert await cache.keys() == [KEY]
    assert len(databases(directory.glob("*.damaged-*"))) == 1
    assert "is damaged" in caplog.text
    check(database)


async def test_damage_that_a_write_meets_costs_no_answer(directory: Path, database: Path) -> None:
    await fill(directory)
    async with opened(directory) as manager:
        scribble(database, 2 * 8192, 60 * 8192)
        for number in range(100, 150):
            assert await manager.generation.put(key_of(number), completion())
        assert await manager.generation.contains(key_of(149))
    assert set_aside(directory)
    check(database)


async def test_two_processes_that_find_the_same_damage_set_it_aside_once(directory: Path) -> None:
    await fill(directory)
    async with opened(directory) as one, opened(directory) as other:
        scribble(directory / "generation_cache.db", 2 * 8192, 60 * 8192)
        assert await one.generation.put(KEY, completion())
        assert set_aside(directory)
        for number in range(200):
            await other.generation.put(key_of(number), completion())
        assert await one.generation.contains(key_of(199))
    assert len(databases(directory.glob("*.damaged-*"))) == 1


async def test_a_database_that_was_removed_is_made_again(directory: Path, database: Path) -> None:
    async with opened(directory, tick_s=0.001) as manager:
        cache = manager.generation
        await cache.put(KEY, completion())
        # The database last: when it is gone, the store makes files of the same names.
        for path in sorted(directory.glob("generation_cache.db*"), reverse=True):
            path.unlink()
        with anyio.fail_after(60):
            while not database.exists() or await cache.contains(KEY):
                # A lookup, whose touch is written at the next tick.
                await cache.get(KEY)
                await anyio.sleep(0.01)
        assert cache.recall_key(KEY) is None
        assert await cache.put(KEY, completion())
    async with opened(directory) as manager:
        assert await manager.generation.contains(KEY)


async def test_a_value_that_was_damaged_is_a_miss_is_removed_and_counted(
    directory: Path, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(directory, 2)
    change(database, "UPDATE answer SET text = CAST('changed' AS BLOB) WHERE slot = 1")
    async with opened(directory) as manager:
        cache = manager.generation
        (damaged,) = [key_of(n) for n in range(2) if await cache.get(key_of(n)) is None]
        assert not await cache.delete(damaged)  # it was removed
        statistics = await cache.statistics()
        assert statistics["damaged"] == 1
        assert [record.message for record in caplog.records if "value" in record.message] == [
            f"a value in the generation cache is damaged: the checksum of {damaged} does not match"
        ]
        assert statistics["misses"] == 1
        assert statistics["size"] == 1
        assert await cache.put(damaged, completion())
        assert await cache.get(damaged) is not None


async def test_an_entry_without_its_answer_is_removed(directory: Path, database: Path) -> None:
    await fill(directory, 1)
    change(database, "DELETE FROM answer")
    async with opened(directory) as manager:
        assert await manager.generation.get(key_of(0)) is None
        assert await manager.generation.keys() == []


async def test_an_older_database_is_set_aside_and_a_new_one_made(
    directory: Path, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(directory, 1)
    change(database, f"PRAGMA user_version = {_schema.VERSION - 1}")
    before = database.read_bytes()
    async with opened(directory) as manager:
        assert await manager.generation.keys() == []
        assert await manager.generation.put(KEY, completion())
    (name,) = databases(directory.glob("*.outdated-*"))
    assert (directory / name).read_bytes() == before
    assert f"version {_schema.VERSION - 1}, and this asteady reads version" in caplog.text
    assert name in caplog.text
    async with opened(directory) as manager:
        assert await manager.generation.keys() == [KEY]
    check(database)


async def test_two_that_open_an_older_database_at_once_set_it_aside_once(
    directory: Path, database: Path
) -> None:
    await fill(directory, 1)
    change(database, f"PRAGMA user_version = {_schema.VERSION - 1}")
    first, second = CacheManager(settings(directory)), CacheManager(settings(directory))
    await asyncio.gather(first.open(), second.open())
    try:
        assert await second.generation.put(KEY, completion())
        assert await first.generation.get(KEY) is not None
    finally:
        await first.aclose()
        await second.aclose()
    assert len(databases(directory.glob("*.outdated-*"))) == 1


async def test_a_newer_database_is_refused_and_left_alone(directory: Path, database: Path) -> None:
    await fill(directory, 1)
    change(database, f"PRAGMA user_version = {_schema.VERSION + 1}")
    before = database.read_bytes()
    manager = CacheManager(settings(directory))
    with pytest.raises(StoreVersionError, match="upgrade asteady or choose another cache_dir"):
        await manager.open()
    assert database.read_bytes() == before
    assert set_aside(directory) == []


async def test_another_application_s_database_is_refused_and_left_alone(
    directory: Path, database: Path
) -> None:
    directory.mkdir()
    change(database, "CREATE TABLE cache (key TEXT)")
    manager = CacheManager(settings(directory))
    with pytest.raises(StoreError, match="another application"):
        await manager.open()
    assert set_aside(directory) == []


async def test_an_empty_file_becomes_a_database(directory: Path, database: Path) -> None:
    directory.mkdir()
    database.touch()
    async with opened(directory) as manager:
        assert await manager.generation.put(KEY, completion())
    check(database)


async def test_a_full_disk_costs_no_answer_and_is_counted(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(directory) as manager:
        cache = manager.generation
        await cache.put(KEY, completion())
        store = await cache.ready()
        assert isinstance(store, SqliteStore)
        assert store._write is not None
        await store._write.run(lambda connection: connection.execute("PRAGMA max_page_count = 8"))
        results = [await cache.put(key_of(n), completion("x" * 9000)) for n in range(9)]
        assert not all(results)
        statistics = await cache.statistics()
        assert statistics["errors"] == results.count(False)
        assert statistics["size"] == 1 + results.count(True)
        assert await cache.get(KEY) is not None
        await store._write.run(lambda connection: connection.execute("PRAGMA max_page_count = 999"))
        assert await cache.put(key_of("later"), completion("x" * 9000))
    assert "full" in caplog.text


async def test_a_store_that_cannot_be_opened_again_fails_no_caller(
    directory: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(directory)
    async with opened(directory) as manager:
        cache = manager.generation
        scribble(database, 2 * 8192, 60 * 8192)
        directory.rename(directory.with_name("moved"))
        directory.write_text("a file in the way")
        monkeypatch.setattr(cache, "_timeout_s", 0.1)
        assert not await cache.put(KEY, completion())
        assert await cache.get(KEY) is not None
        assert await cache.get(key_of(0)) is None
        assert not await cache.put(key_of("other"), completion())
        directory.unlink()
        with anyio.fail_after(60):
            while len(cache._late):  # noqa: ASYNC110  # it waits for a file
                await anyio.sleep(0.01)
        assert await cache.keys() == sorted([KEY, key_of("other")])


async def test_a_network_file_system_gets_a_rollback_journal_and_a_warning(
    directory: Path,
    database: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(_schema, "network_filesystem", lambda _: "nfs4")
    async with opened(directory) as manager:
        assert await manager.generation.put(KEY, completion())
        assert await manager.generation.get(KEY) is not None
        assert not Path(f"{database}-wal").exists()
    assert "network file system (nfs4)" in caplog.text
    monkeypatch.undo()
    async with opened(directory) as manager:
        assert await manager.generation.contains(KEY)
        assert Path(f"{database}-wal").exists()


def test_journals_go_with_their_database_and_names_never_clash(directory: Path) -> None:
    directory.mkdir()
    names = set()
    for _ in range(3):
        for suffix in ("", "-wal", "-shm"):
            (directory / f"x.db{suffix}").write_text(suffix)
        name = _schema.set_aside(directory / "x.db", "damaged", "a test").name
        assert (directory / f"{name}-wal").read_text() == "-wal"
        names.add(name)
    assert len(names) == 3
    assert not list(directory.glob("x.db")) + list(directory.glob("x.db-*"))


@pytest.mark.parametrize("page_bytes", [4096, 8192])
def test_the_log_is_as_large_whatever_the_pages_are(tmp_path: Path, page_bytes: int) -> None:
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA page_size = {page_bytes}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE x (y)")
    with closing(_schema.connect(path, 80 * 2**20)) as connection:
        (pages,) = connection.execute("PRAGMA wal_autocheckpoint").fetchone()
        (left_bytes,) = connection.execute("PRAGMA journal_size_limit").fetchone()
    assert pages * page_bytes == left_bytes == 10 * 2**20


def check(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
