"""Where a session's tasks live: a task group in a task of its own.

A task group that is entered in `Session.__aenter__` would tie the session to the task and the
cancel scope that opened it. ASGI lifespans and test fixtures open in one task and close in
another, so the group gets a task of its own, which starts at open and ends at close.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import enum
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
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
    every task at its end).
    """

    def __init__(self) -> None:
        self.state = State.UNOPENED
        self._stopped = False
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._group: TaskGroup | None = None
        self._context: contextvars.Context | None = None

    @property
    def left_open(self) -> bool:
        """Whether it was started, and nobody has called `stop`."""
        return self.state is not State.UNOPENED and not self._stopped

    async def start(self, teardown: Callable[[], Awaitable[None]]) -> None:
        """Start the owner's task, in a copy of the caller's context."""
        self.state = State.OPEN
        self._loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = self._loop.create_future()
        self._context = contextvars.copy_context()
        self._task = self._loop.create_task(
            self._own(ready, teardown), name="asteady-session", context=self._context
        )
        await ready

    def spawn(self, fn: Callable[[], Coroutine[Any, Any, None]], /) -> None:
        """Run ``fn()`` in a task of the group, in the owner's context, not the caller's."""
        group = self._group
        assert group is not None, "start() comes first"
        assert self._context is not None
        self._context.copy().run(lambda: group.start_soon(fn))

    async def stop(self) -> None:
        """Run the teardown and end all tasks; returns when they have ended.

        Cancelling does not cut it short: it is raised again at the end. The teardown has time
        limits of its own.
        """
        if self.state is State.UNOPENED:
            self.state = State.CLOSED
        self._stopped = True
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

    def stop_soon(self) -> None:
        """`stop`, from anywhere, without waiting; whatever the loop no longer does is left."""
        if self._loop is None or self._task is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._stop.set)
        except RuntimeError:
            # The loop is closed: the task will never end, and asyncio need not complain of it.
            self._task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own

    async def _own(
        self, ready: asyncio.Future[None], teardown: Callable[[], Awaitable[None]]
    ) -> None:
        async with anyio.create_task_group() as group:
            self._group = group
            if not ready.cancelled():
                ready.set_result(None)
            # Cancelled by nobody but the end of the event loop, which means the same as `stop`.
            with contextlib.suppress(asyncio.CancelledError):
                await self._stop.wait()
            self.state = State.CLOSING
            with anyio.CancelScope(shield=True):
                await teardown()
            self.state = State.CLOSED
            group.cancel_scope.cancel()
