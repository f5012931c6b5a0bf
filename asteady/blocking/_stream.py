"""Streams without await."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, Generic, TypeVar

from asteady._base.errors import SessionClosedError, SessionError
from asteady._base.public import public
from asteady._base.requests import Completion, Key, StreamEvent, TextChunk, TypedCompletion
from asteady._session.generation import Stream as AsyncStream
from asteady._session.observe import Outcome
from asteady.blocking._portal import Portal, TimeLimit

T = TypeVar("T")


@public
class Stream:
    """The chunks of one completion's text, in order; from `stream`.

    ::

        with session.stream("Tell me a story") as stream:
            for chunk in stream:
                print(chunk, end="")
        print(stream.answer.finish_reason)

    Leaving the block, or Ctrl-C, stops the reading; the computation stops too when nobody else
    waits for it. One thread reads a stream. A time limit begins when it is opened.
    """

    def __init__(
        self,
        portal: Callable[[], Portal],
        start: Callable[[], Awaitable[AsyncStream]],
        timeout: float | None,
    ) -> None:
        self._get_portal = portal
        self._start = start
        self._timeout = timeout
        self._limit = TimeLimit(timeout)
        self._portal: Portal | None = None
        self._stream: AsyncStream | None = None
        self._events: deque[StreamEvent] = deque()

    def __enter__(self) -> Stream:
        if self._portal is not None:
            raise SessionError("a stream opens only once; ask the session for another one")
        self._portal = self._get_portal()
        self._limit = TimeLimit(self._timeout)
        try:
            self._portal.call(self._open, self._limit)
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._leave()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> str:
        """The next chunk, never empty; waits for it. Raises as `complete`, after the chunks."""
        for event in self.events():
            if isinstance(event, TextChunk):
                return event.text
        raise StopIteration

    def events(self) -> Iterator[StreamEvent]:
        """The chunks as records, in order, those of reasoning too; see `asteady.Stream.events`."""
        while True:
            if not self._events:
                self._events.extend(self._opened().call(self._more, self._limit))
            if not self._events:
                return
            yield self._events.popleft()

    @property
    def key(self) -> Key:
        """The key of the answer in the cache."""
        return self._open_stream().key

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model that the stream was opened with."""
        return self._open_stream().fingerprint

    @property
    def outcome(self) -> Outcome:
        """Where the answer comes from; see `asteady.Stream.outcome`."""
        return self._open_stream().outcome

    @property
    def answer(self) -> Completion:
        """The whole completion, once the iteration has ended.

        Raises:
            SessionError: the iteration has not ended yet.
        """
        if self._stream is None or self._events:
            raise SessionError("the answer is there once the stream has been read to its end")
        return self._stream.answer

    def read(self) -> Completion:
        """Read to the end, and return the whole completion."""
        for _ in self:
            pass
        return self.answer

    def _open_stream(self) -> AsyncStream:
        self._opened()
        assert self._stream is not None
        return self._stream

    def _opened(self) -> Portal:
        if self._portal is None:
            raise SessionError("open the stream first: with session.stream(...) as stream")
        return self._portal

    def _leave(self) -> None:
        # Posted, not called: a generator may be collected on any thread, even the loop's own.
        if self._portal is not None and not self._portal.forked:
            with suppress(SessionClosedError):
                self._portal.post(self._end)

    # On the loop.

    async def _open(self) -> None:
        self._stream = await self._start()
        await self._stream.__aenter__()

    async def _more(self) -> list[StreamEvent]:
        assert self._stream is not None
        events = []
        async for event in self._stream.events():
            events.append(event)
            if not self._stream.ready:
                break
        return events

    def _end(self) -> None:
        if self._stream is not None:
            self._stream.leave()


@public
class TypedStream(Stream, Generic[T]):
    """A `Stream` of an answer with a `schema` or `choices`."""

    def __enter__(self) -> TypedStream[T]:
        super().__enter__()
        return self

    @property
    def answer(self) -> TypedCompletion[T]:
        """The whole completion with its value, once the iteration has ended.

        Raises:
            SessionError: the iteration has not ended yet.
        """
        answer: Any = super().answer
        found: TypedCompletion[T] = answer
        return found

    def read(self) -> TypedCompletion[T]:
        """Read to the end, and return the whole completion."""
        super().read()
        return self.answer
