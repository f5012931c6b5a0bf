"""Blocking work that nobody has to wait for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


def unattended(task: asyncio.Task[T]) -> asyncio.Task[T]:
    """A task that lives until its loop ends: asyncio need not complain if the loop just stops.

    ``asyncio.run`` ends such tasks in order. A loop that is closed by hand, or never, leaves them
    where they are; nothing is lost by that, and the user could do nothing about it.
    """
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own
    return task


async def run_in_daemon(name: str, fn: Callable[..., T], *arguments: Any) -> T:
    """The result of ``fn(*arguments)`` in a thread of its own.

    Cancelling returns at once and leaves the thread behind; its result is dropped. The thread is a
    daemon: not even the end of the interpreter waits for it.
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

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future
