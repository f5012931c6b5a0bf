"""Flights: one computation in progress, shared by every caller that asked for its key.

Guarantees:

- At most one flight per key. `Flights.join` decides without awaiting, so there is no moment
  between looking and starting.
- The computation runs in a task that the session owns, in the session's context. Callers only
  wait, so a caller's cancellation, deadline or context variables reach nobody else.
- Waiters are counted. When the last one leaves, the flight is cancelled and forgotten at once; a
  later caller starts afresh. Forgetting compares identities: a dying flight never removes the
  new one that took its place.
- Chunks are kept, so a reader may join at any time: it replays, then follows. A slow reader delays
  nobody.
- Each waiter gets an exception object of its own, with the original as its ``__cause__``.
"""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from contextlib import suppress
from time import perf_counter
from typing import Any, Generic, Literal, Protocol, TypeVar

import attrs

from asteady._base.errors import SessionClosedError
from asteady._base.public import public
from asteady._base.records import Record
from asteady._base.requests import Chunk, EmbedRequest, GenerateRequest, Key, Kind
from asteady._base.tasks import check_loop
from asteady._cache.store.stored_request import PROMPT_CHARACTERS, prompt_of

A = TypeVar("A")


class Spawn(Protocol):
    """Starts a task that the session owns; calls `ended` after it, even if it never began."""

    def __call__(
        self, fn: Callable[[], Coroutine[Any, Any, None]], ended: Callable[[], None], /
    ) -> asyncio.Task[None]: ...


@attrs.frozen(kw_only=True, eq=False)
class Asked:
    """What a flight computes the answer to."""

    kind: Kind
    request: GenerateRequest | EmbedRequest
    model: str
    key: Key


@public
@attrs.frozen(kw_only=True)
class FlightStatistics(Record):
    """One computation in progress, of an answer that `waiters` calls wait for.

    `prompt` is the beginning of the prompt, of the last message, or of the text. `chunks` pieces of
    the answer are there. It began `age_s` seconds ago.
    """

    kind: Kind
    model: str
    key: Key
    prompt: str
    waiters: int
    chunks: int
    age_s: float


class Flight(Generic[A]):
    """One computation in progress. Lives from `Flights.join` until its computation ends.

    Whoever joined leaves exactly once, by `wait` (which does so itself) or by `leave`.
    """

    def __init__(
        self, flights: Flights, key: Hashable, compute: Callable[[Flight[A]], Awaitable[A]]
    ) -> None:
        self.key = key
        self.chunks: list[Chunk] = []
        self.namespaces: set[str] = set()
        """The namespaces of all who joined: the stored entry is tagged with them."""
        self.asked_s = math.inf
        """When the first who joined asked, in seconds since the epoch."""
        self.stored_as: Key | None = None
        """The answer's key, if it is not the one that was asked for: the model is another one."""
        self.found: Literal["disk", "shared"] | None = None
        """Where the answer was found, if it was not computed."""
        self.asked: Asked | None = None
        """None for what no caller asked for, as loading a model."""
        self.waiters = 0
        self._began_s = perf_counter()
        self._flights = flights
        self._compute = compute
        # Not anyio's cancel scopes: a timer starts flights too, and they need a current task.
        self._task: asyncio.Task[None] | None = None
        self._done = asyncio.Event()
        self._more: asyncio.Event | None = None
        self._read = False
        self._answer: A | None = None
        self._error: Exception | None = None

    def __repr__(self) -> str:
        state = "done" if self.done else f"{self.waiters} waiting, {len(self.chunks)} chunks"
        return f"<Flight {self.key!r}: {state}>"

    @property
    def done(self) -> bool:
        return self._done.is_set()

    @property
    def succeeded(self) -> bool:
        """Whether there is an answer."""
        return self._answer is not None

    def statistics(self) -> FlightStatistics | None:
        """None for what no caller asked for."""
        if self.asked is None:
            return None
        return FlightStatistics(
            kind=self.asked.kind,
            model=self.asked.model,
            key=self.asked.key,
            prompt=prompt_of(self.asked.request)[:PROMPT_CHARACTERS],
            waiters=self.waiters,
            chunks=len(self.chunks),
            age_s=perf_counter() - self._began_s,
        )

    def emit(self, *chunks: Chunk) -> None:
        """Append chunks, and wake the waiting readers."""
        self.chunks.extend(chunks)
        self._wake_readers()

    def restart(self) -> bool:
        """Drop the chunks, which are to be computed again; False if somebody has read some."""
        if not self._read:
            self.chunks.clear()
        return not self._read

    async def wait(self) -> A:
        """Wait for the answer, then leave.

        Cancelling leaves at once; the computation stops too if nobody else waits for it.

        Raises:
            SessionClosedError: the session closed before there was an answer.
            Exception: a copy of what the computation raised.
        """
        try:
            await self._done.wait()
        finally:
            self.leave()
        return self.result()

    async def wait_done(self) -> None:
        """Wait until `result` may be called, without leaving."""
        await self._done.wait()

    async def wait_chunk(self, index: int) -> bool:
        """Wait until chunk `index` is there (True) or there will be none (False)."""
        while index >= len(self.chunks) and not self.done:
            if self._task is not None:
                check_loop(self._task.get_loop())
            if self._more is None:
                self._more = asyncio.Event()
            await self._more.wait()
        found = index < len(self.chunks)
        self._read |= found
        return found

    def result(self) -> A:
        """The answer of a flight that is done; raises as `wait` does."""
        if self._error is not None:
            own = _own_copy(self._error)
            raise own from (self._error if own is not self._error else own.__cause__)
        if self._answer is None:
            raise SessionClosedError("the session was closed before the answer was ready")
        return self._answer

    def leave(self) -> None:
        """Stop waiting. The last one to leave an unfinished flight ends it."""
        self.waiters -= 1
        if self.waiters == 0 and not self.done:
            self.cancel()

    def cancel(self) -> None:
        """End the computation; whoever still waits gets `SessionClosedError`."""
        self._flights.forget(self)
        if self._task is not None:
            self._task.cancel()

    def start(self, spawn: Spawn) -> None:
        """Begin the computation, in a task that the session owns."""
        self._task = spawn(self._run, self._ended)

    async def _run(self) -> None:
        try:
            self._answer = await self._compute(self)
        except Exception as exc:
            self._error = exc

    def _ended(self) -> None:
        """Called when its task has ended, even if it never began."""
        self._flights.ended(self)
        self._done.set()
        self._wake_readers()

    def _wake_readers(self) -> None:
        if self._more is not None:
            self._more.set()
            self._more = None


