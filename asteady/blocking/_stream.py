"""Reads the chunks of a completion while it is being computed, without await."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType

from asteady._base.errors import SessionClosedError, SessionError
from asteady._base.public import public
from asteady._base.requests import Completion
from asteady._session.stream import Stream as AsyncStream
from asteady.blocking._portal import Portal


@public
class Stream:
    """The chunks of one completion, in order; from `stream`.

    ::

        with session.stream("Tell me a story") as stream:
            for chunk in stream:
                print(chunk, end="")
        print(stream.answer.finish_reason)

    Leaving the block, or Ctrl-C, stops the reading; the computation stops too when nobody else
    waits for it. One thread reads a stream.
    """

    def __init__(
        self, portal: Callable[[], Portal], start: Callable[[], Awaitable[AsyncStream]]
    ) -> None:
        self._get_portal = portal
        self._start = start
        self._portal: Portal | None = None
        self._stream: AsyncStream | None = None
        self._chunks: deque[str] = deque()

    def __enter__(self) -> Stream:
        if self._portal is not None:
            raise SessionError("a stream opens only once; ask the session for another one")
        self._portal = self._get_portal()
        try:
            self._portal.call(self._open)
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> str:
        """The next chunk, never empty; waits for it. Raises as `complete`, after the chunks."""
        if not self._chunks:
            self._chunks.extend(self._opened().call(self._more))
        if not self._chunks:
            raise StopIteration
        return self._chunks.popleft()

    @property
    def answer(self) -> Completion:
        """The whole completion, once the iteration has ended.

        Raises:
            SessionError: the iteration has not ended yet.
        """
        if self._stream is None or self._chunks:
            raise SessionError("the answer is there once the stream has been read to its end")
        return self._stream.answer

    def read(self) -> Completion:
        """Read to the end, and return the whole completion."""
        for _ in self:
            pass
        return self.answer

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

    async def _more(self) -> list[str]:
        assert self._stream is not None
        chunks = []
        async for chunk in self._stream:
            chunks.append(chunk)
            if not self._stream.ready:
                break
        return chunks

    def _end(self) -> None:
        if self._stream is not None:
            self._stream.leave()
