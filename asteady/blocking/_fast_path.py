"""Warm answers without await: looked up on the caller's own thread, counted later on the loop.

A look-up only reads dictionaries, so it needs no lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from asteady._base.files import AnyPath
from asteady._base.requests import Completion, Embedding
from asteady._cache.cache import Cache
from asteady._cache.memory import Held
from asteady._session.generation import GenerationCalls, context_of
from asteady.blocking._portal import Portal

A = TypeVar("A")

Recall: TypeAlias = Callable[[object, AnyPath | None, Mapping[str, Any]], A | None]
"""From the prompt or text, the model and the options to the answer, if the memory tier has it."""

# A hit is counted after at most this long, or sooner with the next call on the loop or commit.
_COUNT_WITHIN_S = 0.05


class HitCounter:
    """Warm hits of one session that were answered on other threads, until the loop counts them."""

    def __init__(self, portal: Portal) -> None:
        self.portal = portal
        self.hits: deque[tuple[Cache[Any], Held[Any], str | None]] = deque()
        self.due = False

    def count_soon(self) -> None:
        """Have `count` called on the loop, within `_COUNT_WITHIN_S`."""
        self.due = True
        self.portal.post(lambda: self.portal.loop.call_later(_COUNT_WITHIN_S, self.count))

    def count(self) -> None:
        """Count the hits so far; on the loop."""
        # Cleared first, so that a hit added after the last look schedules another count.
        self.due = False
        while self.hits:
            cache, held, namespace = self.hits.popleft()
            cache.count_hit(held, namespace)


class FastPath:
    """Warm answers of a session, a namespace or a prefix, on any thread.

    `completion` and `embedding` are None until `renew` is first called.
    """

    def __init__(self) -> None:
        self.completion: Recall[Completion] | None = None
        self.embedding: Recall[Embedding] | None = None

    def renew(self, calls: GenerationCalls, counter: HitCounter) -> None:
        """Answer from the memory tier of these calls from now on."""
        cache = context_of(calls).cache
        for one in (cache.generation, cache.embedding):
            one.hit_counters.add(counter.count)
        self.completion = _recaller(calls, cache.generation, counter)
        self.embedding = _recaller(calls, cache.embedding, counter)


def _recaller(calls: GenerationCalls, cache: Cache[Any], counter: HitCounter) -> Recall[Any]:
    # Variables of a closure, as they are read faster than attributes.
    context = context_of(calls)
    alias_of, namespace, observers = context.alias_of, context.namespace, context.observers
    peek, portal, hits = cache.peek_alias, counter.portal, counter.hits

    def recall(subject: object, model: AnyPath | None, options: Mapping[str, Any]) -> Any:
        try:
            held = peek(alias_of(subject, model, options), namespace)
        except (TypeError, ValueError):  # these arguments have no alias
            return None
        if held is None or observers.active or portal.forked:
            return None
        hits.append((cache, held, namespace))
        if not counter.due:
            counter.count_soon()
        return held.answer

    return recall
