"""Databases of older versions: what they remember is remembered on.

`tests/data/cache_version_1.sql` was written by that version: eight embeddings of "text 0" to
"text 7" into a cache for three, some of them used in between.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from asteady._cache.manager import CacheManager
from asteady._cache.store import schema as _schema
from asteady._cache.store.eviction_index import SqlLedger
from tests.cache.helpers import embedding, opened, settings

pytestmark = pytest.mark.anyio
VERSION_1 = Path(__file__).parents[2] / "data" / "cache_version_1.sql"


def key_of(number: int) -> str:
    return hashlib.sha256(f"text {number}".encode()).hexdigest()


@pytest.fixture
def database(directory: Path) -> Path:
    directory.mkdir()
    path = directory / "embedding_cache.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_1.read_text("utf-8"))
        connection.execute(f"PRAGMA application_id = {_schema.APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 1")
    return path


def shape(path: Path) -> list[tuple[object, ...]]:
    """Tables, their columns and indexes, without the words they were made with."""
    with closing(sqlite3.connect(path)) as connection:
        names = connection.execute("SELECT type, name, tbl_name FROM sqlite_master").fetchall()
        return sorted(
            (*row, connection.execute(f"PRAGMA {kind}_xinfo({row[1]})").fetchall())
            for row in names
            if (kind := row[0]) in ("table", "index")
        )


async def test_the_answers_of_version_1_are_found(directory: Path, database: Path) -> None:
    async with opened(directory, embedding_cache_capacity=3) as manager:
        cache = manager.embedding
        assert await cache.keys() == sorted(map(key_of, (3, 4, 7)))
        for number, sign in ((3, -1), (4, 1), (7, -1)):
            found = await cache.get(key_of(number))
            assert found is not None
            assert found.tokens == number + 1
            assert np.array_equal(found.vector, np.full(4, sign * 0.5, np.float32))
        entry = (await cache.entries(1, "touches"))[0]
        assert (entry.key, entry.touches, entry.priority) == (key_of(4), 5, 19.5)
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (_schema.VERSION,)


async def test_the_ghosts_of_version_1_are_remembered(directory: Path, database: Path) -> None:
    async with opened(directory, embedding_cache_capacity=3) as manager:
        cache = manager.embedding
        assert (await cache.statistics())["ghosts"] == 5
        with closing(sqlite3.connect(database)) as connection:
            ghost = SqlLedger(connection).find(key_of(2))
            assert ghost is not None
            assert (ghost.live, ghost.touches) == (False, 3)
            assert ghost.turn == pytest.approx(2 / 3)
            # The others were evicted in this order.
            order = [SqlLedger(connection)._ghosts.find(key_of(n)) for n in (0, 1, 2, 5, 6)]
            assert [row.turn for row in order if row] == pytest.approx([n / 3 for n in range(5)])
            numbers = connection.execute("SELECT turn FROM ghost ORDER BY seq").fetchall()
            assert numbers == sorted(numbers)
        assert await cache.put(key_of(2), embedding(1.0, cost_s=5.0))
        returned = {entry.key: entry for entry in await cache.entries()}[key_of(2)]
        assert returned.touches == 6
        assert (await cache.statistics())["ghosts"] == 5


async def test_a_migrated_database_is_like_a_new_one(
    directory: Path, database: Path, tmp_path: Path
) -> None:
    async with opened(directory), opened(tmp_path / "new"):
        pass
    assert shape(database) == shape(tmp_path / "new" / "embedding_cache.db")


async def test_two_that_open_it_at_once_migrate_it_once(directory: Path, database: Path) -> None:
    first, second = CacheManager(settings(directory)), CacheManager(settings(directory))
    await asyncio.gather(first.open(), second.open())
    try:
        assert await second.embedding.put(key_of(9), embedding(1.0))
        assert await first.embedding.get(key_of(9)) is not None
        assert await first.embedding.get(key_of(3)) is not None
    finally:
        await first.aclose()
        await second.aclose()


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
