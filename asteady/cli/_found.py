"""The cache as it was found: commands that look at it leave its sizes and its policy alone.

Whoever opens a cache with a smaller budget evicts what is beyond it, which a program does with good
reason. A command in a shell that knows nothing of the program's settings must not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import attrs

from asteady._base.settings import MEBIBYTE, Settings
from asteady._cache.manager import CacheManager
from asteady._cache.policy import POLICIES


def settings_as_found() -> Settings:
    """From the environment, but with the sizes and the policy of the cache, if there is one."""
    settings = Settings.from_environment()
    found: dict[str, Any] = {}
    for kind in ("generation", "embedding"):
        uri = f"{(settings.cache_dir / f'{kind}_cache.db').absolute().as_uri()}?mode=ro"
        try:
            with closing(sqlite3.connect(uri, uri=True)) as connection:
                row = connection.execute("SELECT policy, max_entries, max_bytes FROM cache")
                policy, max_entries, max_bytes = row.fetchone()
        except (sqlite3.Error, TypeError):
            continue  # There is none, or opening it tells what is wrong with it.
        if policy in POLICIES:
            found["cache_policy"] = policy
            found[f"{kind}_cache_capacity"] = max_entries
            found[f"{kind}_cache_max_size_mb"] = max_bytes / MEBIBYTE
    return attrs.evolve(settings, **found)


@asynccontextmanager
async def found_manager() -> AsyncIterator[CacheManager]:
    """The caches, open, with `settings_as_found`."""
    manager = CacheManager(settings_as_found())
    await manager.open()
    try:
        yield manager
    finally:
        await manager.aclose()
