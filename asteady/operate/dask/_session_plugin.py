"""The session of a worker process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dask.base import tokenize
from distributed import Worker, WorkerPlugin, get_worker

from asteady._base.errors import SessionError
from asteady._base.options import SettingsOptions
from asteady._base.settings import PREFIXES, Settings
from asteady._session.session import Session

T = TypeVar("T")

# So many entries that only the bytes are a bound: a bulk has more texts than an app has prompts.
_ENTRIES = 10**9
_MAX_WORKERS = 4


class SessionPlugin(WorkerPlugin):
    """Has a session on each worker, opened by the first task and closed with the worker.

    The settings are `settings`, else the variables of the worker's machine. Without either, the
    session uses as many cores as the worker has threads, and its caches are bounded by bytes only.
    """

    # A session is not replaced while tasks use it.
    idempotent = True

    def __init__(self, settings: SettingsOptions) -> None:
        # Two calls with the same settings share the sessions.
        self.name = f"asteady-session-{tokenize(sorted(settings.items()))}"
        self.session: Session | None = None
        self._given = settings

    def setup(self, worker: Worker) -> None:
        self._threads = worker.state.nthreads
        self._loop = worker.loop.asyncio_loop  # type: ignore[attr-defined]  # tornado's
        self._opening = asyncio.Lock()

    async def teardown(self, worker: Worker) -> None:
        if self.session is not None:
            await self.session.aclose()

    def run(self, work: Callable[[Session, asyncio.Semaphore], Awaitable[T]]) -> T:
        """The result of ``await work(session, limit)``; blocks the thread of a task.

        Each call of the session is to be made under `limit`, which all tasks share.

        Raises:
            SettingsError, StoreError: the session cannot be opened. The next task tries again.
        """

        async def start() -> T:
            async with self._opening:
                if self.session is None:
                    await self._open()
            assert self.session is not None
            return await work(self.session, self._limit)

        return asyncio.run_coroutine_threadsafe(start(), self._loop).result()

    async def _open(self) -> None:
        settings = settings_of_worker(self._given, self._threads)
        # More at once would wait in the queue of the pool, which refuses what is too much.
        at_once = max(64, 2 * settings.workers * settings.batch_width)
        self._limit = asyncio.Semaphore(min(at_once, settings.max_pending))
        self.session = await Session(settings).open()


def settings_of_worker(given: SettingsOptions, threads: int) -> Settings:
    """The settings of a worker with so many threads, in its environment."""
    defaults = {
        "generation_cache_capacity": _ENTRIES,
        "embedding_cache_capacity": _ENTRIES,
        "cores": threads,
        "workers": min(threads, _MAX_WORKERS),
    }
    # As the variables that are read last, so that any other one goes before them.
    variables = {PREFIXES[-1] + name.upper(): str(value) for name, value in defaults.items()}
    return Settings.from_environment(environ={**variables, **os.environ}, **given)


def plugin_here(name: str) -> SessionPlugin:
    """The plugin of the worker that runs this task.

    Raises:
        SessionError: no worker runs it, or one that has no such plugin.
    """
    try:
        plugin = get_worker().plugins.get(name)
    except ValueError:
        plugin = None
    if not isinstance(plugin, SessionPlugin):
        raise SessionError(
            "no session is open here: compute the collection on the cluster whose client was given"
            " to embed or generate (client.compute(...), or .compute() while it is the default)"
        )
    return plugin
