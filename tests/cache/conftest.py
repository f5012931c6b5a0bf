from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from asteady import Session
from asteady._cache.manager import CacheManager
from asteady.testing import FakeEngine
from tests.cache.helpers import embedding, fill, key_of, opened
from tests.cache.machines import PATIENT_S, Machine
from tests.redis_server import RedisServer

if TYPE_CHECKING:
    import redis


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "caches"


@pytest.fixture
async def manager(directory: Path) -> AsyncIterator[CacheManager]:
    async with opened(directory) as manager:
        yield manager


@pytest.fixture
async def export(tmp_path: Path) -> Path:
    """Three completions and a vector, exported from a cache of their own."""
    path = tmp_path / "export.db"
    async with opened(tmp_path / "other") as other:
        await fill(other, range(3))
        await other.embedding.put(key_of("v"), embedding(0.6, 0.8))
        await other.export_entries(path)
    return path


@pytest.fixture
def machine(tmp_path: Path, redis_server: RedisServer) -> Machine:
    """Makes the session of a machine; by default the shared cache is `redis_server`."""

    def make(name: str, engine: FakeEngine, **options: Any) -> Session:
        settings = {
            "cache_dir": tmp_path / name,
            "shared_cache": redis_server.url,
            "shared_cache_timeout_s": PATIENT_S,
            "generation_cache_capacity": 100_000,
            "workers": 2,
        }
        return Session(engine=engine, **{**settings, **options})

    return make


@pytest.fixture
def redis_client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        yield client
