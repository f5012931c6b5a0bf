"""Threads that nothing waits for, their stacks, and their locks after a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from asteady._base.threads import join_all, start_daemon


def test_joining_returns_what_still_runs() -> None:
    go_on = threading.Event()
    stays = start_daemon("stays", go_on.wait)
    ends = start_daemon("ends", lambda: None)
    ends.join(60)
    assert join_all([stays, ends], 0.0) == [stays]
    assert (stays.name, stays.daemon) == ("stays", True)
    go_on.set()
    assert join_all([stays, ends], 60.0) == []


def test_a_stack_has_the_size_that_was_asked_for() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            """
import threading
from asteady._base.threads import start_daemon
before = threading.stack_size()
depth = []
def run():
    # sorted(key=...) calls Python from C, so each level takes some of the stack.
    def deeper(n):
        if n:
            sorted([0], key=lambda _: deeper(n - 1))
        depth.append(n)
    import sys
    sys.setrecursionlimit(10**6)
    deeper(20_000)
start_daemon("deep", run, stack_bytes=2**28).join()
assert depth[-1] == 20_000
assert threading.stack_size() == before
""",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_while_another_thread_starts_one_does_not_hang_the_child() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            """
import asyncio, os
from asteady._base import tasks, threads
with threads._starting, tasks._aside:
    pid = os.fork()
    if pid == 0:
        async def main():
            print(await tasks.run_aside(lambda: "child"), flush=True)
        asyncio.run(main())
        os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
""",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("child\n", "")
