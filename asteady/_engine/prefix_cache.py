"""A cache of the states of declared prefixes: keys and values of their whole pieces.

A state is looked up by the tokens that it was computed from, so it is exactly the one that the
prompt needs: two prompts with the same first pieces get the same bits there, alone or in a batch.
"""

from __future__ import annotations

import logging
import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from asteady._engine.api import PrefixStatistics

_log = logging.getLogger("asteady")


class PrefixCache:
    """Holds at most `max_bytes` of states and evicts the least recently used. Thread-safe."""

    def __init__(self, max_bytes: int, piece_tokens: int) -> None:
        self._piece_tokens = piece_tokens
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._states: OrderedDict[bytes, Any] = OrderedDict()
        self._size_bytes = 0
        self._made = self._evicted = self._too_large = 0
        self._reused = self._reused_tokens = 0

    def statistics(self) -> PrefixStatistics:
        with self._lock:
            return PrefixStatistics(
                states=len(self._states),
                size_bytes=self._size_bytes,
                max_bytes=self._max_bytes,
                made=self._made,
                evicted=self._evicted,
                too_large=self._too_large,
                reused=self._reused,
                reused_tokens=self._reused_tokens,
            )

    def find(self, tokens: Sequence[int], count: int) -> tuple[int, Any] | None:
        """The longest stored prefix of the first `count` tokens: its length in tokens and its
        state. `count` is a multiple of the piece's size."""
        with self._lock:
            for length in range(count, 0, -self._piece_tokens):
                key = _key(tokens, length)
                state = self._states.get(key)
                if state is not None:
                    self._states.move_to_end(key)
                    return length, state
        return None

    def count_reuse(self, tokens: int) -> None:
        """Count a prompt that began with a stored state of so many tokens."""
        with self._lock:
            self._reused += 1
            self._reused_tokens += tokens

    def fits(self, size_bytes: int) -> bool:
        """Whether a state of this size can be stored; if not, it is counted, and logged once."""
        if size_bytes <= self._max_bytes:
            return True
        with self._lock:
            self._too_large += 1
            first = self._too_large == 1
        if first:
            _log.warning(
                "the state of a prefix takes %.0f MB and is not stored: prefix_max_size_mb is %.0f",
                size_bytes / 2**20,
                self._max_bytes / 2**20,
            )
        return False

    def put(self, tokens: Sequence[int], count: int, state: Any) -> None:
        """Store the state (a sized buffer) of the first `count` tokens."""
        key = _key(tokens, count)
        with self._lock:
            self._drop(key)
            self._states[key] = state
            self._size_bytes += len(state)
            self._made += 1
            while self._size_bytes > self._max_bytes:
                self._drop(next(iter(self._states)))
                self._evicted += 1

    def clear(self) -> None:
        with self._lock:
            self._states.clear()
            self._size_bytes = 0

    def _drop(self, key: bytes) -> None:
        state = self._states.pop(key, None)
        if state is not None:
            self._size_bytes -= len(state)


def _key(tokens: Sequence[int], count: int) -> bytes:
    return array("i", tokens[:count]).tobytes()
