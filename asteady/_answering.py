"""The one way that a request takes, from the caller to the cache, the flight and the pool.

memory tier          a hit returns without suspending
flights.join(key)    one task per key, owned by the session
    cache.get        a hit on disk resolves the flight
    pool.run         else a worker computes
    cache.put        committed before any caller is answered
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, Literal, TypeAlias, TypeVar

from asteady._engines import Engines, Kind
from asteady._errors import CacheMissError, InvalidRequestError
from asteady._flight import Flight, Flights
from asteady._requests import Completion, Embedding, EmbedRequest, GenerateRequest, Key
from asteady.cache._cache import Cache

A = TypeVar("A", bound=Completion | Embedding)

CacheMode: TypeAlias = Literal["use", "refresh", "bypass", "only"]

_MODES = ("use", "refresh", "bypass", "only")


class Answering(Generic[A]):
    """Answers the requests of one kind; lives as long as its session.

    Every call counts once in the statistics of its cache: as a hit, a miss or coalesced
    (bypassed and refreshed ones are not look-ups and do not count).
    """

    def __init__(self, kind: Kind, cache: Cache[A], engines: Engines, flights: Flights) -> None:
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
    ) -> A | Flight[A]:
        """The answer, if it is in the memory tier, else a flight that the caller has to leave.

        Raises:
            InvalidRequestError: `mode` is none of the four.
            ModelError: the model cannot be had.
        """
        if mode not in _MODES:
            raise InvalidRequestError(
                f'cache={mode!r} is not allowed: "use", "refresh", "bypass" or "only"'
            )
        key = await self.key(request, model)
        if mode in ("use", "only"):
            answer = self._cache.recall_key(key)
            if answer is not None:
                self._cache.remember_alias(alias, key)
                return answer

        async def compute(flight: Flight[A]) -> A:
            return await self._answer(flight, request, key, model, mode, alias)

        # What is computed under one flight key is the same for all who join it. A bypassed call
        # joins nobody.
        flight, started = self._flights.join(
            object() if mode == "bypass" else (self._kind, mode, key), compute
        )
        if not started and mode == "use":
            self._cache.count_coalesced()
        return flight

    async def answer(
        self,
        request: GenerateRequest | EmbedRequest,
        *,
        model: str,
        mode: CacheMode,
        alias: Hashable = None,
    ) -> A:
        """The answer, waited for. Cancelling stops waiting, and the computation with the last."""
        joined = await self.join(request, model=model, mode=mode, alias=alias)
        return await joined.wait() if isinstance(joined, Flight) else joined

    async def contains(self, request: GenerateRequest | EmbedRequest, *, model: str) -> bool:
        """Whether the answer is in the cache; computes, counts and touches nothing."""
        return await self._cache.contains(await self.key(request, model))

    async def _answer(
        self,
        flight: Flight[A],
        request: GenerateRequest | EmbedRequest,
        key: Key,
        model: str,
        mode: CacheMode,
        alias: Hashable,
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
            return await self._compute(flight, request, model)
        async with self._cache.computing(key):
            # Another process may have stored it since we looked, whether we waited for it or not.
            if mode == "use" and (found := await self._cache.look_again(key)) is not None:
                return _replay(flight, found)
            answer = await self._compute(flight, request, model)
            await self._cache.put(key, answer, alias=alias)
        return answer

    async def _compute(
        self, flight: Flight[A], request: GenerateRequest | EmbedRequest, model: str
    ) -> A:
        pool = await self._engines.pool(self._kind, model)
        return await pool.run(request, flight.emit)  # type: ignore[return-value]  # by its kind


def _replay(flight: Flight[A], found: A) -> A:
    if isinstance(found, Completion):
        flight.emit(*found.chunks)
    return found
