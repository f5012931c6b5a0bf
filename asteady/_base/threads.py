"""Daemon threads, and the end of the interpreter while some of them are in native code.

Python joins no daemon thread at exit. One that is inside llama.cpp then goes on while the process
runs the destructors of llama.cpp's globals, which would crash it: so these are skipped.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable

from asteady._base.errors import EngineError

_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
_starting = threading.Lock()


def start_daemon(
    name: str, target: Callable[..., object], *arguments: object, stack_bytes: int = 0
) -> threading.Thread:
    """Start a daemon thread; `stack_bytes` is its stack's size, 0 for the system's default.

    Raises:
        EngineError: the system has no room for another thread, or for its stack.
    """
    thread = threading.Thread(target=target, name=name, args=arguments, daemon=True)
    # The size is the process's: a thread that another library starts meanwhile has it too.
    with _starting:
        before = threading.stack_size(stack_bytes)
        try:
            thread.start()
        except RuntimeError as exc:
            raise EngineError(
                "the system has no room for another thread: raise the process's limits (ulimit -u "
                "and -v), or use fewer workers"
            ) from exc
        finally:
            threading.stack_size(before)
    _threads.add(thread)
    return thread


def join_all(threads: Iterable[threading.Thread], timeout_s: float) -> list[threading.Thread]:
    """Wait for threads, in all at most so long; those that still run."""
    threads = list(threads)
    end = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return [thread for thread in threads if thread.is_alive()]


def _skip_destructors() -> None:
    libc = ctypes.CDLL(None)
    # Called first at the process's exit, with its exit status; only in the C library of GNU.
    if any(thread.is_alive() for thread in list(_threads)) and hasattr(libc, "on_exit"):
        libc.on_exit(ctypes.cast(libc._exit, ctypes.c_void_p), None)


def _renew_in_child() -> None:
    global _starting
    _starting = threading.Lock()  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_in_child)

# Registered before the hooks of all that starts threads, and so called after them.
atexit.register(_skip_destructors)
