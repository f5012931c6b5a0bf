"""Forks: what a fork waits for, and what is made anew in the child.

A forked child has a copy of everything but the other threads. A lock that one of them held stays
locked there for ever: in SQLite's allocator, or around a module that was being imported. And files
that SQLite had open are unusable in the child: its bookkeeping says that the child has the locks
that only the parent has. So a fork waits until all threads are out of such work, and SQLite's
connections are closed first; see `fork_gate` and `_cache/store/sqlite_thread.py`.

Only forks that Python makes (`os.fork`, `multiprocessing`) run these hooks. `subprocess` does not,
as its child begins another program.
"""

from __future__ import annotations

# The modules that are not used have hooks of their own. If a fork waited while another thread
# imports them, Python would call their hooks after it without those before it.
import concurrent.futures.thread  # noqa: F401
import logging  # noqa: F401
import os
import random  # noqa: F401
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

# Longer than SQLite waits for a locked database. A fork that had to go on without waiting leaves a
# child without a cache.
LIMIT_S = 10.0

FORKED = (
    "this process was forked after the session was opened, and threads do not survive a fork: open "
    "a session in the child process instead"
)


class ForkGate:
    """``with gate:`` holds back forks of this process until the block ends, for `limit_s` at most.

    A block that begins during a fork waits for its end. For blocks of milliseconds; a thread may
    nest them.
    """

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.limit_s = limit_s
        self._before: list[Callable[[], None]] = []
        self._in_child: list[Callable[[bool], None]] = []
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._inside: dict[int, int] = {}
        self._forking: set[int] = set()
        self._turn = threading.Lock()
        self._has_turn: int | None = None
        self._quiet = False

    def __enter__(self) -> None:
        thread = threading.get_ident()
        with self._changed:
            depth = self._inside.get(thread, 0)
            while self._forking and not depth:
                self._changed.wait()
            self._inside[thread] = depth + 1

    def __exit__(self, *exc: object) -> None:
        thread = threading.get_ident()
        with self._changed:
            # In a child that was forked within the block there is no entry.
            depth = self._inside.pop(thread, 1) - 1
            if depth:
                self._inside[thread] = depth
            elif self._forking:
                self._changed.notify_all()

    def before_fork(self, fn: Callable[[], None]) -> None:
        """Call `fn` before each fork, when no thread is in a block; not if one stays in."""
        self._before.append(fn)

    def in_child(self, fn: Callable[[bool], None]) -> None:
        """Call `fn` in each forked child, with whether the functions `before_fork` were called."""
        self._in_child.append(fn)

    # The hooks, on the thread that forks.

    def close(self) -> None:
        thread = threading.get_ident()
        deadline = time.monotonic() + self.limit_s
        with self._changed:
            self._forking.add(thread)
        # One fork at a time, as the functions before it must not run while another one happens.
        if not self._turn.acquire(timeout=self.limit_s):
            return
        self._has_turn = thread
        with self._changed:
            # A thread that forks within its own block cannot wait for the end of it.
            self._changed.wait_for(
                lambda: not self._inside.keys() - {thread}, max(0.0, deadline - time.monotonic())
            )
            self._quiet = not self._inside
        if self._quiet:
            for fn in self._before:
                fn()

    def open(self) -> None:
        thread = threading.get_ident()
        with self._changed:
            self._forking.discard(thread)
            self._changed.notify_all()
        if self._has_turn == thread:
            self._has_turn, self._quiet = None, False
            self._turn.release()

    def open_in_child(self) -> None:
        quiet = self._quiet and self._has_turn == threading.get_ident()
        self._begin_anew()
        for fn in self._in_child:
            fn(quiet)


class Owned(Protocol):
    """What belongs to the process that made it."""

    def disown(self) -> None:
        """In a forked child: be unusable, and touch nothing of the parent's."""


def disown_in_child(owned: Owned) -> None:
    """Call ``owned.disown()`` in each forked child, as long as it lives."""
    _owned.add(owned)


class ProcessLock:
    """A `threading.Lock` that is free in a forked child, whoever held it in the parent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        disown_in_child(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()

    def disown(self) -> None:
        self._lock = threading.Lock()


_owned: weakref.WeakSet[Owned] = weakref.WeakSet()


def _disown_all(_: bool) -> None:
    # All of the parent's: what is made from now on is the child's, and it may fork too.
    for owned in list(_owned):
        owned.disown()


fork_gate = ForkGate()
fork_gate.in_child(_disown_all)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=fork_gate.close,
        after_in_parent=fork_gate.open,
        after_in_child=fork_gate.open_in_child,
    )
