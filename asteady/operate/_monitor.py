"""Hit rates since a mark, and the outcome of single operations."""

from __future__ import annotations

import inspect
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Generic, ParamSpec, TypeVar

import attrs

from asteady._base.errors import InvalidRequestError, SessionError
from asteady._base.public import public
from asteady._base.records import Record
from asteady._base.requests import KINDS, GenerateRequest, Kind
from asteady._base.validation import one_of
from asteady._session.observe import Observed, Outcome
from asteady._session.session import Session
from asteady.operate._resolve_session import session_now, stats_of

P = ParamSpec("P")
T = TypeVar("T")

# From cheap to costly: the last one names the outcome of several calls.
_BY_COST: tuple[Outcome, ...] = (
    *("memory", "disk", "shared"),
    *("coalesced", "computed", "failed"),
)


@public
@attrs.frozen(kw_only=True)
class Counts(Record):
    """The counters of one cache since a mark, in this process.

    Each call is one of `hits`, `misses` and `coalesced`: answered from the cache, computed, or
    answered by a computation that another call had started. `seconds_saved` is the time that
    computing the hits had taken; it may lag by a second.
    """

    hits: int
    misses: int
    coalesced: int
    seconds_saved: float

    @property
    def hit_rate(self) -> float:
        """Hits in percent of hits and misses; 0 if there were none."""
        lookups = self.hits + self.misses
        return 100 * self.hits / lookups if lookups else 0.0


class _Calls:
    """The outcome of several calls together."""

    calls: Sequence[Observed]

    @property
    def outcome(self) -> Outcome | None:
        """The outcome of its call; of several, the costliest one.

        "memory", "disk" and "shared" are hits, "coalesced" waited for another call's computation,
        "computed" is a miss, "failed" raised or was cancelled; None if no call has ended.
        """
        return max((call.outcome for call in self.calls), key=_BY_COST.index, default=None)

    @property
    def cache_hit(self) -> bool:
        """Whether the cache had the answer of every call."""
        return bool(self.calls) and all(call.hit for call in self.calls)

    @property
    def stats_delta(self) -> dict[str, int]:
        """The hits of this operation alone, by cache."""
        generation = [isinstance(call.request, GenerateRequest) for call in self.calls if call.hit]
        return {
            "generation_hits": sum(generation),
            "embedding_hits": len(generation) - sum(generation),
        }


@public
class Operation(_Calls):
    """The calls made in one `CacheMonitor.operation` block.

    `calls` has those that have ended; `duration_s` is set when the block has ended.
    """

    def __init__(self, session: Session) -> None:
        self.calls: list[Observed] = []
        self.duration_s = 0.0
        self._session = session
        self._observing: AbstractContextManager[None] | None = None
        self._began_s = 0.0

    def __repr__(self) -> str:
        return f"<Operation {self.outcome}, {len(self.calls)} calls, {self.duration_s:.3f} s>"

    def __enter__(self) -> Operation:
        self._observing = self._session.observe(self.calls.append)
        self._observing.__enter__()
        self._began_s = time.perf_counter()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.duration_s = time.perf_counter() - self._began_s
        observing, self._observing = self._observing, None
        if observing is not None:
            observing.__exit__(None, None, None)

    async def __aenter__(self) -> Operation:
        return self.__enter__()

    async def __aexit__(self, *exc_info: object) -> None:
        self.__exit__(*exc_info)


@public
@attrs.frozen(kw_only=True)
class Monitored(_Calls, Generic[T]):
    """What `CacheMonitor.run` returns: the function's result, and the calls that it made."""

    result: T
    duration_s: float
    calls: tuple[Observed, ...]


@public
class CacheMonitor:
    """Watches the caches of a session; without one, of the running loop's default session.

    Needs no closing. Counting starts when it is constructed, or at `mark`.
    """

    def __init__(self, session: Session | None = None) -> None:
        self._given = session
        self._marks: dict[Kind, Counts] = {}
        self.mark()

    def __repr__(self) -> str:
        try:
            rates = ", ".join(f"{c} {self.get_hit_rate(c):.1f}%" for c in KINDS)
        except SessionError:  # of a default session, where no event loop runs
            return "<CacheMonitor>"
        return f"<CacheMonitor: {rates}>"

    def mark(self) -> None:
        """Count from now on."""
        self._marks = {cache_type: self._now(cache_type) for cache_type in KINDS}
        self._marked = weakref.ref(session_now(self._given))

    def since_mark(self, cache_type: Kind = "generation") -> Counts:
        """The counters of one cache since the mark.

        Raises:
            InvalidRequestError: there is no such cache.
        """
        one_of("cache_type", cache_type, KINDS)
        now = self._now(cache_type)
        if self._marked() is not session_now(self._given):
            return now  # the default session was closed since, and another one counts from 0
        then = attrs.asdict(self._marks[cache_type])
        return Counts(**{name: value - then[name] for name, value in attrs.asdict(now).items()})

    def get_hit_rate(self, cache_type: Kind = "generation") -> float:
        """Hits since the mark in percent of hits and misses; 0.0 before there were any."""
        return self.since_mark(cache_type).hit_rate

    def operation(self) -> Operation:
        """Record the calls made in a block, and no others::

            async with monitor.operation() as op:
                text = await session.generate("Write a haiku about caching")
            print(op.outcome, op.duration_s)

        It sees this task's calls, and those of tasks that are started in the block.
        """
        return Operation(session_now(self._given))

    async def run(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Monitored[T]:
        """Await ``fn(*args, **kwargs)`` as one operation.

        Raises:
            InvalidRequestError: `fn` is no function, or what it returns cannot be awaited.
            Exception: whatever `fn` raises.
        """
        if not callable(fn):
            if inspect.iscoroutine(fn):
                fn.close()
            raise InvalidRequestError(
                f"{fn!r} is not allowed: give a function and its arguments separately, as in"
                " run(session.generate, prompt, seed=42)"
            )
        operation = self.operation()
        async with operation:
            pending = fn(*args, **kwargs)
            if not inspect.isawaitable(pending):
                raise InvalidRequestError(
                    f"the result of {fn!r} cannot be awaited: give an async function, or use"
                    " asteady.blocking.CacheMonitor for plain ones"
                )
            result = await pending
        return Monitored(
            result=result, duration_s=operation.duration_s, calls=tuple(operation.calls)
        )

    monitor_operation = run

    async def summary(self) -> str:
        """The caches' sizes, and their counts since the mark, for people to read.

        Raises:
            SessionError: the session is not open yet, or is closed.
        """
        stats = await stats_of(session_now(self._given))
        lines = ["=== Cache Performance Summary ==="]
        for cache_type in KINDS:
            counts, now = self.since_mark(cache_type), stats[cache_type]
            lines += [
                "",
                f"{cache_type.title()} Cache:",
                f"  Size: {now['size']} of {now['capacity']} entries",
                f"  Hit Rate: {counts.hit_rate:.1f}%",
                f"  Hits: {counts.hits}",
                f"  Misses: {counts.misses}",
                f"  Coalesced: {counts.coalesced}",
                f"  Time saved: {counts.seconds_saved:.1f} s",
            ]
        return "\n".join(lines)

    async def print_summary(self) -> None:
        """Print `summary`."""
        print(await self.summary())

    def _now(self, cache_type: Kind) -> Counts:
        counters = getattr(session_now(self._given).cache, cache_type).counters
        return Counts(
            hits=counters.hits,
            misses=counters.misses,
            coalesced=counters.coalesced,
            seconds_saved=counters.saved_s,
        )
