"""Warm answers without await: a dictionary is read on the caller's own thread, which needs no lock,
and what was found is counted later, on the loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from asteady._session.generation import context_of
from asteady._session.session import Session
from asteady.blocking._portal import Portal

if TYPE_CHECKING:
    from asteady._cache.cache import Cache
    from asteady._cache.memory import Held
    from asteady._session.generation import Prefix
    from asteady._session.namespace import Namespace

# How long a hit may wait to be counted, if nothing else reaches the loop before.
_COUNT_WITHIN_S = 0.05


class Recaller:
    """Answers from one session's memory tier, on any thread."""

    def __init__(self, portal: Portal, session: Session) -> None:
        self.session = session
        self.generation: Any = session.cache.generation
        self.embedding: Any = session.cache.embedding
        self._portal = portal
        self._observers = context_of(session).observers
        self._used: deque[tuple[Cache[Any], Held[Any], str | None]] = deque()
        self._due = False

    def recall(self, cache: Any, alias: Hashable, namespace: str | None = None) -> Any:
        """The answer under this alias, or None. Only reads; `count` tells the cache later.

        `cache` is `generation` or `embedding`.
        """
        try:
            held = cache.peek_alias(alias, namespace)
        except TypeError:  # not hashable, so not an alias
            return None
        if held is None or self._observers.active or self._portal.forked:
            return None
        self._used.append((cache, held, namespace))
        if not self._due:
            self._due = True
            self._portal.post(self._count_soon)
        return held.answer

    def count(self) -> None:
        """Count the hits so far; on the loop."""
        # Lowered first: a hit that comes after the last look makes another count due.
        self._due = False
        while self._used:
            cache, held, namespace = self._used.popleft()
            cache.count_hit(held, namespace)

    def _count_soon(self) -> None:
        self._portal.loop.call_later(_COUNT_WITHIN_S, self.count)


class TaggedRecaller(Recaller):
    """The same, under a namespace; counts with the session's own."""

    def __init__(self, whole: Recaller, namespace: Namespace) -> None:
        super().__init__(whole._portal, whole.session)
        self.whole = whole
        self._namespace = namespace.path
        self._used = whole._used

    def recall(self, cache: Any, alias: Hashable, namespace: str | None = None) -> Any:
        return self.whole.recall(cache, alias, namespace or self._namespace)


class PrefixRecaller(Recaller):
    """The same, of what was asked under a prefix; counts with those whom it was declared to."""

    def __init__(self, whole: Recaller, prefix: Prefix) -> None:
        super().__init__(whole._portal, whole.session)
        self.whole = whole
        self._prefix = prefix

    def recall(self, cache: Any, alias: Hashable, namespace: str | None = None) -> Any:
        return self.whole.recall(cache, self._prefix.nested(alias), namespace)
