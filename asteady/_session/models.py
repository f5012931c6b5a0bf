"""The models of a session: each identified once, loaded once, and given a pool of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar
from weakref import WeakSet

from asteady._base.activity import Activities
from asteady._base.errors import ModelChangedError, SessionClosedError
from asteady._base.forks import fork_gate
from asteady._base.requests import DeclaredPrefix, Kind
from asteady._base.settings import Settings
from asteady._base.tasks import run_in_daemon
from asteady._engine.api import (
    ChecksReferences,
    DescribesFingerprints,
    EngineSource,
    Fetching,
    HasDimensions,
    KnowsDimensions,
    KnowsMachine,
    LoadsTokenizers,
    MachineStatistics,
    ReadsFiles,
    Reports,
)
from asteady._session.flight import Flight, Flights

# The engine's modules are imported by the threads that need them first, off the event loop:
# importing asteady costs no more than what every program uses.
if TYPE_CHECKING:
    from asteady._engine.api import Answer, Engine, PrefixStatistics, Request
    from asteady._engine.counting import AskTokenizer, TokenCounter
    from asteady._engine.pool import Emit, Pool, PoolStatistics

# As long as closing a pool waits.
_CLOSE_COUNTERS_S = 2.0

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

_log = logging.getLogger("asteady")


class GivenEngine:
    """A source that has one engine, whatever the reference: for tests."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def fingerprint(self, kind: Kind, reference: str) -> str:
        return self._engine.fingerprint

    def load(self, kind: Kind, reference: str) -> Engine:
        return self._engine


MakeSource: TypeAlias = Callable[[Settings], EngineSource]

_overrides: list[MakeSource] = []


def engine_source(settings: Settings, engine: Engine | None) -> EngineSource:
    """Where a session with these arguments has its engines from."""
    if engine is not None:
        return GivenEngine(engine)
    if _overrides:
        return _overrides[-1](settings)
    with fork_gate:
        from asteady._engine.sources import ModelSource

    return ModelSource(settings)


@contextmanager
def engine_source_override(make: MakeSource) -> Iterator[None]:
    """Within the block, sessions that are constructed without an engine have theirs from `make`.

    In the whole process, on every thread; blocks may be nested, the innermost counts. The
    recordings of `asteady.testing` are made so.
    """
    _overrides.append(make)
    try:
        yield
    finally:
        _overrides.remove(make)


