"""Tasks and threads: concurrency with a bound, and work that nobody has to wait for."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import anyio
import anyio.lowlevel

from asteady._base.errors import SessionError
from asteady._base.threads import start_daemon

T = TypeVar("T")
R = TypeVar("R")

# Where no call suspends, each of up to 64 workers yields after so many calls: then the loop is
# blocked for 256 calls at most.
_TURN = 4

_aside = threading.Lock()


def unattended(task: asyncio.Task[T]) -> asyncio.Task[T]:
    """Silence asyncio's complaint about a task that is pending when its loop is closed by hand.

    ``asyncio.run`` ends such tasks in order. A loop that just stops leaves them where they are;
    nothing is lost by that, and the user could do nothing about it. asyncio has no public switch.
    """
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    return task


def running_loop() -> asyncio.AbstractEventLoop:
    """The event loop that runs here.

    Raises:
        SessionError: none of asyncio does.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise SessionError(
            "asteady needs asyncio, and no event loop of asyncio runs here: use asyncio.run, or "
            "asteady.blocking in a thread of its own (with Trio: trio.to_thread.run_sync)"
        ) from None


def check_loop(loop: asyncio.AbstractEventLoop | None) -> None:
    """Raise unless this is the running event loop.

    Raises:
        SessionError: another one is running, or none.
    """
    if loop is not running_loop():
        raise SessionError(
            "the session belongs to another event loop, the one that opened it; open one in each"
            " loop, or use asteady.blocking from threads"
        )


def run_in_daemon(name: str, fn: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
    """The result of ``fn(*arguments)`` in a daemon thread of its own.

    Cancelling returns at once and leaves the thread behind; its result is dropped. The interpreter
    does not wait for it at exit.

    Raises:
        EngineError: the system has no room for another thread.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(put: Callable[[Any], None], outcome: object) -> None:
        if not future.done():
            put(outcome)

    def run() -> None:
        put: Callable[[Any], None] = future.set_result
        outcome: object
        try:
            outcome = fn(*arguments)
        except BaseException as exc:
            put, outcome = future.set_exception, exc
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(deliver, put, outcome)

    start_daemon(name, run)
    return future


def run_aside(fn: Callable[[], T]) -> asyncio.Future[T]:
    """The result of a function that computes in Python for long, one of them at a time.

    Each takes the interpreter's lock for 5 ms in turn with the event loop; several would for 5 ms
    each. Cancelling is as for `run_in_daemon`.
    """

    def run() -> T:
        with _aside:
            return fn()

    return run_in_daemon("asteady-aside", run)


def _renew_in_child() -> None:
    global _aside
    _aside = threading.Lock()  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_in_child)


async def map_concurrently(
    fn: Callable[[T], Awaitable[R]],
    items: Sequence[T],
    *,
    limit: int,
    name: str = "item",
    label: Callable[[T], str] | None = None,
) -> list[R]:
    """The results of ``await fn(item)`` in the order of `items`, at most `limit` at once.

    The first error cancels the others and is raised, with a note that names its item, by its index
    or by `label`. Other tasks run in between even if no call of `fn` suspends. Cancelling cancels
    the running calls and starts no more.
    """
    results: dict[int, R] = {}
    failures: list[Exception] = []
    waiting = iter(enumerate(items))

    async def work() -> None:
        # All workers share one iterator; there is no await between taking an item and starting it.
        for index, item in waiting:
            try:
                results[index] = await fn(item)
            except Exception as exc:
                where = f"{name}[{index}]" if label is None else label(item)
                exc.add_note(f"(at {where})")
                failures.append(exc)
                group.cancel_scope.cancel()
                return
            if len(results) % _TURN == 0:
                await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        for _ in range(min(limit, len(items))):
            group.start_soon(work)
    if failures:
        raise failures[0]
    return [results[index] for index in range(len(items))]
