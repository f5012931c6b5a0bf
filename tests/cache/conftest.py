from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import settings

from asteady._cache.manager import CacheManager
from tests.cache.helpers import embedding, fill, key_of, opened

# No deadline: other work on the machine must not fail a test.
settings.register_profile("asteady", deadline=None, max_examples=60)
settings.load_profile("asteady")


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
