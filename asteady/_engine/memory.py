"""The memory that the contexts of a session's models may take for keys and values."""

from __future__ import annotations

import threading
import weakref
from typing import Protocol

from asteady._engine.machine import usable_memory_bytes

# Of the machine's memory, or the container's.
_SHARE = 4


class HasIdleContexts(Protocol):
    def shed(self) -> None:
        """Close the contexts that no request uses; from any thread, and without waiting."""


class ContextMemory:
    """A budget of bytes that workers reserve from before they make a context. Thread-safe."""

    def __init__(self, max_bytes: int | None = None) -> None:
        self.max_bytes = usable_memory_bytes() // _SHARE if max_bytes is None else max_bytes
        self._used_bytes = 0
        self._changed = threading.Condition()
        self._owners: weakref.WeakSet[HasIdleContexts] = weakref.WeakSet()

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    def join(self, owner: HasIdleContexts) -> None:
        """From now on, contexts of this owner are closed when others need their memory."""
        with self._changed:
            self._owners.add(owner)

    def reserve(self, size_bytes: int, *, shed_for: HasIdleContexts | None = None) -> bool:
        """Reserve memory; False if there is too little.

        With `shed_for`, the idle contexts of all others than that one are closed if need be.
        """
        if self._reserve(size_bytes):
            return True
        if shed_for is None or size_bytes > self.max_bytes:
            return False
        with self._changed:
            owners = [owner for owner in self._owners if owner is not shed_for]
        for owner in owners:
            owner.shed()
        return self._reserve(size_bytes)

    def release(self, size_bytes: int) -> None:
        with self._changed:
            self._used_bytes -= size_bytes
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> None:
        """Until something is released, or the time is over."""
        with self._changed:
            self._changed.wait(timeout_s)

    def _reserve(self, size_bytes: int) -> bool:
        with self._changed:
            if self._used_bytes + size_bytes > self.max_bytes:
                return False
            self._used_bytes += size_bytes
            return True
