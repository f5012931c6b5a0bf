"""An event loop in a background thread, and what makes plain methods of async ones.

- `Portal.call` may be used from any number of threads at once, also from one in which another
  event loop runs (a notebook's). On the portal's own thread it would deadlock: an error.
- Ctrl-C, or any exception in the waiting thread, cancels the call.
- The thread is a daemon, and so are threads started from it: none of them keeps the interpreter
  from exiting. `Portal.stop` has a time limit.
- A forked child has no such thread. `portal` starts a new one there; calls through the parent's
  portal are errors.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from asteady._base.errors import SessionClosedError, SessionError

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)
T = TypeVar("T")

# Where users import everything from.
_PUBLIC = "asteady.blocking"

# Signals interrupt a wait for a lock, except on Windows: there it ends now and then.
_WAIT_S = 0.2 if sys.platform == "win32" else -1


class _Call(Generic[T]):
    """One call through a portal."""

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
        if not self._is_cut_off_at_exit():
            self._done.release()

    def _is_cut_off_at_exit(self) -> bool:
        """Whether the end of the program cancelled it while a daemon thread waits. Such a thread
        is left waiting, and ends with the interpreter instead of printing a traceback."""
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
                "a blocking call on asteady's own event loop would deadlock: use the asyncio "
                "functions there"
            )
        call = _Call(self, lambda: fn(*args, **kwargs))
        try:
            self.post(call.start)
            return call.wait()
        except BaseException:
            # Ctrl-C, most likely. Cancelling a call that has ended does nothing.
            if not self.loop.is_closed():
                self.post(call.cancel)
            raise

    def post(self, fn: Callable[[], object]) -> None:
        """Call `fn` on the loop, after what was posted before; does not wait.

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

    def stop(self, tear_down: Callable[[], Awaitable[Any]], timeout_s: float) -> None:
        """Await ``tear_down()``, end all tasks and the thread, in at most `timeout_s` seconds."""

        async def stop() -> None:
            # Not wait_for, which would wait for the end of a session that ignores cancellation.
            closing = asyncio.ensure_future(tear_down())
            await asyncio.wait([closing], timeout=timeout_s * 0.8)
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            if rest:
                await asyncio.wait(rest, timeout=timeout_s * 0.1)
            self.loop.stop()

        self.loop.call_soon_threadsafe(lambda: self.loop.create_task(stop()))
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
# Collecting the parent's loop would remove the parent's file descriptors from its selector.
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


class Plain(ABC, Generic[S_co]):
    """Base of the plain classes. Each instance stands for an object on a portal's event loop."""

    @abstractmethod
    def _portal(self) -> Portal:
        """The portal; raises if it cannot be used here and now."""

    @abstractmethod
    async def _target(self) -> S_co:
        """The object on the loop; called there."""

    def _call(self, fn: Callable[[S_co], Awaitable[R]]) -> R:
        """Wait for ``await fn(target)`` on the loop."""

        async def call() -> R:
            return await fn(await self._target())

        return self._portal().call(call)

    def _read(self, fn: Callable[[S_co], R]) -> R:
        """Wait for ``fn(target)`` on the loop's thread."""

        async def call() -> R:
            return fn(await self._target())

        return self._portal().call(call)


def waited(
    method: Callable[Concatenate[S, P], Awaitable[R]],
) -> Callable[Concatenate[Plain[S], P], R]:
    """An async method as a plain one, with the same parameters, defaults and documentation."""

    @functools.wraps(method)
    def plain(self: Plain[S], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._call(lambda target: method(target, *args, **kwargs))

    plain.__module__ = _PUBLIC
    return plain


def on_loop(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[Plain[S], P], R]:
    """The same for a method that is not async but reads what the loop's thread changes."""

    @functools.wraps(method)
    def plain(self: Plain[S], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._read(lambda target: method(target, *args, **kwargs))

    plain.__module__ = _PUBLIC
    return plain


def iterated(
    method: Callable[Concatenate[S, P], AsyncIterator[R]],
) -> Callable[Concatenate[Plain[S], P], Iterator[R]]:
    """The same for a method that returns an async iterator, whose items may not be None."""

    @functools.wraps(method)
    def plain(self: Plain[S], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        portal = self._portal()
        items = self._read(lambda target: method(target, *args, **kwargs))
        while (item := portal.call(lambda: anext(items, None))) is not None:
            yield item

    plain.__module__ = _PUBLIC
    return plain


def documented_as(method: Callable[..., Any]) -> Callable[[F], F]:
    """Decorate a plain function that is written by hand: `inspect.signature` and `help` show the
    options of the async one, and its documentation unless there is another."""

    def decorate(fn: F) -> F:
        theirs, own = inspect.signature(method), inspect.signature(fn)
        parameters = [own.parameters.get(p.name, p) for p in theirs.parameters.values()]
        fn.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        fn.__doc__ = fn.__doc__ or method.__doc__
        fn.__module__ = _PUBLIC
        return fn

    return decorate
