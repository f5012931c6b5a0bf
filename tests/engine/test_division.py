"""Over how many workers answers are spread: by how long steps took, with a clock of our own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from asteady._engine.division import Division

# How long a step takes, by the number of workers that compute and that of the worker's sequences.
StepTime = Callable[[int, int], float]


class Machine:
    """Workers that compute what a division says."""

    def __init__(self, took_s: StepTime) -> None:
        self.now_s = 0.0
        self.took_s = took_s
        self.division = Division(lambda: self.now_s)

    def answer(self, sequences: int, *, workers: int = 4, width: int = 8, steps: int = 10) -> int:
        """So many answers at once; returns the workers that they were spread over."""
        chosen = self.division.choose(sequences, workers, width)
        for _ in range(chosen):
            self.division.enter()
        each = -(-sequences // chosen)
        for _ in range(steps):
            took_s = self.took_s(chosen, each)
            self.now_s += took_s
            self.division.record(each, took_s)
        for _ in range(chosen):
            self.division.leave()
        return chosen


def reads_weights(workers: int, sequences: int) -> float:
    """Bound by reading the weights, which a batch does once: one worker is fastest."""
    return 0.1 * workers


def computes(workers: int, sequences: int) -> float:
    """Bound by computing, with what threads lose that wait for each other: many are fastest."""
    return 0.01 * sequences * workers * (1 + 0.2 * 4 / workers)


@pytest.mark.parametrize(("took_s", "fastest"), [(reads_weights, 1), (computes, 4)])
def test_each_number_is_tried_and_the_fastest_kept(took_s: StepTime, fastest: int) -> None:
    machine = Machine(took_s)
    assert [machine.answer(8) for _ in range(6)] == [4, 2, 1, fastest, fastest, fastest]
    # What was measured for eight is no measure for two, but for five to eight.
    assert machine.answer(7) == fastest
    assert [machine.answer(2) for _ in range(2)] == [2, 1]


def test_few_steps_are_no_measure() -> None:
    machine = Machine(reads_weights)
    assert [machine.answer(8, steps=5) for _ in range(3)] == [4, 4, 2]


def test_no_worker_gets_more_than_its_width_and_none_is_left_without() -> None:
    machine = Machine(reads_weights)
    assert [machine.answer(8, width=3) for _ in range(3)] == [4, 3, 3]
    assert {machine.answer(8, width=1) for _ in range(5)} == {4}
    assert {machine.answer(1) for _ in range(5)} == {1}
    assert machine.answer(100, width=8) == 4


def test_it_follows_the_load() -> None:
    machine = Machine(computes)
    assert [machine.answer(4, workers=2) for _ in range(3)] == [2, 1, 2]
    # Now other programs use the memory.
    machine.took_s = lambda workers, sequences: 0.06 * workers
    machine.now_s += 30
    assert machine.answer(4, workers=2) == 2
    machine.now_s += 60
    assert machine.answer(4, workers=2, steps=100) == 1  # measured again
    assert machine.answer(4, workers=2) == 1


def test_what_is_much_slower_is_not_tried_again() -> None:
    machine = Machine(lambda workers, sequences: 1.0 if workers == 1 else 0.1)
    assert [machine.answer(4, workers=2) for _ in range(2)] == [2, 1]
    machine.now_s += 10**6
    assert {machine.answer(4, workers=2) for _ in range(5)} == {2}
