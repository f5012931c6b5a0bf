"""asteady without await: for scripts, notebooks, threads, and programs that are not asynchronous.

::

    import asteady.blocking as asteady

    print(asteady.generate("Write a haiku about caching", seed=42))

The module's functions use one session, opened at the first call with settings from the
environment; `Session` is for a session of one's own. The tools of `asteady.operate` are here too,
under the same names. All sessions live on one event loop in a background thread. They may be used
from any number of threads at once, also inside a function that runs in another event loop (which
they block meanwhile), and are closed when the interpreter exits.

In a child that was forked, the module's functions open a session of their own; a `Session` that
the parent had opened raises `SessionError` there.
"""

from __future__ import annotations

import atexit
import logging
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar, cast

import asteady._session.default as _default
from asteady._base.requests import Completion, Embedding, Key
from asteady._base.settings import Settings
from asteady._session.generation import context_of
from asteady._session.session import Session as _AsyncioSession
from asteady.blocking._calls import SessionCalls, WholeCalls, default_calls
from asteady.blocking._namespace import Namespace
from asteady.blocking._portal import Portal, portal, started
from asteady.blocking._prefix import Prefix
from asteady.blocking._stream import BlockingStream as Stream

if TYPE_CHECKING:
    from asteady._cache.cache import Cache as _AsyncioCache
    from asteady._cache.store.api import Entry, Exported, Merged, NamespaceSize, Order
    from asteady._cache.store.stored_request import Request
    from asteady._cache.transfer.transfer import AnyPath
    from asteady._engine.api import Engine
    from asteady._session.observe import Observer
    from asteady.blocking._tools import (
        CacheAwareGenerator,
        CacheBenchmark,
        CacheInspector,
        CacheMonitor,
        CacheOptimizer,
        CachePersistenceManager,
        HierarchicalCache,
        Operation,
        ProductionCacheMonitor,
        PrometheusCollector,
        StrategicCacheWarmer,
        opentelemetry,
        verify,
        verify_cache,
        warm_cache_parallel,
        warm_cache_sequential,
    )

__all__ = [
    "Cache",
    "CacheAwareGenerator",
    "CacheBenchmark",
    "CacheInspector",
    "CacheManager",
    "CacheMonitor",
    "CacheOptimizer",
    "CachePersistenceManager",
    "HierarchicalCache",
    "Namespace",
    "Operation",
    "Prefix",
    "ProductionCacheMonitor",
    "PrometheusCollector",
    "Session",
    "StrategicCacheWarmer",
    "Stream",
    "close",
    "complete",
    "embed",
    "embed_batches",
    "generate",
    "generate_iter",
    "get_cache_manager",
    "is_cached",
    "namespace",
    "opentelemetry",
    "prefix",
    "run",
    "stream",
    "verify",
    "verify_cache",
    "warm",
    "warm_cache_parallel",
    "warm_cache_sequential",
]

_log = logging.getLogger("asteady")

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A", Completion, Embedding)

# Longer than a flush of both databases takes; then the interpreter exits regardless.
_EXIT_S = 5.0

_sessions: weakref.WeakSet[_AsyncioSession] = weakref.WeakSet()


