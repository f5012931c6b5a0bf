"""The budget of memory for contexts."""

from __future__ import annotations

import gc
import threading
from time import perf_counter

import pytest

from asteady._engine import memory as module
from asteady._engine.memory import ContextMemory


class Owner:
    """Has idle contexts of some bytes."""

    def __init__(self, memory: ContextMemory, idle_bytes: int) -> None:
        self._memory = memory
        self.idle_bytes = idle_bytes
        assert memory.reserve(idle_bytes)
        memory.join(self)

    def shed(self) -> None:
        self._memory.release(self.idle_bytes)
        self.idle_bytes = 0


def test_what_is_reserved_stays_within_the_budget() -> None:
    memory = ContextMemory(100)
    assert memory.reserve(60)
    assert not memory.reserve(41)
    assert memory.used_bytes == 60
    assert memory.reserve(40)
    assert memory.used_bytes == 100
    memory.release(60)
    assert memory.used_bytes == 40
    assert memory.reserve(60)


def test_the_budget_is_a_quarter_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable_memory_bytes", lambda: 4000)
    assert ContextMemory().max_bytes == 1000
    assert ContextMemory(0).max_bytes == 0


def test_idle_contexts_are_closed_for_others() -> None:
    memory = ContextMemory(100)
    asking, *others = [Owner(memory, 10), Owner(memory, 20), Owner(memory, 40)]
    assert memory.reserve(30, shed_for=asking)
    assert not memory.reserve(60)
    assert [owner.idle_bytes for owner in others] == [20, 40]
    assert memory.reserve(60, shed_for=asking)
    assert [owner.idle_bytes for owner in (asking, *others)] == [10, 0, 0]
    assert memory.used_bytes == 100


def test_what_can_never_be_had_closes_nothing() -> None:
    memory = ContextMemory(100)
    owner = Owner(memory, 30)
    assert not memory.reserve(101, shed_for=Owner(memory, 0))
    assert owner.idle_bytes == 30


def test_an_owner_that_is_gone_is_not_asked() -> None:
    memory = ContextMemory(100)
    owner = Owner(memory, 70)
    del owner
    gc.collect()
    assert not memory.reserve(50, shed_for=Owner(memory, 0))


def test_waiting_ends_with_a_release() -> None:
    memory = ContextMemory(100)
    assert memory.reserve(100)
    waiting = threading.Event()
    ended = threading.Event()

    def wait() -> None:
        waiting.set()
        memory.wait(60)
        ended.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    waiting.wait(60)
    # The release that comes after the thread has begun to wait wakes it.
    for _ in range(1000):
        memory.release(0)
        if ended.wait(0.01):
            break
    assert ended.is_set()
    thread.join()
    began = perf_counter()
    memory.wait(0.01)
    assert perf_counter() - began >= 0.005


def test_many_threads_never_exceed_the_budget() -> None:
    memory = ContextMemory(50)
    peaks = []

    def use() -> None:
        for _ in range(200):
            if memory.reserve(20):
                peaks.append(memory.used_bytes)
                memory.release(20)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert peaks
    assert max(peaks) <= 50
    assert memory.used_bytes == 0
