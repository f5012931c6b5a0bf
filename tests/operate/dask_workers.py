"""What the tests of Dask run on the workers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from asteady._session.session import Session
from asteady.operate.dask._session_plugin import SessionPlugin

if TYPE_CHECKING:
    from distributed import Worker


def sessions_of(dask_worker: Worker) -> list[Session]:
    plugins = dask_worker.plugins.values()
    found = [plugin.session for plugin in plugins if isinstance(plugin, SessionPlugin)]
    return [session for session in found if session is not None]


def computed(dask_worker: Worker, cache_dir: str) -> int:
    """How many answers the sessions with caches there have computed."""
    return sum(
        pool.finished
        for session in sessions_of(dask_worker)
        if str(session.settings.cache_dir).startswith(cache_dir)
        for pool in session.statistics().pools.values()
    )


def set_variable(name: str, value: str) -> None:
    """Set a variable of the worker's process; with "" it counts as not set."""
    os.environ[name] = value


def keep_apart(dask_worker: Worker, cache_dir: str) -> None:
    """Give the worker's process a cache directory of its own, as machines have."""
    os.environ["ASTEADY_CACHE_DIR"] = os.path.join(cache_dir, str(os.getpid()))
