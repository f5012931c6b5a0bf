"""The one way that a request takes, from the caller to the cache, the flight and the pool.

memory tier          a hit returns without suspending
flights.join(key)    one task per key, owned by the session
    cache.get        a hit on disk resolves the flight
    pool.run         else a worker computes
    cache.put        committed before any caller is answered
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Generic, Literal, TypeAlias, TypeVar

from asteady._base.declared import DeclaredPrefix
from asteady._base.errors import CacheMissError, InvalidRequestError
from asteady._base.requests import Completion, Embedding, EmbedRequest, GenerateRequest, Key
from asteady._session.flight import Flight, Flights
from asteady._session.models import Engines, Kind
from asteady._session.observe import Observers, Outcome, Watch

if TYPE_CHECKING:
    from asteady._cache.cache import Cache

A = TypeVar("A", bound=Completion | Embedding)

CacheMode: TypeAlias = Literal["use", "refresh", "bypass", "only"]

_MODES = ("use", "refresh", "bypass", "only")


class Joined(Generic[A]):
    """One caller's part in an answer: the answer itself, or a place in its flight.

    It is given up exactly once, by `wait` or by `leave`.
    """

    def __init__(
        self,
        key: Key,
        answer: A | None,
        flight: Flight[A] | None,
        outcome: Outcome,
        watch: Watch | None,
    ) -> None:
        self.key = key
        self._answer = answer
        self._flight = flight
        self._outcome = outcome
        self._watch = watch

    @property
    def chunks(self) -> Sequence[str]:
        """The chunks so far; there will be no more when `wait_chunk` says so."""
        if self._flight is not None:
            return self._flight.chunks
        return self._answer.chunks if isinstance(self._answer, Completion) else ()

    async def wait_chunk(self, index: int) -> bool:
        """Wait until chunk `index` is there (True) or there will be none (False)."""
        if self._flight is not None:
            return await self._flight.wait_chunk(index)
        return index < len(self.chunks)

    async def wait(self) -> A:
        """The answer; see `Flight.wait`. A cancelled wait gives the part up."""
        try:
            if self._flight is not None:
                await self._flight.wait_done()
            return self.result()
        finally:
            self.leave(sys.exception())

    def result(self) -> A:
        """The answer of a flight that is done; raises what it raised."""
        if self._flight is not None:
            self._answer = self._flight.result()
            if self._answer.cached and self._outcome == "computed":
                self._outcome = "disk"
        assert self._answer is not None
        return self._answer

    def leave(self, error: BaseException | None = None) -> None:
        """Give the part up; `error` is what the caller gets, if it gets one."""
        if self._flight is not None:
            self._flight.leave()
        if self._watch is not None:
            self._watch.ended(self._outcome, self._answer, error)


class Answering(Generic[A]):
    """Answers the requests of one kind; lives as long as its session.

    Every call counts once in the statistics of its cache: as a hit, a miss or coalesced
    (bypassed and refreshed ones are not look-ups and do not count).
    """

    def __init__(
        self,
        kind: Kind,
        cache: Cache[A],
        engines: Engines,
        flights: Flights,
        observers: Observers,
    ) -> None:
        self._observers = observers
        self._kind = kind
        self._cache = cache
        self._engines = engines
        self._flights = flights

    async def key(self, request: GenerateRequest | EmbedRequest, model: str) -> Key:
        """The key of the request's answer; may load nothing but has to read the model's file."""
        known = self._engines.fingerprints.get((self._kind, model))
        return request.key(known or await self._engines.fingerprint(self._kind, model))

    async def join(
        self,
        request: GenerateRequest | EmbedRequest,
        *,
        model: str,
        mode: CacheMode,
        alias: Hashable = None,
        prefix: DeclaredPrefix | None = None,
    ) -> Joined[A]:
        """Join the computation of the answer, or start it, unless the memory tier has it.

        `prefix` is what the prompt begins with; it only matters to a computation that is started.

        Raises:
            InvalidRequestError: `mode` is none of the four.
            ModelError: the model cannot be had.
        """
        watch = Watch(self._observers, request, model) if self._observers.active else None
        try:
            return await self._join(request, model, mode, alias, watch, prefix)
        except BaseException as exc:
            if watch is not None:
                watch.ended(error=exc)
            raise

    async def answer(
        self,
        request: GenerateRequest | EmbedRequest,
        *,
        model: str,
        mode: CacheMode,
        alias: Hashable = None,
        prefix: DeclaredPrefix | None = None,
    ) -> A:
        """The answer, waited for. Cancelling stops waiting, and the computation with the last."""
        joined = await self.join(request, model=model, mode=mode, alias=alias, prefix=prefix)
        return await joined.wait()

    async def contains(self, request: GenerateRequest | EmbedRequest, *, model: str) -> bool:
        """Whether the answer is in the cache; computes, counts and touches nothing."""
        return await self._cache.contains(await self.key(request, model))

    async def secure(self, request: GenerateRequest | EmbedRequest, *, model: str) -> bool:
        """As `contains`; what is there is held by the namespace that is asked under, if any."""
        return await self.contains(request, model=model)

    async def _join(
        self,
        request: GenerateRequest | EmbedRequest,
        model: str,
        mode: CacheMode,
        alias: Hashable,
        watch: Watch | None,
        prefix: DeclaredPrefix | None,
    ) -> Joined[A]:
        if mode not in _MODES:
            raise InvalidRequestError(
                f'cache={mode!r} is not allowed: "use", "refresh", "bypass" or "only"'
            )
        key = await self.key(request, model)
        if watch is not None:
            watch.key = key
        if mode in ("use", "only"):
            answer = self._cache.recall_key(key)
            if answer is not None:
                self._cache.remember_alias(alias, key)
                return Joined(key, answer, None, "memory", watch)

        async def compute(flight: Flight[A]) -> A:
            return await self._answer(flight, request, key, model, mode, alias, prefix)

        # What is computed under one flight key is the same for all who join it. A bypassed call
        # joins nobody.
        flight, started = self._flights.join(
            object() if mode == "bypass" else (self._kind, mode, key), compute
        )
        if started:
            return Joined(key, None, flight, "computed", watch)
        if mode in ("use", "only"):
            self._cache.count_coalesced()
        return Joined(key, None, flight, "coalesced", watch)

    async def _answer(
        self,
        flight: Flight[A],
        request: GenerateRequest | EmbedRequest,
        key: Key,
        model: str,
        mode: CacheMode,
        alias: Hashable,
        prefix: DeclaredPrefix | None,
    ) -> A:
        if mode in ("use", "only"):
            found = await self._cache.get(key, alias=alias)
            if found is not None:
                return _replay(flight, found)
            if mode == "only":
                raise CacheMissError(
                    f"the answer with key {key} is not in the cache, and cache='only' does not"
                    " compute; leave it out to compute"
                )
        if mode == "bypass":
            return await self._compute(flight, request, model, prefix)
        async with self._cache.computing(key):
            # Another process may have stored it since we looked, whether we waited for it or not.
            if mode == "use" and (found := await self._cache.look_again(key)) is not None:
                return _replay(flight, found)
            answer = await self._compute(flight, request, model, prefix)
            await self._cache.put(
                key, answer, alias=alias, request=request, namespaces=tuple(flight.namespaces)
            )
        return answer

    async def _compute(
        self,
        flight: Flight[A],
        request: GenerateRequest | EmbedRequest,
        model: str,
        prefix: DeclaredPrefix | None,
    ) -> A:
        run = self._engines.run
        # By its kind, the answer is an A.
        return await run(self._kind, model, request, flight.emit, prefix)  # type: ignore[return-value]


def _replay(flight: Flight[A], found: A) -> A:
    if isinstance(found, Completion):
        flight.emit(*found.chunks)
    return found
