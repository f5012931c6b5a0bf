"""Texts that wait at the same time travel to a server as one request."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Awaitable, Callable, Sequence

import attrs

from asteady._base.errors import (
    AsteadyError,
    InvalidRequestError,
    RemoteError,
    RemoteTimeoutError,
)
from asteady._base.requests import Embedding
from asteady._engine.remote.body import RemoteJob, text_of

# Some servers take no more at once.
MOST_TEXTS = 32
# So that the body is far below the limits of servers, and nobody waits for a long text of another.
_MOST_CHARACTERS = 100_000
# After so many lists that a server took, it is tried with longer ones again.
_LISTS_UNTIL_LONGER = 100

_log = logging.getLogger("asteady")

Ask = Callable[[Sequence[RemoteJob]], Awaitable[list[Embedding]]]
"""Sends one request for these texts, which have the same options."""


@attrs.define(eq=False)
class _Text:
    job: RemoteJob
    vector: asyncio.Future[Embedding]
    batch: _Batch | None = None


@attrs.frozen(eq=False)
class _Batch:
    texts: list[_Text]
    task: asyncio.Task[None]


class TextBatches:
    """Sends texts by `ask`, at most `requests` requests at once, as long as its event loop runs.

    A text that finds no other one waiting is sent at once and alone; while all requests are under
    way those that come gather, and the next request has all of them, or their share of `servers`.

    Of a list that is refused, or not answered as a list, the halves are sent, so one text that is
    refused fails no other one; and a server that only takes shorter lists, or none, is sent those.
    """

    def __init__(self, ask: Ask, *, requests: int, servers: int) -> None:
        self._ask = ask
        self._requests = requests
        self._servers = servers
        self._waiting: list[_Text] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._most = MOST_TEXTS
        self._taken = 0
        self._due = False

    async def embed(self, job: RemoteJob) -> Embedding:
        """The vector of one text. Cancelling closes its request if it was the last one in it.

        Raises as `ask` does.
        """
        loop = asyncio.get_running_loop()
        text = _Text(job, loop.create_future())
        self._waiting.append(text)
        if not self._due:
            # When those that were admitted together are all here.
            self._due = True
            loop.call_soon(self._send_waiting)
        try:
            return await text.vector
        except asyncio.CancelledError:
            await self._leave(text)
            raise

    async def _leave(self, text: _Text) -> None:
        text.vector.cancel()
        if not text.vector.cancelled():
            text.vector.exception()  # or asyncio would log that nobody has asked for it
        if (batch := text.batch) is None:
            self._waiting.remove(text)
        elif all(each.vector.done() for each in batch.texts):
            batch.task.cancel()
            await asyncio.wait([batch.task])

    def _send_waiting(self) -> None:
        self._due = False
        while self._waiting and len(self._tasks) < self._requests:
            texts = self._take()
            task = asyncio.get_running_loop().create_task(self._send_batch(texts))
            batch = _Batch(texts, task)
            for text in texts:
                text.batch = batch
            self._tasks.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._tasks.remove(task)
        self._send_waiting()

    def _take(self) -> list[_Text]:
        """The texts of the next request: the oldest one, and those after it that can join it."""
        share = -(-len(self._waiting) // self._servers)
        most = min(self._most, share)
        taken: list[_Text] = []
        left: list[_Text] = []
        characters = 0
        for text in self._waiting:
            characters += len(text_of(text.job))
            joins = not taken or (
                len(taken) < most
                and text.job.options == taken[0].job.options
                and characters <= _MOST_CHARACTERS
            )
            (taken if joins else left).append(text)
        self._waiting = left
        return taken

    async def _send_batch(self, texts: list[_Text]) -> None:
        try:
            await self._send(texts)
        except Exception as exc:
            _fail(texts, exc)

    async def _send(self, texts: list[_Text]) -> bool:
        """Whether they were answered, as a whole."""
        texts = [text for text in texts if not text.vector.done()]
        if not texts:
            return True
        try:
            vectors = await self._ask([text.job for text in texts])
        except AsteadyError as exc:
            if len(texts) > 1 and _may_be_for_one(exc):
                await self._send_halves(texts)
            else:
                _fail(texts, exc)
            return False
        for text, vector in zip(texts, vectors, strict=True):
            if not text.vector.done():
                text.vector.set_result(vector)
        self._taken += 1
        if self._taken >= _LISTS_UNTIL_LONGER and self._most < MOST_TEXTS:
            self._most, self._taken = self._most * 2, 0
        return True

    async def _send_halves(self, texts: list[_Text]) -> None:
        half = (len(texts) + 1) // 2
        first = await self._send(texts[:half])
        second = await self._send(texts[half:])
        if first and second:  # so it was the length
            self._most, self._taken = min(self._most, half), 0
            _log.info("a server was sent %d texts at once, and takes %d", len(texts), half)


def _may_be_for_one(exc: AsteadyError) -> bool:
    """Whether fewer texts may be answered: not if the server is away or overloaded."""
    return isinstance(exc, InvalidRequestError | RemoteTimeoutError) or type(exc) is RemoteError


def _fail(texts: Sequence[_Text], exc: Exception) -> None:
    for text in texts:
        if not text.vector.done():
            # One of its own, as each gets a traceback.
            own = copy.copy(exc) if isinstance(exc, AsteadyError) else exc
            own.__cause__ = exc.__cause__
            text.vector.set_exception(own)
