"""Where a session's tasks live: a task group in a task of its own.

A task group that is entered in `Session.__aenter__` would tie the session to the task and the
cancel scope that opened it. ASGI lifespans and test fixtures open in one task and close in
another, so the group gets a task of its own, which starts at open and ends at close.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup


class State(enum.Enum):
    """UNOPENED to OPEN to CLOSING to CLOSED; never back."""

    UNOPENED = "unopened"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class OwnedTasks:
    """Starts tasks that outlive their callers; lives from `start` to `stop`.

    `teardown` runs once, in the owner's task, shielded from cancellation, before the remaining
    tasks are cancelled: at `stop`, or when the event loop shuts down (``asyncio.run`` cancels
    every task at its end), in which case `interrupted` is True.
    """

    def __init__(self, teardown: Callable[[], Awaitable[None]]) -> None:
        self._teardown = teardown
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._group: TaskGroup | None = None
        self._context: contextvars.Context | None = None
        self.interrupted = False

    async def start(self) -> None:
        """Start the owner's task, in a copy of the caller's context."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        self._context = contextvars.copy_context()
        self._task = loop.create_task(
            self._own(ready), name="asteady-session", context=self._context
        )
        await ready

    def spawn(self, fn: Callable[[], Awaitable[None]], /) -> None:
        """Run ``fn()`` in a task of the group, in the owner's context, not the caller's."""
        assert self._group is not None and self._context is not None, "start() comes first"
        self._context.copy().run(self._group.start_soon, fn)

    async def stop(self) -> None:
        """Run the teardown and end all tasks; returns when they have ended.

        Cancelling does not cut it short: it is raised again at the end. The teardown has time
        limits of its own.
        """
        self._stop.set()
        task, cancelled = self._task, None
        with anyio.CancelScope(shield=True):
            while task is not None and not task.done():
                try:
                    await asyncio.wait([task])
                except asyncio.CancelledError as exc:
                    cancelled = exc
        if cancelled is not None:
            raise cancelled
        if task is not None and not task.cancelled():
            task.result()

    def abandon(self) -> None:
        """For a loop that is gone: let the task be collected without a word from asyncio."""
        if self._task is not None:
            self._task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own

    async def _own(self, ready: asyncio.Future[None]) -> None:
        async with anyio.create_task_group() as group:
            self._group = group
            if not ready.cancelled():
                ready.set_result(None)
            try:
                await self._stop.wait()
            except asyncio.CancelledError:
                self.interrupted = True
            with anyio.CancelScope(shield=True):
                await self._teardown()
            group.cancel_scope.cancel()
