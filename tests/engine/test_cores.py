"""Threads per call: the share of the cores, and the choice by how long calls take."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from asteady._base.settings import Settings
from asteady._engine import cores as module, loader
from asteady._engine.cores import Cores, ThreadChooser

StepTime = Callable[[int], float]


def test_busy_workers_share_the_cores() -> None:
    cores = Cores(8)
    assert cores.share() == 8
    shares = []
    for _ in range(9):
        cores.enter()
        shares.append(cores.share())
    assert shares == [8, 4, 2, 2, 1, 1, 1, 1, 1]
    for _ in range(8):
        cores.leave()
    assert cores.share() == 8


def test_models_that_are_loaded_at_the_same_moment_share_one_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers, second = itertools.count(), threading.Event()

    def make(*arguments: Any) -> Cores:
        if next(numbers) == 0:
            second.wait(0.3)  # a second one is made meanwhile, or never
        else:
            second.set()
        return Cores(*arguments)

    def load_engine(*arguments: Any, cores: Cores, **options: Any) -> Any:
        return cores

    monkeypatch.setattr(loader, "Cores", make)
    monkeypatch.setattr(loader, "load_engine", load_engine)
    source = loader.LlamaSource(Settings(cache_dir=tmp_path))
    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(source.load, ["generation", "embedding"], ["builtin", "builtin"])
    assert one is other


def test_the_budget_is_what_the_machine_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 5)
    assert Cores().share() == 5
    assert Cores(3).share() == 3


def test_a_set_number_of_threads_is_used_as_it_is() -> None:
    cores = Cores(8, threads=3)
    assert cores.share() == 3
    cores.enter()
    cores.enter()
    cores.enter()
    assert cores.share() == 3
    chooser = ThreadChooser(cores)
    for took_s in (1.0, 9.0, 9.0, 9.0):
        assert chooser.choose(1) == 3
        chooser.record(1, 3, took_s)


def test_many_threads_enter_and_leave() -> None:
    cores = Cores(8)

    def use() -> None:
        for _ in range(1000):
            cores.enter()
            cores.leave()

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cores.enter()
    assert cores.share() == 8


class Simulation:
    """Calls one after the other on a machine whose times are given."""

    def __init__(self, budget: int = 8) -> None:
        self.cores = Cores(budget)
        self.cores.enter()
        self.now_s = 100.0
        self.chooser = ThreadChooser(self.cores, lambda: self.now_s)

    def call(self, step_s: StepTime, kind: object = 1) -> int:
        threads = self.chooser.choose(kind)
        assert 1 <= threads <= self.cores.share()
        took_s = step_s(threads)
        self.now_s += took_s
        self.chooser.record(kind, threads, took_s)
        return threads

    def run(self, step_s: StepTime, for_s: float, *kinds: object) -> list[int]:
        """The threads of the calls of so many seconds, with these kinds in turn."""
        end_s = self.now_s + for_s
        used = []
        while self.now_s < end_s:
            for kind in kinds or (1,):
                used.append(self.call(step_s, kind))
        return used


def free(threads: int) -> float:
    """Nobody else computes."""
    return 0.001 + 0.04 / threads


def crowded(cores: int) -> StepTime:
    """Others leave so many cores: with more threads, each node waits for the last of them."""

    def step_s(threads: int) -> float:
        return 0.001 + 0.04 / threads if threads <= cores else 0.1 + 0.02 * threads

    return step_s


def share_of(used: list[int], threads: int) -> float:
    return used.count(threads) / len(used)


@pytest.mark.parametrize("budget", [1, 2, 3, 8])
def test_alone_it_uses_all_cores(budget: int) -> None:
    simulation = Simulation(budget)
    assert simulation.call(free) == budget
    assert share_of(simulation.run(free, 20), budget) > 0.98


@pytest.mark.parametrize("left", [4, 2, 1])
def test_fewer_are_used_when_others_compute_and_all_when_they_end(left: int) -> None:
    simulation = Simulation()
    simulation.run(free, 10)
    simulation.run(crowded(left), 3)
    assert share_of(simulation.run(crowded(left), 10), left) > 0.8
    # The longer they were there, the later more are tried again: within 16 seconds.
    simulation.run(free, 18)
    assert share_of(simulation.run(free, 10), 8) > 0.9


def test_slower_counts_are_given_up_within_a_second() -> None:
    simulation = Simulation()
    # The next trial would be seconds away.
    simulation.run(free, 7)
    used = []
    began_s = simulation.now_s
    while simulation.now_s < began_s + 1.0:
        used.append(simulation.call(lambda threads: 0.01 if threads <= 4 else 0.03))
    assert used[-5:] == [4] * 5


def test_a_call_of_another_kind_does_not_hold_up_a_trial() -> None:
    simulation = Simulation()
    simulation.run(free, 10, "prompt")
    # A trial begins with the prompt's last piece, and no prompt comes any more.
    simulation.now_s += 10
    assert simulation.chooser.choose("prompt") == 4
    simulation.run(crowded(4), 3)
    assert share_of(simulation.run(crowded(4), 10), 4) > 0.8


def test_a_trial_is_given_up_when_the_share_shrinks() -> None:
    simulation = Simulation()
    simulation.run(free, 10)
    simulation.now_s += 10
    assert simulation.chooser.choose(1) == 4
    for _ in range(3):
        simulation.cores.enter()
    simulation.run(crowded(1), 3)
    assert share_of(simulation.run(crowded(1), 10), 1) > 0.8


def test_kinds_in_turn_are_measured_apart() -> None:
    simulation = Simulation()
    assert share_of(simulation.run(free, 20, "prompt", 1, 2), 8) > 0.95
    simulation.run(crowded(2), 5, "prompt", 1, 2)
    assert share_of(simulation.run(crowded(2), 10, "prompt", 1, 2), 2) > 0.8


def test_the_share_bounds_what_was_preferred() -> None:
    simulation = Simulation()
    simulation.run(crowded(4), 5)
    for _ in range(3):
        simulation.cores.enter()
    # `call` checks that it is never more.
    assert share_of(simulation.run(free, 10), 2) > 0.95
    for _ in range(4):
        simulation.cores.enter()
    assert set(simulation.run(free, 10)) == {1}
    for _ in range(7):
        simulation.cores.leave()
    simulation.run(free, 10)
    assert share_of(simulation.run(free, 10), 8) > 0.9


def test_slow_calls_are_tried_too() -> None:
    """A call may take longer than a trial is waited for."""
    simulation = Simulation()

    def slow(threads: int) -> float:
        return 4.0 if threads == 8 else 1.0 + abs(threads - 4)

    simulation.run(slow, 60)
    assert share_of(simulation.run(slow, 100), 4) > 0.5


def test_the_mean_is_of_the_threads_in_use() -> None:
    simulation = Simulation()
    assert simulation.chooser.mean_s(1) is None
    simulation.run(free, 10)
    assert simulation.chooser.mean_s(1) == pytest.approx(free(8))
    assert simulation.chooser.mean_s(2) is None
    simulation.run(crowded(4), 5)
    assert simulation.chooser.mean_s(1) == pytest.approx(crowded(4)(4), rel=0.1)
