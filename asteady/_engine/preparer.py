"""Turns requests into jobs, off the event loop, so that a long text holds up no short one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from asteady._base.errors import EngineError, SessionClosedError
from asteady._base.threads import start_daemon

T = TypeVar("T")

# Texts up to here take a few milliseconds, and are prepared first come, first served.
_SHORT_CHARACTERS = 2**16
# A long text gives way to shorter ones that come later, until it has waited a second for each
# megabyte that it is larger: about what tokenising takes.
_AGING_CHARACTERS_PER_S = 1e6

LONGEST_STRETCH = 10**6
"""A pre-tokenizer that is a regular expression recurses for each character of a match, which no
text can make longer than its longest stretch without (or of) white space. A preparing thread has
stack for stretches of so many characters."""

# std::regex takes about 330 bytes a character (GCC 12, x86-64, expressions of tekken and deepseek).
_STACK_BYTES_PER_CHARACTER = 1024
_STACK_BYTES = 2**24


class _Current(threading.local):
    preparation: _Preparation[Any] | None = None


_current = _Current()


def check_wanted() -> None:
    """To be called now and then by an engine that prepares a long text.

    Raises:
        SessionClosedError: nobody waits for it any more.
    """
    preparation = _current.preparation
    if preparation is not None and not preparation.wanted:
        raise SessionClosedError("nobody waits for this request any more")


class _Preparation(Generic[T]):
    """One call of `Preparer.submit`."""

    def __init__(
        self, fn: Callable[[], T], characters: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.characters = characters
        self.stopped = False
        self.future: asyncio.Future[T] = loop.create_future()
        self._fn = fn
        self._loop = loop
        self._since = time.monotonic()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for it; the future is done when that one has left."""
        return not (self.stopped or self.future.done())

    def rank(self) -> float:
        """The lowest is prepared first. Its order among others does not change with time."""
        return self.characters + self._since * _AGING_CHARACTERS_PER_S

    def run(self) -> None:
        put: Callable[[Any], None] = self.future.set_result
        outcome: object
        _current.preparation = self
        try:
            outcome = self._fn()
        # Foreign code, of which the thread must survive anything; a future takes no StopIteration.
        except BaseException as exc:
            ordinary = isinstance(exc, Exception) and not isinstance(exc, StopIteration)
            put = self.future.set_exception
            outcome = exc if ordinary else EngineError(f"the engine failed to prepare: {exc!r}")
        finally:
            _current.preparation = None
        self.deliver(put, outcome)

    def deliver(self, put: Callable[[Any], None], outcome: object) -> None:
        def on_loop() -> None:
            if not self.future.done():
                put(outcome)

        with suppress(RuntimeError):  # the loop has been closed meanwhile
            self._loop.call_soon_threadsafe(on_loop)


class Preparer:
    """A thread for short texts, and one at a time for each long one; lives as long as its pool.

    They are daemons, which nothing but `close` waits for: neither can be stopped in native code.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready = threading.Condition(self._lock)
        self._short: deque[_Preparation[Any]] = deque()
        self._long: list[_Preparation[Any]] = []
        self._running: list[_Preparation[Any]] = []
        self._short_thread: threading.Thread | None = None
        self._long_thread: threading.Thread | None = None
        self._closed = False

    def submit(self, fn: Callable[[], T], characters: int) -> asyncio.Future[T]:
        """The result of ``fn()``, which reads a text of so many characters; on the loop's thread.

        Cancelling takes it out of the queue; one that runs ends at its next `check_wanted`.

        Raises:
            EngineError: the system has no room for another thread.
        """
        preparation = _Preparation(fn, characters, asyncio.get_running_loop())
        preparation.future.add_done_callback(lambda _: self._left(preparation))
        with self._lock:
            if self._closed:
                raise SessionClosedError("the session was closed, so nothing more is computed")
            if characters <= _SHORT_CHARACTERS:
                if self._short_thread is None:
                    self._short_thread = _start(self._run_short, _SHORT_CHARACTERS)
                self._short.append(preparation)
                self._ready.notify()
            else:
                self._long.append(preparation)
                if self._long_thread is None:
                    try:
                        self._start_long()
                    except EngineError:
                        self._long.remove(preparation)
                        raise
        return preparation.future

    def close(self) -> list[threading.Thread]:
        """Refuse more, fail what was submitted, and return the threads that may still be busy."""
        with self._lock:
            self._closed = True
            submitted = [*self._short, *self._long, *self._running]
            self._short.clear()
            self._long.clear()
            for preparation in self._running:
                preparation.stopped = True
            self._ready.notify_all()
        for preparation in submitted:
            error = SessionClosedError("the session was closed, so nothing more is computed")
            preparation.deliver(preparation.future.set_exception, error)
        return [thread for thread in (self._short_thread, self._long_thread) if thread is not None]

    def _left(self, preparation: _Preparation[Any]) -> None:
        with self._lock:
            for queue in (self._short, self._long):
                with suppress(ValueError):  # it is not there any more
                    queue.remove(preparation)

    def _start_long(self) -> None:
        """Under the lock: the next long text, in a thread with the stack that it may need."""
        preparation = min(self._long, key=_Preparation.rank)
        self._long_thread = _start(self._run_long, preparation.characters, preparation)
        self._long.remove(preparation)
        self._running.append(preparation)

    # On the threads.

    def _run_short(self) -> None:
        while True:
            with self._lock:
                while not (self._short or self._closed):
                    self._ready.wait()
                if self._closed:
                    return
                preparation = self._short.popleft()
                self._running.append(preparation)
            self._run(preparation)
            del preparation

    def _run_long(self, preparation: _Preparation[Any]) -> None:
        self._run(preparation)
        with self._lock:
            if not self._closed:
                self._long_thread = None
            while self._long:
                try:
                    self._start_long()
                    return
                except EngineError as exc:
                    failed = self._long.pop(0)
                    failed.deliver(failed.future.set_exception, exc)

    def _run(self, preparation: _Preparation[Any]) -> None:
        try:
            if preparation.wanted:
                preparation.run()
        finally:
            with self._lock:
                self._running.remove(preparation)


def _start(target: Callable[..., None], characters: int, *arguments: object) -> threading.Thread:
    stack = _STACK_BYTES + _STACK_BYTES_PER_CHARACTER * min(characters, LONGEST_STRETCH)
    try:
        return start_daemon("asteady-prepare", target, *arguments, stack_bytes=stack)
    except EngineError as exc:
        raise EngineError(
            f"the system has no room for a thread with a stack of {stack:,} bytes, which a text of "
            f"{characters:,} characters may need: shorten it, or raise the process's limits"
        ) from exc
