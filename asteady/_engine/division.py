"""Over how many workers the running answers of a model are spread.

One worker reads the weights once for a step of all sequences, but its threads wait for each other;
several workers with fewer sequences and threads each do not. Which is faster depends on the model
and the machine, and changes no bit of any answer, so it is measured.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from time import perf_counter

import attrs

# A number of workers is known when so many steps of it were measured, and is measured again after
# this time, unless it was so much slower that a change of load would hardly make it the fastest.
_KNOWN_STEPS = 8
_MEASURE_AGAIN_S = 60.0
_MUCH_SLOWER = 1.5
# The weight of the newest step in the running mean.
_NEWEST = 0.1


@attrs.define
class _Measured:
    """How long a worker takes for the token of one sequence."""

    token_s: float
    at_s: float
    steps: int = 1

    def add(self, token_s: float, at_s: float) -> None:
        self.token_s += _NEWEST * (token_s - self.token_s)
        self.at_s = at_s
        self.steps += 1


class Division:
    """Chooses the number of workers by how long their steps took. Thread-safe.

    Steps are told apart by how many workers computed at the time, and by the number of sequences
    of the worker, rounded up to a power of two.
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._busy = 0
        self._measured: dict[tuple[int, int], _Measured] = {}

    def enter(self) -> None:
        """One more worker has something to compute."""
        with self._lock:
            self._busy += 1

    def leave(self) -> None:
        with self._lock:
            self._busy -= 1

    def record(self, sequences: int, took_s: float) -> None:
        """A worker took so long for one more token of each of its sequences."""
        now_s, token_s = self._clock(), took_s / sequences
        with self._lock:
            place = self._busy, _rounded_up(sequences)
            known = self._measured.get(place)
            if known is None:
                self._measured[place] = _Measured(token_s, now_s)
            else:
                known.add(token_s, now_s)

    def choose(self, sequences: int, workers: int, width: int) -> int:
        """How many of these workers so many sequences should be spread over, at most `width` each.

        One that is not measured yet is tried, the largest first.
        """
        least = min(workers, math.ceil(sequences / width))
        most = min(workers, sequences)
        counts = [count for count in _halvings(most) if count > least] + [least]
        if len(counts) == 1:
            return least
        now_s = self._clock()
        with self._lock:
            measured = {
                count: self._measured.get((count, _rounded_up(math.ceil(sequences / count))))
                for count in counts
            }
        known = {
            count: each.token_s / count
            for count, each in measured.items()
            if each is not None and each.steps >= _KNOWN_STEPS
        }
        if len(known) < len(counts):
            return next(count for count in counts if count not in known)
        fastest = min(known, key=known.__getitem__)
        for count, each in measured.items():
            assert each is not None
            worth = known[count] < _MUCH_SLOWER * known[fastest]
            if count != fastest and worth and now_s - each.at_s > _MEASURE_AGAIN_S:
                return count
        return fastest


def _halvings(most: int) -> list[int]:
    """`most`, half of it, and so on down to 1."""
    counts = [most]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    return counts


def _rounded_up(sequences: int) -> int:
    return 1 << (sequences - 1).bit_length()
