"""The models of a session: each identified once, loaded once, and given a pool of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Hashable
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

import anyio

from asteady._base.errors import SessionClosedError
from asteady._base.settings import Settings
from asteady._base.tasks import run_in_daemon
from asteady._session.flight import Flight, Flights
from asteady._session.idle import IdleTimers

# The engine's modules are imported by the threads that need them first, off the event loop:
# importing asteady costs no more than what every program uses.
if TYPE_CHECKING:
    from asteady._base.declared import DeclaredPrefix
    from asteady._engine.api import Answer, Engine, Request
    from asteady._engine.lane import Emit
    from asteady._engine.models.resolve import ModelFile
    from asteady._engine.plan import EngineOptions
    from asteady._engine.pool import Pool, PoolStatistics
    from asteady._engine.prefix_cache import PrefixStatistics

T = TypeVar("T")

_log = logging.getLogger("asteady")

Kind: TypeAlias = Literal["generation", "embedding"]


class EngineSource(Protocol):
    """Where engines come from. Both methods block and run in worker threads."""

    def fingerprint(self, kind: Kind, reference: str) -> str:
        """What `load` would give its engine as fingerprint, without loading the weights.

        Raises:
            ModelError: there is no such model, or its file cannot be used.
        """
        ...

    def load(self, kind: Kind, reference: str) -> Engine:
        """Load the model; raises as `fingerprint` does."""
        ...


@runtime_checkable
class Fetching(Protocol):
    """A source whose models may first have to be fetched from afar."""

    def fetch(self, reference: str, stopped: Callable[[], bool]) -> None:
        """Bring the model's files here, unless they are. Blocks for as long as a download takes,
        but ends soon after `stopped` gives True. Raises as `EngineSource.fingerprint` does."""
        ...


class LlamaSource:
    """GGUF models in llama.cpp, set up as the settings say."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cache_dir = settings.cache_dir

    def fingerprint(self, kind: Kind, reference: str) -> str:
        from asteady._engine.loader import fingerprint_of

        return fingerprint_of(self._file(kind, reference), self._options(), self._cache_dir)

    def load(self, kind: Kind, reference: str) -> Engine:
        # Only here: importing llama.cpp costs 0.2 s, and remembered answers do without.
        from asteady._engine.llama.engine import LlamaEngine

        return LlamaEngine.load(self._file(kind, reference), self._options(), self._cache_dir)

    def fetch(self, reference: str, stopped: Callable[[], bool]) -> None:
        if reference.startswith("hf:"):
            from asteady._engine.models.hub import resolve_hub

            resolve_hub(reference, self._cache_dir, stopped=stopped)

    def _file(self, kind: Kind, reference: str) -> ModelFile:
        from asteady._engine.models.resolve import resolve_model

        return resolve_model(reference, kind=kind, cache_dir=self._cache_dir)

    def _options(self) -> EngineOptions:
        from asteady._engine.plan import EngineOptions

        return EngineOptions.of(self._settings)


