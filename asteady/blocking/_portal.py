"""An event loop in a background thread, and what makes plain methods of async ones.

- `Portal.call` may be used from any number of threads at once, also from one in which another
  event loop runs (a notebook's). On the portal's own thread it would deadlock: an error.
- Ctrl-C, a time limit, or any exception that is raised into the waiting thread cancels the call.
- The thread is a daemon, and so are threads started from it: none of them keeps the interpreter
  from exiting. `Portal.stop` has a time limit.
- A forked child has no such thread. `portal` starts a new one there; calls through the parent's
  portal are errors.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from asteady._base.errors import SessionClosedError, SessionError
from asteady._base.forks import FORKED, ProcessLock, fork_gate
from asteady._base.validation import seconds

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)
S_co = TypeVar("S_co", covariant=True)
T = TypeVar("T")

# Where users import everything from.
_PUBLIC = "asteady.blocking"

# A wait for a lock ends so often, as only running code notices an exception that another thread
# raises into this one (``PyThreadState_SetAsyncExc``), and on Windows a signal.
_NOTICE_S = 0.2

_TIMEOUT = inspect.Parameter(
    "timeout", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="float | None"
)
_TIMEOUT_DOC = (
    "`timeout`: so many seconds after its beginning it is cancelled, and raises `TimeoutError`."
)


class TimeLimit:
    """The time that one call or iteration may take; it begins at once.

    Raises:
        InvalidRequestError: `timeout` is neither None nor a number of seconds.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self._timeout = timeout if timeout is None else seconds("timeout", timeout)
        self._end = None if self._timeout is None else time.monotonic() + self._timeout

    def left_s(self) -> float:
        """How long to wait now: what is left, or `_NOTICE_S` if that is less."""
        if self._end is None:
            return _NOTICE_S
        return max(0.0, min(_NOTICE_S, self._end - time.monotonic()))

    def check(self) -> None:
        """Raise `TimeoutError` if the time is up."""
        if self._end is not None and time.monotonic() >= self._end:
            raise TimeoutError(f"the call took more than {self._timeout:g} s (timeout)")


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

    def wait(self, limit: TimeLimit) -> T:
        while not self._done.acquire(timeout=limit.left_s()):
            limit.check()
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

    def call(self, fn: Callable[[], Awaitable[T]], limit: TimeLimit | None = None) -> T:
        """Wait for ``await fn()`` on the loop, in a copy of the caller's context.

        Raises:
            SessionError: on the loop's own thread, or in a forked child.
            SessionClosedError: the interpreter is exiting, or the call was cancelled.
            TimeoutError: the time is up.
            BaseException: whatever `fn` raises, or interrupts the waiting.
        """
        self.check()
        if threading.current_thread() is self._thread:
            raise SessionError(
                "a blocking call on asteady's own event loop would deadlock: use the asyncio "
                "functions there"
            )
        call = _Call(self, fn)
        try:
            self.post(call.start)
            return call.wait(TimeLimit() if limit is None else limit)
        except BaseException:
            # Ctrl-C, most likely, or a time limit. Cancelling a call that has ended does nothing.
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
            raise SessionError(FORKED)

    def stop(self, tear_down: Callable[[], Awaitable[Any]], timeout_s: float) -> None:
        """Await ``tear_down()``, end all tasks and the thread, in at most `timeout_s` seconds.

        Does nothing if it was stopped before: a module that is reloaded registers its exit hook
        twice.
        """
        if self.loop.is_closed():
            return

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


# The one there was before, if the module is reloaded: it would never be stopped.
_portal: Portal | None = globals().get("_portal")
_starting = ProcessLock()
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


def _forget_in_child(_: bool) -> None:
    global _portal
    if _portal is not None:
        _portal.forked = True
        _parents.append(_portal)
        _portal = None


fork_gate.in_child(_forget_in_child)


class Plain(ABC, Generic[S_co]):
    """Base of the plain classes. Each instance stands for an object on a portal's event loop."""

    @abstractmethod
    def _portal(self) -> Portal:
        """The portal; raises if it cannot be used here and now."""

    @abstractmethod
    async def _target(self) -> S_co:
        """The object on the loop; called there."""

    def _call(self, fn: Callable[[S_co], Awaitable[R]], limit: TimeLimit | None = None) -> R:
        """Wait for ``await fn(target)`` on the loop."""

        async def call() -> R:
            return await fn(await self._target())

        return self._portal().call(call, limit)

    def _read(self, fn: Callable[[S_co], R], limit: TimeLimit | None = None) -> R:
        """Wait for ``fn(target)`` on the loop's thread."""

        async def call() -> R:
            return fn(await self._target())

        return self._portal().call(call, limit)