class Cache(Generic[A]):
    """One cache of a session; see `asteady.Cache`. Usable as long as the session is."""

    def __init__(self, calls: WholeCalls, kind: Literal["generation", "embedding"]) -> None:
        self._calls = calls
        self.kind = kind

    def __repr__(self) -> str:
        return f"<blocking Cache {self.kind}>"

    def get(self, key: Key) -> A | None:
        """The answer under this key, or None; counts a hit or a miss."""
        return self._ask(lambda cache: cache.get(key))

    def put(self, key: Key, answer: A) -> bool:
        """Store an answer; True once it is on disk. Never raises."""
        return self._ask(lambda cache: cache.put(key, answer))

    def delete(self, key: Key) -> bool:
        """Remove an entry; False if it was not there."""
        return self._ask(lambda cache: cache.delete(key))

    def clear(self) -> int:
        """Remove everything; returns how many entries that were."""
        return self._ask(lambda cache: cache.clear())

    def keys(self) -> list[Key]:
        """The keys of all entries, sorted."""
        return self._ask(lambda cache: cache.keys())

    def entries(
        self, limit: int = 100, order_by: Order = "priority", *, namespace: str | None = None
    ) -> list[Entry]:
        """The first entries in this order; see `asteady.Cache.entries`."""
        return self._ask(lambda cache: cache.entries(limit, order_by, namespace=namespace))

    def request(self, key: Key) -> Request | None:
        """What was asked, where the entry keeps it; see `asteady.Cache.request`."""
        return self._ask(lambda cache: cache.request(key))

    def statistics(self) -> dict[str, Any]:
        """See `CacheManager.get_cache_stats`."""
        return self._ask(lambda cache: cache.statistics())

    def _ask(self, question: Callable[[_AsyncioCache[A]], Awaitable[T]]) -> T:
        async def asked() -> T:
            manager = (await self._calls._session()).cache
            return await question(cast("_AsyncioCache[A]", getattr(manager, self.kind)))

        return self._calls._portal().call(asked)


class CacheManager:
    """Both caches of a session; see `asteady.CacheManager`. Usable as long as the session is."""

    def __init__(self, calls: WholeCalls) -> None:
        self._calls = calls
        self.generation: Cache[Completion] = Cache(calls, "generation")
        self.embedding: Cache[Embedding] = Cache(calls, "embedding")

    @property
    def directory(self) -> Path:
        """Where the databases are."""

        async def asked() -> Path:
            return (await self._calls._session()).cache.directory

        return self._calls._portal().call(asked)

    def get_cache_stats(self) -> dict[str, dict[str, Any]]:
        """What is in the caches and how they did, under "generation" and "embedding"."""

        async def asked() -> dict[str, dict[str, Any]]:
            return await (await self._calls._session()).cache.get_cache_stats()

        return self._calls._portal().call(asked)

    def clear_all_caches(self) -> None:
        """Remove every entry of both caches."""

        async def asked() -> None:
            await (await self._calls._session()).cache.clear_all_caches()

        self._calls._portal().call(asked)

    def namespaces(self, below: str | None = None) -> dict[str, NamespaceSize]:
        """What each namespace holds; see `asteady.CacheManager.namespaces`."""

        async def asked() -> dict[str, NamespaceSize]:
            return await (await self._calls._session()).cache.namespaces(below)

        return self._calls._portal().call(asked)

    def namespace_size(self, path: str) -> NamespaceSize:
        """What this namespace and all below it hold, each entry counted once."""

        async def asked() -> NamespaceSize:
            return await (await self._calls._session()).cache.namespace_size(path)

        return self._calls._portal().call(asked)

    def clear_namespace(self, path: str) -> int:
        """Remove what only this namespace, or one below it, holds; see
        `asteady.CacheManager.clear_namespace`."""

        async def asked() -> int:
            return await (await self._calls._session()).cache.clear_namespace(path)

        return self._calls._portal().call(asked)

    def export_entries(self, path: AnyPath) -> Exported:
        """Write all entries to a file; see `asteady.CacheManager.export_entries`."""

        async def asked() -> Exported:
            return await (await self._calls._session()).cache.export_entries(path)

        return self._calls._portal().call(asked)

    def import_entries(
        self, path: AnyPath, *, max_file_bytes: int | None = None
    ) -> dict[str, Merged]:
        """Take over the entries of such a file; see `asteady.CacheManager.import_entries`."""

        async def asked() -> dict[str, Merged]:
            cache = (await self._calls._session()).cache
            return await cache.import_entries(path, max_file_bytes=max_file_bytes)

        return self._calls._portal().call(asked)


