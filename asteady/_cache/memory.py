"""The memory tier: answers at the speed of a dictionary.

An entry is found by its key, or by an alias: the caller's own raw arguments, hashed by Python. When
it is full, SIEVE decides (Zhang et al., NSDI 2024): a hand walks from the oldest entry to the
newest and takes the first one that was not used since it last came by. A hit sets one flag and
moves nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable
from typing import Any, Generic, Protocol, TypeVar

import attrs

from asteady._base.requests import Completion, Embedding, Key


class Computed(Protocol):
    """What memory holds: it says which engine computed it."""

    @property
    def fingerprint(self) -> str: ...


A = TypeVar("A", bound=Computed)

# One request has few spellings; a loop that generates new ones must not fill the memory.
ALIASES_PER_ENTRY = 8
# The entry, its places in two dictionaries, and the answer's own object.
ENTRY_BYTES = 400


# A call of a tool with its id, but without its other texts.
_CALL_BYTES = 120


@attrs.define(eq=False, weakref_slot=False)
class Held(Generic[A]):
    """One answer in memory. `touches` counts the uses not yet flushed to the store.

    `used` is the number of the latest use among all hits of its cache, and `swept` what it was when
    SIEVE's hand last came by. `tags` are the namespaces known to contain it; there may be others.
    """

    key: Key
    answer: A
    cost_s: float
    size_bytes: int
    touches: int = 0
    used: int = 0
    swept: int = 0
    aliases: list[Hashable] = attrs.field(factory=list)
    tags: tuple[str, ...] = ()
    newer: Held[A] | None = None
    older: Held[A] | None = None


class Memory(Generic[A]):
    """Held answers, bounded by entries and bytes. Only the event loop's thread uses it."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.by_key: dict[Key, Held[A]] = {}
        self.by_alias: dict[Hashable, Held[A]] = {}
        self._retired: set[str] = set()
        self._newest: Held[A] | None = None
        self._oldest: Held[A] | None = None
        self._hand: Held[A] | None = None

    def __len__(self) -> int:
        return len(self.by_key)

    def add(self, key: Key, answer: A, cost_s: float) -> Held[A] | None:
        """Hold an answer in place of what the key held; None if it is larger than the tier."""
        size_bytes = held_bytes(key, answer)
        old = self.by_key.get(key)
        if old is not None:
            self.discard(key)
        if size_bytes > self.max_bytes:
            return None
        self._make_room(size_bytes, 1)
        held = Held(key, answer, cost_s, size_bytes)
        self.by_key[key] = held
        self.size_bytes += size_bytes
        held.older = self._newest
        if self._newest is None:
            self._oldest = held
        else:
            self._newest.newer = held
        self._newest = held
        if old is not None:
            for alias in old.aliases:
                self.alias(alias, held)
        return held

    def alias(self, alias: Hashable, held: Held[A]) -> None:
        """Find this entry by this alias too; the oldest alias goes when there are too many.

        Not if it was computed by an engine that another one has taken the place of.
        """
        known = self.by_alias.get(alias)
        if known is held or self.by_key.get(held.key) is not held:
            return
        if held.answer.fingerprint in self._retired:
            return
        size_bytes = deep_bytes(alias)
        if held.size_bytes + size_bytes > self.max_bytes:
            return
        if known is not None:
            self._drop_alias(known, alias)
        if len(held.aliases) >= ALIASES_PER_ENTRY:
            self._drop_alias(held, held.aliases[0])
        held.aliases.append(alias)
        self.by_alias[alias] = held
        held.size_bytes += size_bytes
        self.size_bytes += size_bytes
        self._make_room(0, 0)

    def switch(self, before: str, now: str) -> None:
        """One engine has taken the place of another: the same arguments mean other answers.

        Answers of the one with the fingerprint `before` are found by their keys only.
        """
        self._retired.discard(now)
        self._retired.add(before)
        for held in self.by_key.values():
            if held.answer.fingerprint == before:
                for alias in list(held.aliases):
                    self._drop_alias(held, alias)

    def discard(self, key: Key) -> None:
        """Remove an entry and its aliases; an unknown key is ignored."""
        held = self.by_key.pop(key, None)
        if held is None:
            return
        for alias in held.aliases:
            del self.by_alias[alias]
        self.size_bytes -= held.size_bytes
        if self._hand is held:
            self._hand = held.newer
        if held.older is None:
            self._oldest = held.newer
        else:
            held.older.newer = held.newer
        if held.newer is None:
            self._newest = held.older
        else:
            held.newer.older = held.older
        held.older = held.newer = None

    def clear(self) -> None:
        for key in list(self.by_key):
            self.discard(key)

    def _drop_alias(self, held: Held[A], alias: Hashable) -> None:
        # Measure the stored alias: an equal one may have another size.
        size_bytes = deep_bytes(held.aliases.pop(held.aliases.index(alias)))
        del self.by_alias[alias]
        held.size_bytes -= size_bytes
        self.size_bytes -= size_bytes

    def _make_room(self, size_bytes: int, entries: int) -> None:
        while self.by_key and (
            len(self.by_key) + entries > self.max_entries
            or self.size_bytes + size_bytes > self.max_bytes
        ):
            held = self._hand or self._oldest
            assert held is not None
            while held.used > held.swept:
                held.swept = held.used
                held = held.newer or self._oldest
                assert held is not None
            self._hand = held
            self.discard(held.key)


def held_bytes(key: Key, answer: Any) -> int:
    """The approximate size of an answer in memory, its chunks included."""
    total = ENTRY_BYTES + sys.getsizeof(key)
    if isinstance(answer, Completion):
        total += sys.getsizeof(answer.text) + deep_bytes(answer.chunks)
        if answer.tool_calls:
            total += sum(
                _CALL_BYTES + sys.getsizeof(call.name) + sys.getsizeof(call.arguments_json)
                for call in answer.tool_calls
            )
        if answer.reasoning:
            total += sys.getsizeof(answer.reasoning) + deep_bytes(answer.reasoning_chunks)
        if answer.logprobs:
            total += 200 * len(answer.logprobs) + 180 * sum(len(i.top) for i in answer.logprobs)
    elif isinstance(answer, Embedding):
        total += 150 + answer.vector.nbytes
    return total


def deep_bytes(value: Any) -> int:
    """The size of an alias in memory: a plain value, or tuples of them."""
    if isinstance(value, tuple):
        return sys.getsizeof(value) + sum(deep_bytes(item) for item in value)
    return sys.getsizeof(value)


def as_cached(answer: A) -> A:
    """`attrs.evolve(answer, cached=True)`, and with no reused tokens, in a quarter of the time; it
    is done for every put."""
    copy = object.__new__(type(answer))
    for name in type(answer).__slots__:  # type: ignore[attr-defined]  # a slotted attrs record
        if name != "__weakref__":
            object.__setattr__(copy, name, getattr(answer, name))
    object.__setattr__(copy, "cached", True)
    if isinstance(answer, Completion):
        object.__setattr__(copy, "reused_tokens", 0)
    return copy
