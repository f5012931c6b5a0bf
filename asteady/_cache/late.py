"""Answers that were delivered before they were stored."""

from __future__ import annotations

from typing import Generic, TypeVar

from asteady._base.requests import Key
from asteady._cache.memory import held_bytes
from asteady._cache.store.api import Put

A = TypeVar("A")

MAX_ENTRIES = 1000
MAX_BYTES = 16 * 1024 * 1024


class LatePuts(Generic[A]):
    """Writes of answers whose callers no longer wait, until they are done; bounded."""

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._by_key: dict[Key, Put[A]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def find(self, key: Key) -> A | None:
        put = self._by_key.get(key)
        return None if put is None else put.answer

    def has_room(self, key: Key, answer: A) -> bool:
        return not self._by_key or (
            len(self._by_key) < self._max_entries
            and self._bytes + held_bytes(key, answer) <= self._max_bytes
        )

    def add(self, put: Put[A]) -> None:
        before = self._by_key.pop(put.key, None)
        if before is not None:
            self._bytes -= held_bytes(put.key, before.answer)
        self._by_key[put.key] = put
        self._bytes += held_bytes(put.key, put.answer)

    def discard(self, put: Put[A]) -> None:
        """Forget this write, unless a later one of its key has taken its place."""
        if self._by_key.get(put.key) is put:
            del self._by_key[put.key]
            self._bytes -= held_bytes(put.key, put.answer)
