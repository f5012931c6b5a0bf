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
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import anyio

from asteady._base.errors import SessionClosedError, SessionError, SessionNotOpenError
from asteady._base.forks import FORKED, disown_in_child
from asteady._base.tasks import check_loop, run_in_daemon, running_loop, unattended

logger = logging.getLogger("asteady")

# Time limit for the tasks that the owner cancels last.
_TASKS_END_S = 5.0
# From another loop the owner is looked at so often; its loop is taken for dead when it has not run
# for so many looks. ``asyncio.run`` stands still for a moment before it cancels its tasks.
_LOOK_S = 0.05
_DEAD_LOOKS = 5

# In a forked child. Kept, as collecting the parent's loop would remove the parent's descriptors
# from its selector.
_inherited_loops: list[asyncio.AbstractEventLoop] = []


class State(enum.Enum):
    """The states of a session; it only moves forward."""

    UNOPENED = "unopened"
    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


def _nothing() -> None:
    """There is nothing to abandon, or not any more."""


class OwnedTasks:
    """Starts tasks that outlive their callers; lives from `start` to `stop`.

    `teardown` runs once, in the owner's task, before the remaining tasks are cancelled: at `stop`,
    or when the event loop shuts down, as ``asyncio.run`` cancels every task at its end. If the loop
    no longer runs, `abandon` is called in its place, on a thread.
    """

    def __init__(self) -> None:
        self.state = State.UNOPENED
        self.loop: asyncio.AbstractEventLoop | None = None
        self._forked = False
        self._stopped = False
        self._stop = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._when_open: deque[Callable[[], Coroutine[Any, Any, None]]] = deque()
        self._context: contextvars.Context | None = None
        self._abandon: Callable[[], None] = _nothing
        self._abandoning = threading.Lock()

    def check_open(self) -> None:
        """Raise unless it is open, on the running event loop.

        Raises:
            SessionNotOpenError: not open yet.
            SessionClosedError: closed, or closing.
            SessionError: open on another event loop, or this process was forked since.
        """
        if self._forked:
            raise SessionError(FORKED)
        if self.state is State.OPEN:
            check_loop(self.loop)
            return
        if self.state in (State.UNOPENED, State.OPENING):
            raise SessionNotOpenError(
                "the session is not open yet: use `async with Session() as session`, or await"
                " session.open()"
            )
        raise SessionClosedError("the session is closed; open a new one")

    @property
    def left_open(self) -> bool:
        """Whether it was started, in this process, and neither `stop` nor its loop ended it."""
        # `_stopped` first: at the end of the interpreter the names of modules may be None.
        return not (self._stopped or self._forked) and self.state is not State.UNOPENED

    def start(
        self,
        teardown: Callable[[], Awaitable[None]],
        abandon: Callable[[], None] = _nothing,
    ) -> None:
        """Start the owner's task, in a copy of the caller's context. Opening, until `opened`.

        Raises:
            SessionError: no event loop of asyncio is running, or this one is a forked parent's.
        """
        loop = running_loop()
        if loop in _inherited_loops:
            raise SessionError(
                "this event loop had a session before this process was forked, and shares its"
                " selector with the parent's: use a new loop in the child, as asyncio.run does"
            )
        self.loop = loop
        self.state = State.OPENING
        self._abandon = abandon
        disown_in_child(self)
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
            self._spawn_waiting()
        return self.state is State.OPEN

    def spawn_when_open(self, fn: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """`spawn`, as soon as it is open; from any thread. Nothing if it is closed."""
        # Put there first: it may be opened between two steps here.
        self._when_open.append(fn)
        if self.state is State.OPEN and self.loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(self._spawn_waiting)

    def _spawn_waiting(self) -> None:
        while self._when_open:
            self.spawn(self._when_open.popleft())

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

        From another event loop it waits for the owner's loop, or closes without it if it no longer
        runs. There cancelling stops waiting, and closing goes on.
        """
        if self.state is State.UNOPENED:
            self.state = State.CLOSED
        self._stopped = True
        owner = self._owner
        cancelled: asyncio.CancelledError | None = None
        if owner is None or self._forked:
            return
        if self.loop is not asyncio.get_running_loop():
            await self._stop_elsewhere(owner)
            return
        self._stop.set()
        try:
            await asyncio.wait([owner])
        except asyncio.CancelledError as exc:
            cancelled = exc
            # Only here, since anyio imports its backend at the first use: at the end of the
            # interpreter an import makes Python forget that it ends by Ctrl-C.
            with anyio.CancelScope(shield=True):
                while not owner.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait([owner])
        if cancelled is not None:
            raise cancelled
        if not owner.cancelled():
            owner.result()

    async def _stop_elsewhere(self, owner: asyncio.Task[None]) -> None:
        assert self.loop is not None
        self._set_stop()
        still = 0
        while not owner.done():
            still = 0 if self.loop.is_running() else still + 1
            if still > _DEAD_LOOKS or self.loop.is_closed():
                self.state = State.CLOSED
                await run_in_daemon("asteady-close", self._abandon_once)
                return
            await asyncio.sleep(_LOOK_S)  # a loop that stops tells nobody

    def disown(self) -> None:
        """In a forked child: it is closed, and nothing of the parent is touched."""
        if self.loop is not None and not self.loop.is_closed():
            _inherited_loops.append(self.loop)
        self._forked = True
        self.state = State.CLOSED

    async def wait_stopping(self) -> None:
        """Wait until somebody calls `stop`."""
        await self._stop.wait()

    def stop_soon(self) -> None:
        """`stop` from any thread, without waiting."""
        if self.loop is None or self._owner is None or self._owner.done() or self._forked:
            return
        if not self._set_stop() and self.state is not State.CLOSED:
            self.state = State.CLOSED
            with contextlib.suppress(RuntimeError):  # the interpreter exits
                threading.Thread(None, self._abandon_once, "asteady-close", daemon=True).start()

    def _abandon_once(self) -> None:
        """On a thread; a second call waits for the first."""
        with self._abandoning:
            abandon, self._abandon = self._abandon, _nothing
            abandon()

    def _set_stop(self) -> bool:
        """Tell the owner to stop, from any thread; False if its loop is closed."""
        assert self.loop is not None
        try:
            self.loop.call_soon_threadsafe(self._stop.set)
        except RuntimeError:
            return False
        return True

    async def _own(self, teardown: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._stop.wait()
        except asyncio.CancelledError:
            # By nobody but the end of the event loop, which means the same as `stop`.
            current = asyncio.current_task()
            assert current is not None
            current.uncancel()
        if self._forked:
            return
        self._stopped = True
        self.state = State.CLOSING
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
