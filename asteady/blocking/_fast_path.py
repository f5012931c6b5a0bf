"""Warm answers without await: a dictionary is read on the caller's own thread, which needs no lock,
and what was found is counted later, on the loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from asteady._session.generation import GenerationCalls, context_of
from asteady._session.session import Session
from asteady.blocking._portal import Portal

if TYPE_CHECKING:
    from asteady._cache.cache import Cache
    from asteady._cache.memory import Held

# How long a hit may wait to be counted, if nothing else reaches the loop before.
_COUNT_WITHIN_S = 0.05


class HitCounter:
    """Hits of one session that were answered on other threads, to be counted on its loop."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal
        self._hits: deque[tuple[Cache[Any], Held[Any], str | None]] = deque()
        self._due = False

    def add(self, cache: Cache[Any], held: Held[Any], namespace: str | None) -> None:
        """Count a hit soon; from any thread."""
        self._hits.append((cache, held, namespace))
        if not self._due:
            self._due = True
            self._portal.post(self._count_soon)

    def count(self) -> None:
        """Count the hits so far; on the loop."""
        # Lowered first: a hit that comes after the last look makes another count due.
        self._due = False
        while self._hits:
            cache, held, namespace = self._hits.popleft()
            cache.count_hit(held, namespace)

    def _count_soon(self) -> None:
        self._portal.loop.call_later(_COUNT_WITHIN_S, self.count)


class Recaller:
    """Answers what is asked of a session, or under a namespace or prefix of it, on any thread."""

    def __init__(
        self,
        portal: Portal,
        session: Session,
        calls: GenerationCalls | None = None,
        counter: HitCounter | None = None,
    ) -> None:
        self.session = session
        self.counter = HitCounter(portal) if counter is None else counter
        context = context_of(session if calls is None else calls)
        self.generation: Any = context.cache.generation
        self.embedding: Any = context.cache.embedding
        self._portal = portal
        self._alias_of = context.alias_of
        self._namespace = context.namespace
        self._observers = context.observers

    def under(self, calls: GenerationCalls) -> Recaller:
        """The same for a namespace or prefix of the session; counts together with this one."""
        return Recaller(self._portal, self.session, calls, self.counter)

    def recall(
        self, cache: Any, subject: object, model: str | None, options: Mapping[str, Any]
    ) -> Any:
        """The answer to these raw arguments, or None. Only reads; `count` counts it later.

        `cache` is `generation` or `embedding`.
        """
        try:
            held = cache.peek_alias(self._alias_of(subject, model, options), self._namespace)
        except (TypeError, ValueError):  # no alias
            return None
        if held is None or self._observers.active or self._portal.forked:
            return None
        self.counter.add(cache, held, self._namespace)
        return held.answer
