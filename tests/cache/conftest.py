from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import settings

from asteady.cache._manager import CacheManager
from tests.cache.helpers import opened

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
