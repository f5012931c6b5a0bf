"""One event loop in a thread of its own, for callers that do not await.

Guarantees:

- `Portal.call` may be used from any number of threads at once, also from one in which another
  event loop runs (a notebook's). On the portal's own thread it would wait for itself: an error.
- Whatever ends the waiting early (Ctrl-C) cancels what was called.
- The thread is a daemon, and so are those that are started from it: none of them keeps the
  interpreter from exiting. `Portal.stop` has a time limit.
- After a fork the child has no such thread. `portal` starts a new one there; calls through the
  parent's portal are errors.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Generic, ParamSpec, TypeVar

from asteady._base.errors import SessionClosedError, SessionError

P = ParamSpec("P")
T = TypeVar("T")

# Waiting for a lock is interrupted by signals, except on Windows, where it has to be now and then.
_WAIT_S = 0.2 if sys.platform == "win32" else -1


class _Call(Generic[T]):
    """One call on its way through a portal."""

    def __init__(self, portal: Portal, fn: Callable[[], Awaitable[T]]) -> None:
        self._portal = portal
        self._fn = fn
        self._waiter = threading.current_thread()
        self._done = threading.Lock()
        self._done.acquire()
        self._task: asyncio.Task[None] | None = None
        self._value: T
        self._error: BaseException | None = None

    def start(self) -> None:
        self._task = self._portal.loop.create_task(self._run(), name="asteady blocking call")

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def wait(self) -> T:
        while not self._done.acquire(timeout=_WAIT_S):
            pass
        try:
            if self._error is not None:
                raise self._error
            return self._value
        finally:
            # The error's traceback holds this frame, and so the error.
            self._error = None

    async def _run(self) -> None:
        try:
            self._value = await self._fn()
        except asyncio.CancelledError as exc:
            self._error = SessionClosedError("the call was cancelled")
            self._error.__cause__ = exc
        except BaseException as exc:
            self._error = exc
        if not self._is_for_nobody():
            self._done.release()

    def _is_for_nobody(self) -> bool:
        """Whether it was cut off by the end of the program, in a daemon thread: such threads end
        with the interpreter, and in silence, not with a traceback each."""
        return (
            isinstance(self._error, SessionClosedError)
            and self._waiter.daemon
            and not threading.main_thread().is_alive()
        )


class Portal:
    """An event loop in a daemon thread, from construction to `stop`."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.forked = False
        self._thread = threading.Thread(target=self._serve, name="asteady-blocking", daemon=True)
        self._thread.start()

    def call(self, fn: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Wait for ``await fn(*args, **kwargs)`` on the loop, in a copy of the caller's context.

        Raises:
            SessionError: on the loop's own thread, or in a forked child.
            SessionClosedError: the interpreter is exiting, or the call was cancelled.
            BaseException: whatever `fn` raises, or interrupts the waiting.
        """
        self.check()
        if threading.current_thread() is self._thread:
            raise SessionError(
                "a call without await, made on asteady's own event loop, would wait for itself: "
                "use the asyncio functions there"
            )
        call = _Call(self, lambda: fn(*args, **kwargs))
        try:
            self.post(call.start)
            return call.wait()
        except BaseException:
            # Ctrl-C, most likely; for a call that has ended it does nothing.
            if not self.loop.is_closed():
                self.post(call.cancel)
            raise

    def post(self, fn: Callable[[], object]) -> None:
        """Call `fn` on the loop, soon, after what was posted before; does not wait.

        Raises:
            SessionClosedError: the interpreter is exiting.
        """
        try:
            self.loop.call_soon_threadsafe(fn)
        except RuntimeError:
            raise SessionClosedError("the interpreter is exiting") from None

    def check(self) -> None:
        """Raise `SessionError` in a child that was forked after this portal was made."""
        if self.forked:
            raise SessionError(
                "this process was forked after the session was opened, and threads do not survive "
                "a fork: open a session in the child process instead"
            )

    def stop(self, farewell: Callable[[], Awaitable[Any]], timeout_s: float) -> None:
        """Await ``farewell()``, end all tasks and the thread; give up after `timeout_s` seconds."""

        async def part() -> None:
            # Not wait_for: it would wait for a session that will not be cut short.
            goodbye = asyncio.ensure_future(farewell())
            await asyncio.wait([goodbye], timeout=timeout_s * 0.8)
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            if rest:
                await asyncio.wait(rest, timeout=timeout_s * 0.1)
            self.loop.stop()

        self.loop.call_soon_threadsafe(lambda: self.loop.create_task(part()))
        self._thread.join(timeout_s)

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()


_portal: Portal | None = None
_starting = threading.Lock()
# To collect the loop of the parent would take the parent's file descriptors from its selector.
_parents: list[Portal] = []


def portal() -> Portal:
    """The portal of this process, started at the first call."""
    global _portal
    if _portal is None:
        with _starting:
            if _portal is None:
                _portal = Portal()
    return _portal


def started() -> Portal | None:
    """The portal of this process, if it has been started."""
    return _portal


def _forget_in_child() -> None:
    global _portal, _starting
    _starting = threading.Lock()  # another thread may have held it
    if _portal is not None:
        _portal.forked = True
        _parents.append(_portal)
        _portal = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
