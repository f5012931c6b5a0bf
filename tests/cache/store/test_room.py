"""The log is bounded by the budget and by what is free, and some of the disk stays free."""

from __future__ import annotations

import shutil
import sqlite3
from collections import namedtuple
from contextlib import closing
from pathlib import Path

import pytest

from asteady._cache.manager import CacheManager
from asteady._cache.store.room import MAX_LOG_BYTES, RESERVE_BYTES, NoRoomError, Room
from tests.cache.helpers import completion, key_of

Usage = namedtuple("Usage", "total used free")
MEBIBYTE = 2**20


def log_bytes(connection: sqlite3.Connection) -> int:
    (pages,) = connection.execute("PRAGMA wal_autocheckpoint").fetchone()
    (limit_bytes,) = connection.execute("PRAGMA journal_size_limit").fetchone()
    assert pages == limit_bytes // 4096
    return int(limit_bytes)


def test_the_log_is_an_eighth_of_the_budget_and_a_quarter_of_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_bytes = 0
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, free_bytes))
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        room = Room(tmp_path / "x.db", 80 * MEBIBYTE)
        for free_bytes, expected in (  # noqa: B007  # disk_usage reads it
            (10**11, 10 * MEBIBYTE),
            (40 * MEBIBYTE, 10 * MEBIBYTE),
            (30 * MEBIBYTE, 4 * MEBIBYTE),
            (MEBIBYTE, 256 * 1024),
            (10**11, 10 * MEBIBYTE),
            (0, 64 * 1024),
        ):
            room.ensure(connection, 0)
            assert log_bytes(connection) == expected
        free_bytes = RESERVE_BYTES + 2000
        room.ensure(connection, 1000)
        with pytest.raises(NoRoomError, match="512 KB that stay free: make room on it, or clear"):
            room.ensure(connection, 1001)


@pytest.mark.parametrize("told", [Usage(0, 0, 0), OSError()])
def test_a_disk_that_does_not_tell_is_taken_for_empty(
    told: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def usage(path: Path) -> object:
        if isinstance(told, OSError):
            raise told
        return told

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        Room(tmp_path / "x.db", 10**12).ensure(connection, MEBIBYTE)
        assert log_bytes(connection) == MAX_LOG_BYTES


@pytest.mark.anyio
async def test_a_clear_gives_the_disk_its_space_back_at_once(manager: CacheManager) -> None:
    cache = manager.generation
    for number in range(200):
        await cache.put(key_of(number), completion("x" * 3000))
    database = manager.directory / "generation_cache.db"
    with closing(sqlite3.connect(database)) as other:
        other.execute("PRAGMA wal_checkpoint")  # all of it is in the database
    assert database.stat().st_size > 1_000_000
    assert await cache.clear() == 200
    assert database.stat().st_size < 100_000
    # The log is bounded as before.
    assert await cache.put(key_of("more"), completion())
    assert Path(f"{database}-wal").stat().st_size > 0
