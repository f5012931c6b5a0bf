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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how large a stack is")
def test_a_stack_has_the_size_that_was_asked_for() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            """
import ctypes, threading
from asteady._base.threads import start_daemon
libc = ctypes.CDLL(None)
libc.pthread_self.restype = ctypes.c_void_p
before = threading.stack_size()
size = ctypes.c_size_t()
def run():
    attributes = ctypes.create_string_buffer(256)
    libc.pthread_getattr_np(ctypes.c_void_p(libc.pthread_self()), attributes)
    libc.pthread_attr_getstacksize(attributes, ctypes.byref(size))
start_daemon("large", run, stack_bytes=2**28).join()
assert size.value == 2**28, size
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
