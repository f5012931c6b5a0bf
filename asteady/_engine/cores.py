"""How many threads each call into llama.cpp uses, of the cores that all workers share.

With flash attention off the number of threads changes no bit of any answer, not even from one step
to the next. So each call of a worker uses the cores that no other worker needs at that moment.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from time import perf_counter

from asteady._engine.machine import usable_cores

# How often fewer or more threads are tried, and for how many calls.
_TRY_MORE_EVERY_S = 2.0
_TRY_MORE_AT_LEAST_EVERY_S = 16.0
_TRY_FEWER_EVERY_S = 5.0
_TRY_AGAIN_S = 0.25
_TRIAL_CALLS = 3
# A trial whose kind of call does not come again for this time is given up.
_TRIAL_S = 1.0
# A call that takes so much longer than they did is a reason to try fewer threads at once.
_SLOWED = 1.3
# So much faster another number of threads must be to be preferred.
_FASTER = 0.93
# The weight of the newest call in the running mean.
_NEWEST = 0.3


class Cores:
    """A budget of cores that workers share, those of all models of a session. Thread-safe.

    `threads` is the number for every call, whatever is free; None lets them share the budget.
    """

    def __init__(self, budget: int | None = None, threads: int | None = None) -> None:
        self.budget = budget or usable_cores()
        self.threads = threads
        self._busy = 0
        self._lock = threading.Lock()

    def enter(self) -> None:
        """One more worker has something to compute."""
        with self._lock:
            self._busy += 1

    def leave(self) -> None:
        with self._lock:
            self._busy -= 1

    @property
    def busy_workers(self) -> int:
        """How many workers have something to compute."""
        return self._busy

    def share(self) -> int:
        """The threads that a call of one busy worker may use now, at least 1."""
        if self.threads is not None:
            return self.threads
        return max(1, self.budget // max(1, self._busy))


class ThreadChooser:
    """Chooses the number of threads of one worker's calls by how long they took.

    It uses as many as it may, and measures. When other programs use the cores, threads of one call
    wait for each other at every node of the graph, and fewer are faster: that is found within a
    second, and more are tried again later. Calls of one `kind` do the same amount of work. For the
    worker's thread only.
    """

    def __init__(self, cores: Cores, clock: Callable[[], float] = perf_counter) -> None:
        self._cores = cores
        self._clock = clock
        self._preferred: int | None = None
        # A trial of another number of threads: that number, the kind, and how often it was used.
        self._trial: tuple[int, object] | None = None
        self._trial_calls = 0
        self._trial_until_s = 0.0
        self._next_trial_s = 0.0
        self._more_every_s = _TRY_MORE_EVERY_S
        self._fewer_next = True
        self._means: dict[tuple[object, int], float] = {}

    def choose(self, kind: object) -> int:
        """The threads for the next call, which is of this kind."""
        most = self._cores.share()
        preferred = min(self._preferred or most, most)
        if most == 1 or self._cores.threads is not None:
            self._trial = None
            return most
        now_s = self._clock()
        if self._trial is not None and (self._trial[0] > most or now_s >= self._trial_until_s):
            self._trial = None
        if self._trial is None and (kind, preferred) in self._means and now_s >= self._next_trial_s:
            fewer = preferred == most or (self._fewer_next and preferred > 1)
            other = preferred // 2 if fewer else min(2 * preferred, most)
            self._trial, self._trial_calls = (other, kind), 0
            self._trial_until_s = now_s + _TRIAL_S
        if self._trial is not None and self._trial[1] == kind:
            return self._trial[0]
        return preferred

    def mean_s(self, kind: object) -> float | None:
        """How long a call of this kind takes now; None if there was none yet."""
        most = self._cores.share()
        return self._means.get((kind, min(self._preferred or most, most)))

    def record(self, kind: object, threads: int, took_s: float) -> None:
        """A call of this kind took so long."""
        known = self._means.get((kind, threads))
        mean = took_s if known is None else (1 - _NEWEST) * known + _NEWEST * took_s
        self._means[kind, threads] = mean
        if self._trial is None:
            if known is not None and took_s > _SLOWED * known:
                self._next_trial_s = min(self._next_trial_s, self._clock() + _TRY_AGAIN_S)
            return
        if (threads, kind) != self._trial:
            return
        self._trial_calls += 1
        self._trial_until_s = self._clock() + _TRIAL_S
        most = self._cores.share()
        preferred = min(self._preferred or most, most)
        other_s = self._means.get((kind, preferred), math.inf)
        faster = took_s < _FASTER * other_s
        # One slow call is enough to give up a trial, a fast one has to be repeated.
        if faster and self._trial_calls < _TRIAL_CALLS:
            return
        if faster:
            self._preferred = threads if threads < most else None
        # What was faster may be so again, and what was slower may have the other way beside it.
        self._fewer_next = faster == (threads < preferred)
        self._trial = None
        if faster:
            self._more_every_s = _TRY_MORE_EVERY_S
        elif threads > preferred:
            # Threads that wait for each other can take a hundred times as long.
            self._more_every_s = min(2 * self._more_every_s, _TRY_MORE_AT_LEAST_EVERY_S)
        fewer = self._preferred is not None and self._preferred < most
        wait_s = self._more_every_s if fewer else _TRY_FEWER_EVERY_S
        self._next_trial_s = self._clock() + (_TRY_AGAIN_S if faster else wait_s)
