"""The owner of a session's tasks, which ends them when the session closes.

A task group that is entered in `Session.__aenter__` would tie the session to the task and the
cancel scope that opened it. ASGI lifespans and test fixtures open in one task and close in
another, so the tasks belong to an owner, a task of its own, which starts at open and ends at close.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import enum
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import anyio

from asteady._base.errors import SessionClosedError, SessionError, SessionNotOpenError
from asteady._base.tasks import unattended

logger = logging.getLogger("asteady")

# Time limit for the tasks that the owner cancels last.
_TASKS_END_S = 5.0


class State(enum.Enum):
    """The states of a session; it only moves forward."""

    UNOPENED = "unopened"
    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class OwnedTasks:
    """Starts tasks that outlive their callers; lives from `start` to `stop`.

    `teardown` runs once, in the owner's task, shielded from cancellation, before the remaining
    tasks are cancelled: at `stop`, or when the event loop shuts down, as ``asyncio.run`` cancels
    every task at its end.
    """

    def __init__(self) -> None:
        self.state = State.UNOPENED
        self.loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._stopped = False
        self._stop = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._context: contextvars.Context | None = None

    def check_open(self) -> None:
        """Raise unless it is open, on the running event loop.

        Raises:
            SessionNotOpenError: not open yet.
            SessionClosedError: closed, or closing.
            SessionError: open on another event loop.
        """
        if self.state is State.OPEN:
            if self.loop is not asyncio.get_running_loop():
                raise SessionError(
                    "the session belongs to another event loop, the one that opened it; open one"
                    " in each loop, or use asteady.blocking from threads"
                )
            return
        if self.state in (State.UNOPENED, State.OPENING):
            raise SessionNotOpenError(
                "the session is not open yet: use `async with Session() as session`, or await"
                " session.open()"
            )
        raise SessionClosedError("the session is closed; open a new one")

    @property
    def left_open(self) -> bool:
        """Whether it was started, in this process, and nobody has called `stop`."""
        # `_stopped` first: at the end of the interpreter the names of modules may be None.
        return not self._stopped and self.state is not State.UNOPENED and self._pid == os.getpid()

    def start(self, teardown: Callable[[], Awaitable[None]]) -> None:
        """Start the owner's task, in a copy of the caller's context. Opening, until `opened`."""
        self.state = State.OPENING
        self.loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._owner = unattended(
            self.loop.create_task(
                self._own(teardown), name="asteady-session", context=self._context
            )
        )

    def opened(self) -> bool:
        """From now on it is open; False if it was stopped meanwhile."""
        if self.state is State.OPENING and not self._stop.is_set():
            self.state = State.OPEN
        return self.state is State.OPEN

    def spawn(
        self,
        fn: Callable[[], Coroutine[Any, Any, None]],
        ended: Callable[[], None] | None = None,
        /,
    ) -> asyncio.Task[None]:
        """Run ``fn()`` in a task of the owner, in the owner's context, not the caller's.

        ``ended()`` is called when the task has ended, even if it never began.
        """
        assert self.loop is not None, "start() comes first"
        assert self._context is not None
        task = unattended(self.loop.create_task(fn(), context=self._context.copy()))
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, ended))
        return task

    async def stop(self) -> None:
        """Run the teardown and end all tasks; returns when they have ended.

        Cancelling does not cut it short: it is raised again at the end. The teardown has time
        limits of its own. In a forked child there is nothing to stop.
        """
        if self.state is State.UNOPENED:
            self.state = State.CLOSED
        self._stopped = True
        owner, cancelled = self._owner, None
        if owner is None or self._pid != os.getpid():
            return
        self._stop.set()
        with anyio.CancelScope(shield=True):
            while not owner.done():
                try:
                    await asyncio.wait([owner])
                except asyncio.CancelledError as exc:
                    cancelled = exc
        if cancelled is not None:
            raise cancelled
        if not owner.cancelled():
            owner.result()

    async def wait_stopping(self) -> None:
        """Wait until somebody calls `stop`."""
        await self._stop.wait()

    def stop_soon(self) -> None:
        """`stop` from any thread, without waiting; does nothing if the loop is closed."""
        if self.loop is None or self._owner is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._stop.set)

    async def _own(self, teardown: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._stop.wait()
        except asyncio.CancelledError:
            # By nobody but the end of the event loop, which means the same as `stop`.
            current = asyncio.current_task()
            assert current is not None
            current.uncancel()
        self.state = State.CLOSING
        with anyio.CancelScope(shield=True):
            await teardown()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=_TASKS_END_S)
        self.state = State.CLOSED

    def _ended(self, ended: Callable[[], None] | None, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if ended is not None:
            ended()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of a session failed", exc_info=error)
