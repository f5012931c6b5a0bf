"""Reads the chunks of a completion while it is being computed, or of a remembered one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType

from asteady._base.errors import SessionError
from asteady._base.public import public
from asteady._base.requests import Completion
from asteady._session.pipeline import Joined


@public
class Stream:
    """The chunks of one completion, in order; from `Session.stream`.

    ::

        async with session.stream("Tell me a story") as stream:
            async for chunk in stream:
                print(chunk, end="")
        print(stream.answer.finish_reason)

    Opening it starts the computation or joins the one in progress: chunks that are already there
    are replayed, and a remembered answer is replayed with its original chunk boundaries. Leaving
    the block, or being cancelled, stops the reading; the computation stops too when nobody else
    waits for it. A slow reader delays nobody.

    `generate` and `complete` calls for the same request share the computation.
    """

    def __init__(self, start: Callable[[], Awaitable[Joined[Completion]]]) -> None:
        self._start = start
        self._joined: Joined[Completion] | None = None
        self._answer: Completion | None = None
        self._error: BaseException | None = None
        self._index = 0

    async def __aenter__(self) -> Stream:
        if self._joined is not None:
            raise SessionError("this stream is already open; ask the session for another one")
        self._joined = await self._start()
        self._index = 0
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Stop reading, as leaving the block does. Idempotent."""
        joined, self._joined = self._joined, None
        if joined is not None:
            joined.leave(self._error)

    def __aiter__(self) -> Stream:
        self._open()
        return self

    async def __anext__(self) -> str:
        """The next chunk, never empty; waits for it.

        Raises:
            Exception: whatever `Session.complete` would have raised, after the chunks before it.
        """
        joined = self._open()
        if self._index >= len(joined.chunks):
            try:
                if not await joined.wait_chunk(self._index):
                    self._answer = joined.result()
            except BaseException as exc:
                self._error = exc
                raise
            if self._answer is not None:
                raise StopAsyncIteration
        self._index += 1
        return joined.chunks[self._index - 1]

    @property
    def ready(self) -> int:
        """The number of chunks that can be read without waiting."""
        return len(self._open().chunks) - self._index

    @property
    def answer(self) -> Completion:
        """The whole completion, once the iteration has ended.

        Raises:
            SessionError: the iteration has not ended yet.
        """
        if self._answer is None:
            raise SessionError("the answer is there once the stream has been read to its end")
        return self._answer

    async def read(self) -> Completion:
        """Read to the end, and return the whole completion."""
        async for _ in self:
            pass
        return self.answer

    def _open(self) -> Joined[Completion]:
        if self._joined is None:
            raise SessionError("open the stream first: async with session.stream(...) as stream")
        return self._joined