class Models:
    """The models of one session, which calls `aclose` after its flights have ended.

    A reference means the file that was identified first, until the model is loaded and the file is
    another one by then; `switched` is called with the kind and both fingerprints, old and new.
    """

    def __init__(
        self,
        source: EngineSource,
        settings: Settings,
        flights: Flights,
        switched: Callable[[Kind, str, str], None],
    ) -> None:
        self._source = source
        self.activities = source.activities if isinstance(source, Reports) else Activities()
        self._settings = settings
        self._flights = flights
        self._pools: dict[tuple[Kind, str], Pool] = {}
        # Those of models that were not loaded when their tokens were asked for.
        self._counters: dict[tuple[Kind, str], TokenCounter] = {}
        # No longer among the pools, and not closed yet.
        self._leaving: set[Pool] = set()
        self._users: Counter[Pool | TokenCounter] = Counter()
        self._unused: dict[Pool | TokenCounter, asyncio.Future[None]] = {}
        # Loading threads use the pools and the counters, under this lock.
        self._closed = False
        self._lock = threading.Lock()
        self._fingerprints: dict[tuple[Kind, str], str] = {}
        self._dimensions: dict[str, int] = {}
        self._switched = switched
        self._given_up: WeakSet[Pool] = WeakSet()
        self._idle = IdleTimers(settings.idle_unload_s, self._unload)

    async def fingerprint(self, kind: Kind, reference: str, *, load: bool = False) -> str:
        """The fingerprint of a model; remembered until another one is loaded. Failures are not.

        With `load` the model begins to be loaded where its file must be read for that: the caller
        will need it, unless the answer is in the cache.

        Raises:
            ModelError: the model is unavailable.
        """
        known = self._fingerprints.get((kind, reference))
        if known is not None:
            return known

        async def identify(flight: Flight[str]) -> str:
            await self._fetch(reference)
            reading = self._load_soon((kind, reference)) if load else None
            found = await run_in_daemon(
                "asteady-identify", self._identify, kind, reference, reading
            )
            # It may have been loaded meanwhile, which is what counts.
            return self._fingerprints.setdefault((kind, reference), found)

        return await self._once(("identify", kind, reference), identify)

    def _identify(self, kind: Kind, reference: str, reading: Callable[[], None] | None) -> str:
        if reading is not None and isinstance(self._source, ReadsFiles):
            fingerprint = self._source.identify(kind, reference, reading)
        else:
            fingerprint = self._source.fingerprint(kind, reference)
        self._measure(kind, reference, fingerprint)
        return fingerprint

    def _measure(self, kind: Kind, reference: str, fingerprint: str) -> None:
        if kind == "embedding" and isinstance(self._source, KnowsDimensions):
            self._dimensions[fingerprint] = self._source.dimensions(reference)

    async def fingerprint_parts(self, kind: Kind, reference: str) -> Mapping[str, Any]:
        """What the model's fingerprint is the digest of, by name; nothing where the engine does
        not tell. Raises as `fingerprint` does."""
        await self.fingerprint(kind, reference)
        source = self._source
        if not isinstance(source, DescribesFingerprints):
            return {}
        return await run_in_daemon("asteady-identify", source.fingerprint_parts, kind, reference)

    def portable_fingerprint(self, fingerprint: str) -> str:
        """The fingerprint without what depends on the CPU, of one that `fingerprint` or a pool has
        given; the same where nothing does."""
        if not isinstance(self._source, DescribesFingerprints):
            return fingerprint
        return self._source.portable_fingerprint(fingerprint)

    def dimensions(self, fingerprint: str) -> int:
        """The dimensions of whole vectors of the model with this fingerprint; 0 if unknown."""
        return self._dimensions.get(fingerprint, 0)

    async def pool(self, kind: Kind, reference: str) -> Pool:
        """The pool of a model, loaded at the first call. A failed load is tried again."""
        pool = self._pools.get((kind, reference))
        if pool is not None:
            return pool
        return await self._begin_load((kind, reference)).wait()

    def _begin_load(self, key: tuple[Kind, str]) -> Flight[Pool]:
        async def load(flight: Flight[Pool]) -> Pool:
            await self._fetch(key[1])
            loaded = await run_in_daemon("asteady-load", self._load, *key)
            self._identified(key, loaded.fingerprint)
            if key in self._counters and loaded.counts_tokens:
                self._drop_counter(key)
            self._idle.rest(key)
            return loaded

        return self._begin(("load", *key), load)

    def _load_soon(self, key: tuple[Kind, str]) -> Callable[[], None]:
        """A function that begins to load a model; for any thread. Its errors are those of a load
        that is tried again when the model is needed."""
        loop = asyncio.get_running_loop()

        def begin() -> None:
            with suppress(SessionClosedError):
                if key not in self._pools:
                    self._begin_load(key).leave()

        def begin_soon() -> None:
            with suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(begin)

        return begin_soon

    async def run(
        self,
        kind: Kind,
        reference: str,
        request: Request,
        emit: Emit,
        prefix: DeclaredPrefix | None = None,
    ) -> tuple[Answer, str]:
        """Compute an answer in the pool of a model, which is not unloaded meanwhile; returns the
        pool's fingerprint too.

        A pool whose file was written to is given up, so that the next call loads the model anew.

        Raises what `pool` and `Pool.run` raise.
        """
        key = (kind, reference)
        while True:
            pool = await self.pool(kind, reference)
            # It may have been unloaded between the end of its load and now.
            if self._pools.get(key) is pool:
                break
        with self._use(key, pool):
            try:
                return await pool.run(request, emit, prefix), pool.fingerprint
            except ModelChangedError as exc:
                if self._pools.get(key) is pool:
                    _log.warning("%s", exc)
                    self._give_up(key, pool)
                raise
            except SessionClosedError as exc:
                if pool in self._given_up:
                    raise ModelChangedError(
                        f"the model {reference} was written to while it was in use: call again"
                    ) from exc
                raise

    async def ask_tokenizer(
        self, kind: Kind, reference: str, ask: AskTokenizer[T], characters: int
    ) -> T:
        """What `ask` finds with the model's tokenizer in a text of so many characters.

        If the model is not loaded, its vocabulary is, and is kept until the model is loaded or
        unloaded, or unused for as long as a model may be.

        Raises what `fingerprint` and `Pool.ask_tokenizer` raise.
        """
        key = (kind, reference)
        while True:
            counter = await self._counter(key)
            try:
                with self._use(key, counter):
                    return await counter.ask_tokenizer(ask, characters)
            except SessionClosedError:
                if counter in (self._pools.get(key), self._counters.get(key)):
                    raise
                # It was unloaded meanwhile, or the model was loaded.

    async def _counter(self, key: tuple[Kind, str]) -> TokenCounter | Pool:
        source = self._source
        if not isinstance(source, LoadsTokenizers):
            return await self.pool(*key)
        pool = self._pools.get(key)
        if pool is not None and pool.counts_tokens:
            return pool
        known = self._counters.get(key)
        if known is not None:
            return known

        async def load(flight: Flight[TokenCounter]) -> TokenCounter:
            await self._fetch(key[1])
            return await run_in_daemon("asteady-load", self._load_counter, source, key)

        return await self._once(("tokenizer", key), load)

    def _load_counter(self, source: LoadsTokenizers, key: tuple[Kind, str]) -> TokenCounter:
        with fork_gate:
            from asteady._engine.counting import TokenCounter

        tokenizer = source.tokenizer(*key)
        counter = TokenCounter(tokenizer, tokenizer.close)
        with self._lock:
            if not self._closed:
                self._counters[key] = counter
                return counter
        tokenizer.close()
        raise SessionClosedError("the session was closed while a vocabulary was loaded")

    def _drop_counter(self, key: tuple[Kind, str]) -> asyncio.Future[None]:
        """Free a vocabulary; whoever waits for it gets another one."""
        return self._counters.pop(key).close()

    @contextmanager
    def _use(self, key: tuple[Kind, str], used: Pool | TokenCounter) -> Iterator[None]:
        """Within the block it is not unloaded."""
        self._users[used] += 1
        try:
            with self._idle.use(key):
                yield
        finally:
            self._users[used] -= 1
            if not self._users[used]:
                del self._users[used]
                if (unused := self._unused.pop(used, None)) is not None and not unused.done():
                    unused.set_result(None)

    async def unload(self, references: Collection[str] | None) -> None:
        """Free these models, or all, when what they compute now is done.

        What is asked for meanwhile loads them again. A model that is not loaded, or not yet, is
        left alone.

        Raises:
            ModelNotFoundError: these can be no models.
        """

        def meant(key: tuple[Kind, str]) -> bool:
            return references is None or key[1] in references

        # All of it begins here and now, so that a caller who leaves stops none of it.
        unloading = [self._begin_unload(key) for key in [*self._pools] if meant(key)]
        closing = [self._drop_counter(key) for key in [*self._counters] if meant(key)]
        await asyncio.gather(*(flight.wait() for flight in unloading), *closing)
        source = self._source
        if references is None or unloading or closing or any(map(meant, self._fingerprints)):
            return
        if isinstance(source, ChecksReferences):
            for reference in references:
                await run_in_daemon("asteady-identify", source.check_reference, reference)

    def _begin_unload(self, key: tuple[Kind, str]) -> Flight[bool]:
        with self._lock:
            pool = self._pools.pop(key)
        self._leaving.add(pool)

        async def unload(flight: Flight[bool]) -> bool:
            try:
                if self._users[pool]:
                    self._unused[pool] = asyncio.get_running_loop().create_future()
                    await self._unused[pool]
            finally:
                await pool.aclose()
            self._leaving.discard(pool)
            kind, reference = key
            _log.info("unloaded the %s model %s", kind, reference)
            return True

        flight, _ = self._flights.join(("unload", pool), unload)
        flight.waiters += 1  # the session itself waits too
        return flight

    def _identified(self, key: tuple[Kind, str], fingerprint: str) -> None:
        """This is what was loaded, whatever the file was before."""
        before = self._fingerprints.get(key, fingerprint)
        self._fingerprints[key] = fingerprint
        if before != fingerprint:
            kind, reference = key
            _log.warning("%s model %s: the file was replaced; now it is another", kind, reference)
            self._switched(kind, before, fingerprint)

    def _unload(self, key: tuple[Kind, str]) -> None:
        if key in self._counters:
            self._drop_counter(key)
        pool = self._pools.get(key)
        if pool is None:
            return
        if self._give_up(key, pool):
            kind, reference = key
            idle_s = self._settings.idle_unload_s
            _log.info("unloading %s model %s: unused for %g s", kind, reference, idle_s)

    def _give_up(self, key: tuple[Kind, str], pool: Pool) -> bool:
        """Close a pool, so that the next call loads the model; False if the session is closing."""

        async def unload(flight: Flight[bool]) -> bool:
            await pool.aclose()
            return True

        try:
            # Only the session waits for it, when it closes.
            self._flights.join(("unload", pool), unload)
        except SessionClosedError:
            return False  # the session is about to close all pools
        self._given_up.add(pool)
        with self._lock:
            del self._pools[key]
        return True

    async def _fetch(self, reference: str) -> None:
        """Download the model's files if need be.

        A download may take an hour: its thread can be left behind, so that neither closing the
        session nor the end of the interpreter waits for it.
        """
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
        with fork_gate:
            from asteady._engine.pool import Pool

        engine = self._source.load(kind, reference)
        if isinstance(engine, HasDimensions):
            # Its source might read the whole file again.
            self._dimensions[engine.fingerprint] = engine.dimensions
        else:
            self._measure(kind, reference, engine.fingerprint)
        settings = self._settings
        pool = Pool(engine, workers=settings.workers, max_pending=settings.max_pending)
        with self._lock:
            if not self._closed:
                self._pools[kind, reference] = pool
                return pool
        # Closing does not wait for a load: the loading thread frees its model.
        engine.close()
        raise SessionClosedError("the session was closed while a model was loaded")

    def statistics(self) -> dict[str, PoolStatistics]:
        # Copied, as loading threads add to it.
        pools = list(self._pools.items())
        return {f"{kind}:{name}": pool.statistics() for (kind, name), pool in pools}

    def machine(self) -> MachineStatistics | None:
        source = self._source
        return source.machine() if isinstance(source, KnowsMachine) else None

    def prefixes(self) -> dict[str, PrefixStatistics]:
        """What declared prefixes have saved, by model."""
        found = {}
        for (kind, name), pool in list(self._pools.items()):
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
        counters, self._counters = self._counters, {}
        closing = [counter.close() for counter in counters.values()]
        async with asyncio.TaskGroup() as group:
            for pool in (*pools.values(), *self._leaving):
                group.create_task(pool.aclose())
            if closing:  # tokenising cannot be interrupted
                group.create_task(asyncio.wait(closing, timeout=_CLOSE_COUNTERS_S))

    def forget(self) -> None:
        """Leave the pools to their own exit hook: at the end of the interpreter no thread can be
        started any more, and `aclose` could not join them."""
        self._pools = {}

    async def _once(self, key: Hashable, compute: Callable[[Flight[T]], Awaitable[T]]) -> T:
        return await self._begin(key, compute).wait()

    def _begin(self, key: Hashable, compute: Callable[[Flight[T]], Awaitable[T]]) -> Flight[T]:
        flight, started = self._flights.join(key, compute)
        if started:
            # The session itself waits too: a load is finished even if its callers leave, or the
            # next caller would load the same weights beside it.
            flight.waiters += 1
        return flight


class IdleTimers(Generic[K]):
    """Calls `unload(key)` when a key has had no users for `idle_s` seconds; never if that is 0.

    For the event loop's thread. After `close` nothing is unloaded any more.
    """

    def __init__(self, idle_s: float, unload: Callable[[K], None]) -> None:
        self._idle_s = idle_s
        self._unload = unload
        self._users = Counter[K]()
        self._timers: dict[K, asyncio.TimerHandle] = {}

    @contextmanager
    def use(self, key: K) -> Iterator[None]:
        """Within the block, the key has one more user."""
        self._users[key] += 1
        self._stop(key)
        try:
            yield
        finally:
            self._users[key] -= 1
            self.rest(key)

    def rest(self, key: K) -> None:
        """Start the timer anew, if the key has no users."""
        self._stop(key)
        if self._idle_s and not self._users[key]:
            loop = asyncio.get_running_loop()
            self._timers[key] = loop.call_later(self._idle_s, self._fire, key)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._idle_s = 0.0

    def _stop(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _fire(self, key: K) -> None:
        del self._timers[key]
        self._unload(key)