class Bound(Protocol[P, R_co]):
    """A plain method of an instance: the async one's parameters, and `timeout`.

    Types cannot express a keyword added to a `ParamSpec`: with it, the others are not checked.
    """

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *args: Any, timeout: float | None, **kwargs: Any) -> R_co: ...


class Method(Protocol[S_contra, P, R_co]):
    """A plain method of a class."""

    @overload
    def __get__(self, instance: None, owner: Any = None) -> Callable[Concatenate[Any, P], R_co]: ...
    @overload
    def __get__(self, instance: Plain[S_contra], owner: Any = None) -> Bound[P, R_co]: ...


def waited(method: Callable[Concatenate[S, P], Awaitable[R]]) -> Method[S, P, R]:
    """An async method as a plain one, with the same parameters, defaults and documentation."""

    @functools.wraps(method)
    def plain(self: Plain[S], /, *args: Any, timeout: float | None = None, **kwargs: Any) -> R:
        return self._call(lambda target: method(target, *args, **kwargs), TimeLimit(timeout))

    return with_timeout(plain)  # type: ignore[no-any-return]  # see Bound


def on_loop(method: Callable[Concatenate[S, P], R]) -> Method[S, P, R]:
    """The same for a method that is not async but reads what the loop's thread changes."""

    @functools.wraps(method)
    def plain(self: Plain[S], /, *args: Any, timeout: float | None = None, **kwargs: Any) -> R:
        return self._read(lambda target: method(target, *args, **kwargs), TimeLimit(timeout))

    return with_timeout(plain)  # type: ignore[no-any-return]  # see Bound


def iterated(
    method: Callable[Concatenate[S, P], AsyncIterator[R]],
) -> Method[S, P, Iterator[R]]:
    """The same for a method that returns an async iterator, whose items may not be None.

    The time limit is for the whole iteration.
    """

    @functools.wraps(method)
    def plain(
        self: Plain[S], /, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Iterator[R]:
        portal, limit = self._portal(), TimeLimit(timeout)
        items = self._read(lambda target: method(target, *args, **kwargs), limit)
        while (item := portal.call(lambda: anext(items, None), limit)) is not None:
            yield item

    return with_timeout(plain)  # type: ignore[no-any-return]  # see Bound


def documented_as(
    method: Callable[..., Any], *, timeout_in_options: bool = False
) -> Callable[[F], F]:
    """Decorate a plain function that is written by hand: `inspect.signature` and `help` show the
    options of the async one, and its documentation unless there is another.

    With `timeout_in_options` it takes `timeout` in ``**options``: a parameter of its own would make
    warm hits slower, by a fiftieth.
    """

    def decorate(fn: F) -> F:
        theirs, own = inspect.signature(method), inspect.signature(fn)
        parameters = [own.parameters.get(p.name, p) for p in theirs.parameters.values()]
        fn.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        fn.__doc__ = fn.__doc__ or method.__doc__
        fn.__module__ = _PUBLIC
        if timeout_in_options:
            fn.__annotations__["options"] = method.__annotations__["options"]
        return with_timeout(fn) if timeout_in_options or "timeout" in own.parameters else fn

    return decorate


def with_timeout(fn: Callable[..., Any]) -> Any:
    """Have `inspect.signature` and `help` show the parameter `timeout` that a function takes."""
    signature = inspect.signature(fn)
    parameters = [p for p in signature.parameters.values() if p.name != _TIMEOUT.name]
    # Before `**options`, if there are any.
    last = len(parameters) - any(p.kind is p.VAR_KEYWORD for p in parameters)
    parameters.insert(last, _TIMEOUT)
    fn.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    fn.__annotations__ = {**fn.__annotations__, _TIMEOUT.name: _TIMEOUT.annotation}
    fn.__doc__ = f"{inspect.getdoc(fn)}\n\n{_TIMEOUT_DOC}"
    fn.__module__ = _PUBLIC
    return fn
