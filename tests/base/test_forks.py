"""The gate that forks wait at; real forks are in tests/faults/test_forks.py."""

from __future__ import annotations

import threading

from asteady._base.forks import ForkGate


def test_a_fork_waits_for_the_end_of_blocks_and_keeps_others_out() -> None:
    gate = ForkGate()
    calls: list[str] = []
    gate.before_fork(lambda: calls.append("before"))
    inside, leave, closed = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        with gate:
            inside.set()
            leave.wait()
            with gate:  # a nested block begins also while a fork waits
                calls.append("nested")

    def fork() -> None:
        gate.close()
        closed.set()

    worker, forker = threading.Thread(target=work), threading.Thread(target=fork)
    worker.start()
    inside.wait()
    forker.start()
    leave.set()
    assert closed.wait(60)
    worker.join()
    forker.join()
    assert calls == ["nested", "before"]


def test_a_fork_does_not_wait_for_ever() -> None:
    gate = ForkGate(limit_s=0.05)
    calls: list[object] = []
    gate.before_fork(lambda: calls.append("before"))
    gate.in_child(calls.append)
    with gate:
        # Not even for a block of its own thread.
        gate.close()
        gate.open()
    assert calls == []
    gate.close()
    gate.open_in_child()
    assert calls == ["before", True]
    # An extension module may fork without the hook that comes before.
    gate.open_in_child()
    assert calls == ["before", True, False]


def test_threads_that_fork_at_once_take_turns() -> None:
    gate = ForkGate()
    running = 0
    most = 0
    forks = 0

    def before() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)

    gate.before_fork(before)

    def fork() -> None:
        nonlocal running, forks
        for _ in range(50):
            with gate:
                pass
            gate.close()
            running -= 1
            forks += 1
            gate.open()

    threads = [threading.Thread(target=fork) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, forks, running) == (1, 200, 0)
