"""When a model that nobody uses is unloaded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class IdleTimers(Generic[K]):
    """Calls `unload(key)` when a key has had no users for `idle_s` seconds; never if that is 0.

    For the event loop's thread. `close` when nothing shall be unloaded any more.
    """

    def __init__(self, idle_s: float, unload: Callable[[K], None]) -> None:
        self._idle_s = idle_s
        self._unload = unload
        self._users = Counter[K]()
        self._timers: dict[K, asyncio.TimerHandle] = {}

    @contextmanager
    def use(self, key: K) -> Iterator[None]:
        """Within, the key has one user more."""
        self._users[key] += 1
        self._stop(key)
        try:
            yield
        finally:
            self._users[key] -= 1
            self.rest(key)

    def rest(self, key: K) -> None:
        """Begin to count the time from now, if the key has no users."""
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
