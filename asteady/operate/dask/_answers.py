"""The answers to any number of texts or prompts, one after the other."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from itertools import count
from typing import Any, Generic, Self, TypeAlias, TypeVar

import numpy as np
from distributed import Client, Future

from asteady._base.errors import InvalidRequestError
from asteady._base.public import public
from asteady.operate.dask._session_plugin import SessionPlugin
from asteady.operate.dask._tasks import Job
from asteady.operate.dask._window import Window

T = TypeVar("T")

Items: TypeAlias = Iterable[Any] | AsyncIterable[Any]

# Batches on their way for each thread of the cluster: while the first one is slow, the others are
# computed. At least so many, as workers may join.
_BATCHES_PER_THREAD = 4
_LEAST_BATCHES = 8


@public
class Answers(Generic[T]):
    """An iterator over the answers, in the order of what was asked; from `embed` and `generate`.

    With a client that is asynchronous it is an async iterator: ``async for answer in answers``. As
    answers are taken it reads on from what it was given, and has some batches for each thread of
    the cluster computed ahead, so memory stays bounded. An error of an answer ends it. To stop
    early, drop it: batches that have not begun are not computed.
    """

    def __init__(
        self,
        client: Client,
        items: Items,
        plugin: SessionPlugin,
        task: Callable[..., list[Any]],
        job: Job,
        batch_size: int,
    ) -> None:
        name, numbers = f"{task.__name__}-{uuid.uuid4().hex}", count()

        def submit(batch: list[Any], places: list[int]) -> Future[Any]:
            return client.submit(task, batch, job, places, key=f"{name}-{next(numbers)}")

        window = Window(submit, batch_size)
        # Neither begins before it is asked for its first answer. They do not refer to this object,
        # so that dropping it ends them.
        self._answers = _answers(client, items, plugin, window)
        self._async_answers = _async_answers(client, items, plugin, window)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        return next(self._answers)  # type: ignore[no-any-return]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await anext(self._async_answers)


def _answers(
    client: Client, items: Items, plugin: SessionPlugin, window: Window[Future[Any]]
) -> Iterator[Any]:
    if client.asynchronous:
        raise InvalidRequestError("the client is asynchronous: iterate with `async for`")
    if not isinstance(items, Iterable):
        raise InvalidRequestError(
            f"an async iterable ({type(items).__name__}) needs an asynchronous client: "
            "await Client(..., asynchronous=True)"
        )
    _check_open(client)
    client.register_plugin(plugin)
    rest, ended = iter(items), False
    with window:
        while True:
            _check_open(client)
            limit = _batches(client.nthreads())
            while not ended and not window.is_full(limit):
                try:
                    window.add(next(rest))
                except StopIteration:
                    ended = True
            head = window.head()
            if head is None:
                return
            yield from map(_received, window.take(head.result()))


async def _async_answers(
    client: Client, items: Items, plugin: SessionPlugin, window: Window[Future[Any]]
) -> AsyncIterator[Any]:
    if not client.asynchronous:
        raise InvalidRequestError(
            "the client is not asynchronous: iterate with `for`, or give one that is: "
            "await Client(..., asynchronous=True)"
        )
    _check_open(client)
    await client.register_plugin(plugin)
    with window:
        async with aclosing(_async(items)) as rest:
            ended = False
            while True:
                _check_open(client)
                limit = _batches(await client.nthreads())
                while not ended and not window.is_full(limit):
                    try:
                        window.add(await anext(rest))
                    except StopAsyncIteration:
                        ended = True
                head = window.head()
                if head is None:
                    return
                for answer in window.take(await head.result()):
                    yield _received(answer)


def _check_open(client: Client) -> None:
    if client.status in ("closing", "closed"):
        raise InvalidRequestError(
            "the client is closed: keep it open until the last answer is taken, as they are"
            " computed meanwhile"
        )


def _received(answer: Any) -> Any:
    if isinstance(answer, np.ndarray):  # equal texts share one
        answer.flags.writeable = False
    return answer


def _batches(threads: dict[str, int]) -> int:
    return max(_LEAST_BATCHES, _BATCHES_PER_THREAD * sum(threads.values()))


async def _async(items: Items) -> Any:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
