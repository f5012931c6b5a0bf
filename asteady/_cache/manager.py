"""The two caches of a session: completions and embeddings."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from asteady._base.errors import InvalidRequestError, StoreError
from asteady._base.files import AnyPath
from asteady._base.forks import fork_gate
from asteady._base.public import public
from asteady._base.requests import KINDS, Completion, Embedding, Kind, is_below, namespace_path
from asteady._base.settings import MEBIBYTE, Settings
from asteady._base.validation import needs, one_of
from asteady._cache.cache import TICK_S, Cache, Opener
from asteady._cache.memory import Memory
from asteady._cache.policy import POLICIES, Budget
from asteady._cache.shared import SharedCache
from asteady._cache.store.api import (
    BUSY_RETRY_S,
    BUSY_TIMEOUT_S,
    MAX_FILE_BYTES,
    Exported,
    Holding,
    Merged,
    Moved,
    NamespaceSize,
    Store,
    Untag,
)
from asteady._cache.store.codec import Codec, CompletionCodec, EmbeddingCodec
from asteady._cache.tier import SharedTierError

if TYPE_CHECKING:
    from asteady._cache.moves import Move
    from asteady._cache.redis import RedisTier

# What a command of a push or a pull may take.
MOVE_TIMEOUT_S = 10.0

A = TypeVar("A", Completion, Embedding)


@public
class CacheManager:
    """Owns both caches. Lives from `open` to `aclose`, on one event loop; a session does both.

    Used before it is open, it calls `opener`, if there is one, or raises `SessionNotOpenError`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        opener: Opener | None = None,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        busy_retry_s: float = BUSY_RETRY_S,
        tick_s: float = TICK_S,
    ) -> None:
        self._settings = settings
        self._busy_timeout_s = busy_timeout_s
        self._busy_retry_s = busy_retry_s
        budgets = {
            kind: Budget(
                getattr(settings, f"{kind}_cache_capacity"),
                max(1, int(getattr(settings, f"{kind}_cache_max_size_mb") * MEBIBYTE)),
            )
            for kind in KINDS
        }
        # One setting bounds the memory of both; they share it as they share the disk.
        disk_bytes = sum(budget.max_bytes for budget in budgets.values())
        share = min(1.0, settings.memory_max_size_mb * MEBIBYTE / disk_bytes)

        def make(kind: Kind) -> Cache[Any]:
            budget = budgets[kind]
            memory: Memory[Any] = Memory(budget.max_entries, int(budget.max_bytes * share))
            return Cache(
                kind, memory, budget, opener, tick_s=tick_s, timeout_s=settings.store_timeout_s
            )

        self.generation: Cache[Completion] = make("generation")
        self.embedding: Cache[Embedding] = make("embedding")
        self._tier: RedisTier | None = None

    def __repr__(self) -> str:
        return f"<CacheManager {self.generation!r}, {self.embedding!r}>"

    @property
    def directory(self) -> Path:
        """Where the databases are."""
        return self._settings.cache_dir

    async def open(self) -> None:
        """Open or make the databases, in a directory only its owner can read.

        A damaged one is set aside under another name and begun anew. One that cannot be opened
        within `store_timeout_s` is opened later, in the background; until then answers are
        remembered in memory, and `check_open` says why. Cancelling leaves nothing open.

        Raises:
            StoreError: a database is another application's.
            StoreVersionError: it was written by a newer version of asteady.
            SettingsError: `shared_cache` is no URL of a server, or redis-py is not installed.
        """
        locks = None if self._settings.disable_cache else self.directory / "locks"
        try:
            self._tier = tier = _make_tier(self._settings)
            await self._open(self.generation, CompletionCodec(), locks, tier)
            await self._open(self.embedding, EmbeddingCodec(), locks, tier)
        except BaseException:
            await self.aclose()
            raise

    async def check_open(self) -> None:
        """Raise unless both databases are open.

        Raises:
            StoreError: one of them is not, for this reason.
        """
        for cache in (self.generation, self.embedding):
            failure = (await cache.ready()).failure
            if failure is not None:
                raise StoreError(str(failure))

    async def _open(
        self, cache: Cache[A], codec: Codec[A], locks: Path | None, tier: RedisTier | None
    ) -> None:
        if tier is not None:
            cache.shared = SharedCache(tier, cache.kind, codec, cache.counters)
        await cache.open(self._make_store(cache, codec), locks)

    def _make_store(self, cache: Cache[A], codec: Codec[A]) -> Store[A]:
        if self._settings.disable_cache:
            return Store()
        # SQLite takes some milliseconds to import; a disabled cache does without.
        with fork_gate:
            from asteady._cache.store.sqlite import SqliteStore
            from asteady._cache.store.transaction import Tables

        tables = Tables(
            POLICIES[self._settings.cache_policy],
            cache.budget,
            codec,
            keep_requests_bytes=self._settings.keep_requests_bytes,
        )
        return SqliteStore(
            self._database(cache.kind),
            tables,
            cache.take_touches,
            cache.committed,
            busy_timeout_s=self._busy_timeout_s,
            busy_retry_s=self._busy_retry_s,
            timeout_s=self._settings.store_timeout_s,
        )

    async def aclose(self) -> None:
        """Write unwritten touches, and close. Idempotent.

        Cancelling stops waiting; the threads end all the same, after the commit in progress.
        """
        async with AsyncExitStack() as closing:
            if self._tier is not None:
                closing.push_async_callback(self._tier.aclose)
            closing.push_async_callback(self.embedding.aclose)
            closing.push_async_callback(self.generation.aclose)

    def abandon(self) -> None:
        """End the threads without the event loop, which no longer runs; touches that are not
        written are lost."""
        self.generation.abandon()
        self.embedding.abandon()

    async def get_cache_stats(self) -> dict[str, dict[str, Any]]:
        """The contents and counters of the caches, under "generation" and "embedding".

        `size` and `total_size_bytes` are common to all processes; `hits`, `misses`, `coalesced`,
        `evictions` and `seconds_saved` are this one's, and the same names with `all_` before them
        are summed over all processes and runs.
        """
        return {
            "generation": await self.generation.statistics(),
            "embedding": await self.embedding.statistics(),
        }

    async def clear_all_caches(self, *, shared: bool = True) -> None:
        """Remove every entry of both caches.

        Those of the shared tier are removed too, unless `shared` is False; those in the stores of
        other machines stay.

        Raises:
            StoreError: a database, or the shared tier, cannot be written.
        """
        await self.generation.clear(shared=False)
        await self.embedding.clear(shared=False)
        if shared:
            for cache in (self.generation, self.embedding):
                if cache.shared is not None:
                    await cache.shared.clear()

    async def namespaces(self, below: str | None = None) -> dict[str, NamespaceSize]:
        """The size of each namespace itself, by its path; only those at or below `below`, if given.

        Raises:
            InvalidRequestError: `below` is no path of a namespace.
            StoreError: a database cannot be read.
        """
        path = None if below is None else namespace_path(below)
        generation = await (await self.generation.ready()).holdings()
        embedding = await (await self.embedding.ready()).holdings()
        return {
            name: NamespaceSize(
                generation=generation.get(name, Holding()), embedding=embedding.get(name, Holding())
            )
            for name in sorted({*generation, *embedding})
            if path is None or is_below(name, path)
        }

    async def namespace_size(self, path: str) -> NamespaceSize:
        """The size of this namespace and all below it, each entry counted once.

        Raises:
            InvalidRequestError: `path` is no path of a namespace.
            StoreError: a database cannot be read.
        """
        path = namespace_path(path)
        return NamespaceSize(
            generation=await (await self.generation.ready()).holding(path),
            embedding=await (await self.embedding.ready()).holding(path),
        )

    async def clear_namespace(self, path: str, *, shared: bool = True) -> int:
        """Remove this namespace and all below it from their entries, and the entries that have no
        other namespace, in every process's view within a second; returns the number removed.

        So are those of the shared tier, which are not counted, unless `shared` is False.

        Raises:
            InvalidRequestError: `path` is no path of a namespace.
            StoreError: a database, or the shared tier, cannot be written.
        """
        path = namespace_path(path)
        generation = await (await self.generation.ready()).submit(Untag(path))
        embedding = await (await self.embedding.ready()).submit(Untag(path))
        if shared:
            for cache in (self.generation, self.embedding):
                if cache.shared is not None:
                    await cache.shared.clear_namespace(path)
        return int(generation) + int(embedding)

    async def shared_statistics(self) -> dict[str, Any] | None:
        """What the server of the shared tier says of itself; None if there is no such tier.

        `version`; `keys`, also those of other programs in the same database; `used_memory_bytes`
        of `max_memory_bytes` (0: no limit), and the `policy` and number of its `evictions`. What
        this process did with it is in `get_cache_stats`.

        Raises:
            SessionNotOpenError: the cache is not open.
            StoreError: the server does not answer.
        """
        await self.generation.ready()
        if self._tier is None:
            return None
        try:
            return await self._tier.statistics()
        except SharedTierError as exc:
            raise StoreError(str(exc)) from exc

    async def export_entries(self, path: AnyPath) -> Exported:
        """Write all entries with their answers to one file, while the cache is in use.

        The file is written whole or not at all, and only its owner can read it. An older
        export at `path` is replaced, anything else is not. Cancelling leaves no file.

        Raises:
            StoreError: the cache is disabled or cannot be read, or `path` is another kind of file.
            OSError: the file cannot be written.
        """
        from asteady._cache.transfer import export_entries

        await self._stores()
        databases: dict[str, Path] = {kind: self._database(kind) for kind in KINDS}
        return await export_entries(path, databases, self._settings.keep_requests_bytes)

    async def import_entries(
        self, path: AnyPath, *, max_file_bytes: int = MAX_FILE_BYTES
    ) -> dict[str, Merged]:
        """Add the entries of a file that `export_entries` wrote; returns what was done, by kind.

        Entries that are here already stay, with the better frecency of the two; when the budgets
        do not hold all, the least valuable are evicted. A file that is damaged, of a newer version,
        larger than `max_file_bytes` (4 GiB) or no export at all is refused, and nothing is changed.
        Cancelling while the file is checked changes nothing; later it only stops waiting.

        Raises:
            StoreVersionError: a newer version of asteady wrote the file.
            StoreError: the file is refused, or the cache is disabled or cannot be written.
        """
        from asteady._cache.transfer import import_entries

        return await import_entries(
            path,
            await self._stores(),
            keep_bytes=self._settings.keep_requests_bytes,
            max_file_bytes=max_file_bytes,
        )

    async def push_entries(
        self,
        url: str | None = None,
        *,
        kind: Kind | None = None,
        namespace: str | None = None,
        fingerprint: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> dict[Kind, Moved]:
        """Copy entries to a shared cache, while both are in use; returns what was done, by kind.

        What is there already stays, and gets the namespaces that it has here. The stored requests
        are not copied. Memory does not grow with the number of entries. Cancelling leaves what was
        copied; the next call goes on from there.

        Args:
            url: of a Redis or Valkey server; default: `Settings.shared_cache`.
            kind: only the entries of "generation" or of "embedding".
            namespace: only those of this namespace and all below it.
            fingerprint: only those of the model with this fingerprint; see
                `asteady.operate.fingerprint`.
            progress: called after each page with the number of entries so far.

        Raises:
            SettingsError: `url` is no URL of a server, or redis-py is not installed.
            InvalidRequestError: an argument is not allowed.
            StoreError: the cache is disabled or cannot be read, the server fails or refuses an
                entry, as one whose memory is full may, or `shared_cache_any_cpu` is set: machines
                with it look for keys that stored entries do not have.
        """
        from asteady._cache.moves import push

        if self._settings.shared_cache_any_cpu:
            raise StoreError(
                "shared_cache_any_cpu is set, and machines with it look for keys that stored"
                " entries do not have; without it (ASTEADY_SHARED_CACHE_ANY_CPU=0), entries are"
                " pushed for machines without it"
            )
        return await self._move(push, url, kind, namespace, fingerprint, progress)

    async def pull_entries(
        self,
        url: str | None = None,
        *,
        kind: Kind | None = None,
        namespace: str | None = None,
        fingerprint: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> dict[Kind, Moved]:
        """Copy entries from a shared cache, while both are in use; returns what was done, by kind.

        What is here already stays, and gets the namespaces that it has there. Nothing is evicted:
        entries that do not fit into what the budgets have left are counted as `full`, and are still
        found in the shared cache. Damaged ones are logged and left out. Arguments, memory and
        cancelling are as in `push_entries`.

        Raises:
            SettingsError, InvalidRequestError: as in `push_entries`.
            StoreError: the cache is disabled or cannot be written, or the server fails.
        """
        from asteady._cache.moves import pull

        return await self._move(pull, url, kind, namespace, fingerprint, progress)

    async def _move(
        self,
        run: Callable[[Move], Awaitable[Moved]],
        url: str | None,
        kind: Kind | None,
        namespace: str | None,
        fingerprint: str | None,
        progress: Callable[[int], None] | None,
    ) -> dict[Kind, Moved]:
        from asteady._cache.moves import Move

        if kind is not None:
            one_of("kind", kind, KINDS)
        path = None if namespace is None else namespace_path(namespace)
        stores = await self._stores()
        settings = self._settings if url is None else attrs.evolve(self._settings, shared_cache=url)
        # A client of its own: a batch may take longer than an answer may be delayed, and its
        # failures are raised.
        tier = _make_tier(settings, timeout_s=MOVE_TIMEOUT_S, log_level=logging.DEBUG)
        if tier is None:
            raise InvalidRequestError(
                "there is no shared cache: give its URL, as redis://host:6379/0, or set"
                " shared_cache (ASTEADY_SHARED_CACHE)"
            )
        done: dict[Kind, Moved] = {}

        def moved(now: Moved) -> None:
            if progress is not None:
                progress(now.entries + sum(before.entries for before in done.values()))

        try:
            for each in KINDS if kind is None else (kind,):
                done[each] = await run(
                    Move(
                        kind=each,
                        store=stores[each],
                        tier=tier,
                        namespace=path,
                        fingerprint=fingerprint,
                        moved=moved,
                    )
                )
        except SharedTierError as exc:
            reason = str(exc).rstrip(".")
            raise StoreError(f"{reason}; the same call, made again, goes on from there") from exc
        finally:
            await tier.aclose()
        return done

    async def _stores(self) -> dict[Kind, Store[Any]]:
        """Both stores; a default session is opened for it."""
        if self._settings.disable_cache:
            raise StoreError("the cache is disabled (disable_cache), so there is nothing to move")
        return {
            "generation": await self.generation.ready(),
            "embedding": await self.embedding.ready(),
        }

    def _database(self, kind: str) -> Path:
        return self.directory / f"{kind}_cache.db"


def _make_tier(
    settings: Settings, *, timeout_s: float | None = None, log_level: int = logging.WARNING
) -> RedisTier | None:
    if settings.shared_cache is None or settings.disable_cache:
        return None
    needs("redis", extra="redis")
    with fork_gate:
        from asteady._cache.redis import RedisTier

    return RedisTier(
        settings.shared_cache,
        timeout_s=timeout_s or settings.shared_cache_timeout_s,
        lease_s=settings.shared_cache_lease_s,
        log_level=log_level,
    )