class Flights:
    """The flights of one session. `spawn` starts a task that outlives the caller."""

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn
        self._by_key: dict[Hashable, Flight[object]] = {}
        # Also those that were cancelled and forgotten but whose task has not ended yet.
        self._unfinished: set[Flight[object]] = set()
        self._closed = False
        self._empty: asyncio.Event | None = None

    def __len__(self) -> int:
        return len(self._by_key)

    def statistics(self) -> tuple[FlightStatistics, ...]:
        """Those of answers, the oldest first; for any thread."""
        each = [flight.statistics() for flight in list(self._by_key.values())]
        return tuple(statistics for statistics in each if statistics is not None)

    def join(
        self, key: Hashable, compute: Callable[[Flight[A]], Awaitable[A]]
    ) -> tuple[Flight[A], bool]:
        """The flight for `key`, started if there is none; and whether this call started it.

        The caller counts as a waiter from now on. Two computations under one key must give the
        same answer; the second one is not run.

        Raises:
            SessionClosedError: `close` has been called.
        """
        if self._closed:
            raise SessionClosedError("the session is closed; open a new one")
        flight: Flight[A] | None = self._by_key.get(key)  # type: ignore[assignment]  # see above
        started = flight is None
        if flight is None:
            flight = Flight(self, key, compute)
            flight.start(self._spawn)
            self._by_key[key] = flight  # type: ignore[assignment]  # one type of answer per key
            self._unfinished.add(flight)  # type: ignore[arg-type]  # likewise
        flight.waiters += 1
        return flight, started

    def forget(self, flight: Flight[A]) -> None:
        if self._by_key.get(flight.key) is flight:
            del self._by_key[flight.key]

    def ended(self, flight: Flight[A]) -> None:
        self.forget(flight)
        self._unfinished.discard(flight)  # one set for all types of answers
        if self._empty is not None and not self._unfinished:
            self._empty.set()

    async def close(self, timeout_s: float | None = None) -> bool:
        """Start no more, cancel all, and wait until all tasks ended; returns whether they did."""
        self._closed = True
        for flight in list(self._unfinished):
            flight.cancel()
        if self._unfinished:
            self._empty = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._empty.wait()
        return not self._unfinished


def _own_copy(error: Exception) -> Exception:
    """A copy with the same traceback; the error itself if its class allows none."""
    with suppress(Exception):  # an __init__ that copy cannot call
        duplicate = copy.copy(error)
        if type(duplicate) is type(error):
            return duplicate.with_traceback(error.__traceback__)
    with suppress(Exception):
        duplicate = type(error).__new__(type(error), *error.args)
        vars(duplicate).update(vars(error))
        return duplicate.with_traceback(error.__traceback__)
    return error