class Session(SessionCalls):
    """`asteady.Session` without await: ``with Session() as session``, or `open` and `close`.

    It lives from `open` to `close`, at the latest until the interpreter exits. Takes the same
    arguments, and raises the same errors, as `asteady.Session`. Any thread may use it.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        engine: Engine | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(_AsyncioSession(settings, engine=engine, **arguments))
        self.cache = CacheManager(self)

    @property
    def settings(self) -> Settings:
        return self._asyncio_session.settings

    @property
    def awaitable(self) -> _AsyncioSession:
        """The `asteady.Session` behind it, to be used on its own event loop only, with `run`::

        run(session.awaitable.load, "generation")
        """
        return self._asyncio_session

    @property
    def is_open(self) -> bool:
        return self._asyncio_session.is_open

    @property
    def is_closed(self) -> bool:
        return self._asyncio_session.is_closed

    def open(self) -> Session:
        """Open the cache and be ready for requests. Loads no model yet.

        Raises:
            SessionError: the session was opened before.
            StoreError: the cache's directory or database cannot be used.
        """
        background = portal()
        background.call(self._asyncio_session.open)
        self._opened_by = background
        _sessions.add(self._asyncio_session)
        return self

    def close(self) -> None:
        """Stop taking requests, end the computations, flush and close the cache. Idempotent.

        Threads that still wait get `SessionClosedError`.
        """
        if self._opened_by is not None:
            self._opened_by.call(self.close_session)

    @contextmanager
    def observe(self, observer: Observer, *, everywhere: bool = False) -> Iterator[None]:
        """Have `observer` called, on the background loop's thread, with an `Observed` for each
        call that ends within the block; see `asteady.Session.observe`."""
        with self._asyncio_session.observe(observer, everywhere=everywhere):
            yield

    def __enter__(self) -> Session:
        return self.open()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        opened_by: Portal | None = getattr(self, "_opened_by", None)
        session = self._asyncio_session if opened_by is not None else None
        if session is None or session.is_closed or opened_by is not started():
            return
        session.abandon()
        warnings.warn(
            f"{session!r} was never closed; use `with`, or close()",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )

    def __repr__(self) -> str:
        return f"<blocking {self._asyncio_session!r}>"


generate = default_calls.generate
generate_iter = default_calls.generate_iter
complete = default_calls.complete
stream = default_calls.stream
embed = default_calls.embed
embed_batches = default_calls.embed_batches
is_cached = default_calls.is_cached
warm = default_calls.warm
namespace = default_calls.namespace
prefix = default_calls.prefix


def __getattr__(name: str) -> Any:
    # The tools, which are imported when somebody asks for one.
    if name in __all__:
        from asteady.blocking import _tools as _blocking_tools

        return getattr(_blocking_tools, name)
    raise AttributeError(f"module 'asteady.blocking' has no attribute {name!r}")


def get_cache_manager() -> CacheManager:
    """The caches of the default session, which is opened at their first use."""
    return CacheManager(default_calls)


def run(fn: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Await ``fn(*args, **kwargs)`` on the background loop; for whatever has no plain call here.

    Within it, ``asteady.generate`` and the others use the same session as this module's functions.
    """
    return portal().call(fn, *args, **kwargs)


def close() -> None:
    """Close the default session, if there is one; the next call opens another."""
    background = started()
    if background is not None:
        background.call(default_calls.close)


def _at_exit() -> None:
    background = started()
    if background is not None:
        background.stop(_close_all, _EXIT_S)


async def _close_all() -> None:
    default_calls.count()
    sessions = [*_sessions, *_default.sessions_here()]
    for session in sessions:
        if session.is_open:
            context_of(session).models.forget()
            try:
                await session.aclose()
            except Exception:
                _log.exception("closing a session at exit failed")


# Registered before the pool's own exit hook, and so called after it: the workers have ended.
atexit.register(_at_exit)
