"""Look-ups of the shared tier that travel together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeAlias

Found: TypeAlias = bytes | Exception | None
"""A value, the error of its look-up, or None if there is no value."""
_Batch: TypeAlias = list[tuple[str, asyncio.Future[Found]]]

# Names in one batch, so many that thousands are sent before the first answers are unpacked and
# stored, which takes longer than looking up and would use up the time limit of the others.
_BATCH = 500
# What the values of a batch may take together, if they are as large as those that were found last.
_BATCH_BYTES = 2**20


class Lookups:
    """Sends the look-ups of one turn of the event loop together, with those that come while their
    batch waits for one of the `slots`. So one alone waits for no other.

    `fetch` has what is found of some names, in their order, and `begin` makes a task of it.
    """

    def __init__(
        self,
        fetch: Callable[[Sequence[str]], Awaitable[Sequence[Found]]],
        begin: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        slots: AbstractAsyncContextManager[object],
    ) -> None:
        self._fetch = fetch
        self._begin = begin
        self._slots = slots
        # What is not sent yet, if it has room for more.
        self._batch: _Batch | None = None
        # The largest that was found last, or half of what this was.
        self._value_bytes = _BATCH_BYTES // _BATCH

    def get(self, name: str) -> asyncio.Future[Found]:
        """What is found of a name. Cancelling it concerns no other."""
        batch = self._batch
        found: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        if batch is None or len(batch) >= min(_BATCH, max(1, _BATCH_BYTES // self._value_bytes)):
            # With its first look-up: where tasks are eager, it is sent before `_begin` returns.
            batch = self._batch = [(name, found)]
            self._begin(self._send(batch)).add_done_callback(partial(self._ended, batch))
        else:
            batch.append((name, found))
        return found

    async def _send(self, batch: _Batch) -> None:
        async with self._slots:
            self._close(batch)
            wanted = [(name, found) for name, found in batch if not found.done()]
            results: Sequence[Found] = ()
            try:
                if wanted:
                    results = await self._fetch([name for name, _ in wanted])
            except Exception as exc:
                results = [exc] * len(wanted)
        sizes = [len(result) for result in results if isinstance(result, bytes)]
        self._value_bytes = max(1, self._value_bytes // 2, *sizes)
        for (_, found), result in zip(wanted, results, strict=True):
            if not found.done():
                found.set_result(result)

    def _ended(self, batch: _Batch, _: asyncio.Task[None]) -> None:
        # Something is left only if the task was cancelled.
        self._close(batch)
        for _name, found in batch:
            found.cancel()

    def _close(self, batch: _Batch) -> None:
        """No other look-up joins the batch."""
        if self._batch is batch:
            self._batch = None
