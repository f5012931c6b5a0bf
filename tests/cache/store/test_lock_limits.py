"""Locks between processes: bounded in time, and in number."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import stat
import zlib
from pathlib import Path

import pytest
from filelock import FileLock

from asteady._cache.store.locks import SHARDS, Locks

pytestmark = pytest.mark.anyio


async def test_a_process_that_holds_a_lock_too_long_is_no_longer_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be stopped: then nobody would ever get an answer."""
    key = "ab" * 32
    holder = FileLock(tmp_path / "locks" / f"{zlib.crc32(key.encode()) % SHARDS:04}.lock")
    (tmp_path / "locks").mkdir()
    with holder:
        locks = Locks(tmp_path / "locks", asyncio.to_thread, failed, timeout_s=0.0)
        with caplog.at_level(logging.WARNING, logger="asteady"):
            async with locks.computing(key) as waited:
                assert waited in (True, False)
    assert "computing it here too" in caplog.text


async def test_with_many_computations_under_way_the_others_go_without_a_lock(
    tmp_path: Path,
) -> None:
    """Each lock is an open file, of which a process may not have many."""
    locks = Locks(tmp_path / "locks", asyncio.to_thread, failed, max_locks=2)
    async with contextlib.AsyncExitStack() as stack:
        for number in range(10):
            await stack.enter_async_context(locks.computing(f"key {number}"))
        assert len(list((tmp_path / "locks").iterdir())) == 2
    assert stat.S_IMODE((tmp_path / "locks").stat().st_mode) == 0o700


def failed(what: str, error: Exception) -> None:
    raise AssertionError(f"{what}: {error}")