class GivenEngine:
    """A source that has one engine, whatever the reference: for tests."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def fingerprint(self, kind: Kind, reference: str) -> str:
        return self._engine.fingerprint

    def load(self, kind: Kind, reference: str) -> Engine:
        return self._engine


# What makes a session's source, unless it is given an engine: the last. Recordings put theirs here.
sources: list[Callable[[Settings], EngineSource]] = [LlamaSource]


class Engines:
    """Lives as long as its session, which calls `aclose` after its flights have ended.

    `fingerprints` holds those already known, by (kind, reference), for callers that would rather
    not await.
    """

    def __init__(self, source: EngineSource, settings: Settings, flights: Flights) -> None:
        self._source = source
        self._settings = settings
        self._flights = flights
        self._pools: dict[tuple[Kind, str], Pool] = {}
        # Guards the two, which loading threads look at too.
        self._closed = False
        self._lock = threading.Lock()
        self.fingerprints: dict[tuple[Kind, str], str] = {}
        self._idle = IdleTimers(settings.idle_unload_s, self._unload)

    async def fingerprint(self, kind: Kind, reference: str) -> str:
        """The fingerprint of a model; found once, then remembered. Failures are not remembered."""
        known = self.fingerprints.get((kind, reference))
        if known is not None:
            return known

        async def identify(flight: Flight[str]) -> str:
            await self._fetch(reference)
            found = await run_in_daemon(
                "asteady-identify", self._source.fingerprint, kind, reference
            )
            self.fingerprints[kind, reference] = found
            return found

        return await self._once(("identify", kind, reference), identify)

    async def pool(self, kind: Kind, reference: str) -> Pool:
        """The pool of a model, loaded at the first call. A failed load is tried again."""
        pool = self._pools.get((kind, reference))
        if pool is not None:
            return pool

        async def load(flight: Flight[Pool]) -> Pool:
            await self._fetch(reference)
            loaded = await run_in_daemon("asteady-load", self._load, kind, reference)
            self._idle.rest((kind, reference))
            return loaded

        return await self._once(("load", kind, reference), load)

    async def run(
        self,
        kind: Kind,
        reference: str,
        request: Request,
        emit: Emit,
        prefix: DeclaredPrefix | None = None,
    ) -> Answer:
        """Compute an answer in the pool of a model, which is not idle meanwhile.

        Raises what `pool` and `Pool.run` raise.
        """
        key = (kind, reference)
        while True:
            pool = await self.pool(kind, reference)
            # It may have been unloaded between the end of its load and now.
            if self._pools.get(key) is pool:
                break
        with self._idle.use(key):
            return await pool.run(request, emit, prefix)

    def _unload(self, key: tuple[Kind, str]) -> None:
        pool = self._pools.get(key)
        if pool is None:
            return

        async def unload(flight: Flight[bool]) -> bool:
            await pool.aclose()
            return True

        try:
            # Nobody waits for it but the session, at its end.
            self._flights.join(("unload", pool), unload)
        except SessionClosedError:
            return  # the session is about to close all pools
        with self._lock:
            del self._pools[key]
        kind, reference = key
        idle_s = self._settings.idle_unload_s
        _log.info("unloading %s model %s: unused for %g s", kind, reference, idle_s)

    async def _fetch(self, reference: str) -> None:
        """A download may take an hour. So that it holds up neither closing the session nor the end
        of the interpreter, it has a thread that can be left behind."""
        source = self._source
        if not reference.startswith("hf:") or not isinstance(source, Fetching):
            return

        async def fetch(flight: Flight[bool]) -> bool:
            stopped = threading.Event()
            try:
                await run_in_daemon("asteady-fetch", source.fetch, reference, stopped.is_set)
            finally:
                stopped.set()
            return True

        await self._once(("fetch", reference), fetch)

    def _load(self, kind: Kind, reference: str) -> Pool:
        from asteady._engine.pool import Pool

        engine = self._source.load(kind, reference)
        settings = self._settings
        pool = Pool(engine, workers=settings.workers, max_pending=settings.max_pending)
        with self._lock:
            if not self._closed:
                self._pools[kind, reference] = pool
                return pool
        # Closing does not wait for a load; its model is freed by who loaded it.
        engine.close()
        raise SessionClosedError("the session was closed while a model was loaded")

    def statistics(self) -> dict[str, PoolStatistics]:
        return {f"{kind}:{name}": pool.statistics() for (kind, name), pool in self._pools.items()}

    def prefixes(self) -> dict[str, PrefixStatistics]:
        """Of the models whose workers share declared prefixes."""
        found = {}
        for (kind, name), pool in self._pools.items():
            statistics = pool.prefix_statistics() if kind == "generation" else None
            if statistics is not None:
                found[f"{kind}:{name}"] = statistics
        return found

    async def aclose(self) -> None:
        """Stop all workers and free the models."""
        self._idle.close()
        with self._lock:
            self._closed = True
            pools, self._pools = self._pools, {}
        async with anyio.create_task_group() as group:
            for pool in pools.values():
                group.start_soon(pool.aclose)

    def forget(self) -> None:
        """For the end of the interpreter, where no thread can be started any more: the pools have
        an exit hook of their own, and `aclose` has nothing left to do."""
        self._pools = {}

    async def _once(self, key: Hashable, compute: Callable[[Flight[T]], Awaitable[T]]) -> T:
        flight, started = self._flights.join(key, compute)
        if started:
            # The session itself waits too: a load that was begun is finished even if its callers
            # leave, or the next caller would load the same weights beside it.
            flight.waiters += 1
        return await flight.wait()
