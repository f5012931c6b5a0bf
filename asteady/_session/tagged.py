"""Answers asked for under a namespace, which holds them by the time that the caller has them."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from typing import TYPE_CHECKING, TypeVar

from asteady._base.declared import DeclaredPrefix
from asteady._base.requests import Completion, Embedding, EmbedRequest, GenerateRequest
from asteady._session.pipeline import Answering, CacheMode, Joined

if TYPE_CHECKING:
    from asteady._cache.memory import Held
    from asteady._cache.namespaces import Asked, Namespaces

A = TypeVar("A", bound=Completion | Embedding)


class TaggedAnswering(Answering[A]):
    """A session's `Answering`, under one namespace: the same keys, flights and entries."""

    def __init__(self, answering: Answering[A], namespace: str) -> None:
        super().__init__(
            answering._kind,
            answering._cache,
            answering._engines,
            answering._flights,
            answering._observers,
        )
        self._namespace = namespace
        self._namespaces: Namespaces[A] = answering._cache._namespaces
        self._asked = self._namespaces.asked(namespace)

    def recall(self, alias: Hashable) -> A | None:
        """`Cache.recall`, of what the namespace is known to hold; counts here too.

        Raises:
            TypeError: the alias cannot be hashed.
        """
        held = self.find(alias)
        return None if held is None else self._hit(held)

    def find(self, alias: Hashable) -> Held[A] | None:
        """What `recall` would answer with; only looks, so any thread may ask."""
        held = self._cache._aliases.get(alias)
        return None if held is None or self._namespace not in held.tags else held

    def _hit(self, held: Held[A]) -> A:
        self._asked.hits += 1
        return self._cache._hit(held)

    async def join(
        self,
        request: GenerateRequest | EmbedRequest,
        *,
        model: str,
        mode: CacheMode,
        alias: Hashable = None,
        prefix: DeclaredPrefix | None = None,
    ) -> Joined[A]:
        joined = await super().join(request, model=model, mode=mode, alias=alias, prefix=prefix)
        if mode == "bypass":
            return joined
        return _TaggedJoined(joined, self, self._asked if mode in ("use", "only") else None)

    async def secure(self, request: GenerateRequest | EmbedRequest, *, model: str) -> bool:
        key = await self.key(request, model)
        if not await self._cache.contains(key):
            return False
        await self._namespaces.hold(key, self._namespace)
        return True


class _TaggedJoined(Joined[A]):
    """A part that has the namespace hold the answer before it is given out."""

    def __init__(
        self, joined: Joined[A], answering: TaggedAnswering[A], asked: Asked | None
    ) -> None:
        super().__init__(joined.key, joined._answer, joined._flight, joined._outcome, joined._watch)
        self._answering = answering
        self._asked = asked
        if self._flight is not None:
            # Stored with the answer, in one commit, if it is not there yet.
            self._flight.namespaces.add(answering._namespace)

    async def wait(self) -> A:
        try:
            if self._flight is not None:
                await self._flight.wait_done()
            answer = self.result()
            await self._hold()
            return answer
        finally:
            self.leave(sys.exception())

    async def wait_chunk(self, index: int) -> bool:
        more = await super().wait_chunk(index)
        if not more and (self._flight is None or self._flight.succeeded):
            await self._hold()
        return more

    def leave(self, error: BaseException | None = None) -> None:
        if self._asked is not None:
            if self._outcome == "coalesced":
                self._asked.coalesced += 1
            elif self._outcome == "computed" and not self._replayed:
                self._asked.misses += 1
            else:
                self._asked.hits += 1
        super().leave(error)

    @property
    def _replayed(self) -> bool:
        # A stream that was left before its end did not look at the result.
        flight = self._flight
        return flight is not None and flight.succeeded and flight.result().cached

    async def _hold(self) -> None:
        await self._answering._namespaces.hold(self.key, self._answering._namespace)
