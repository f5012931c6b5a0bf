"""Which texts or prompts are on their way to answers, and in which batches; no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, Self, TypeVar

import attrs

from asteady.operate.dask._tasks import key_of

F = TypeVar("F")

# A batch ends earlier if its texts are long: Dask sends it in one message.
_BATCH_CHARACTERS = 2**20


@attrs.define(eq=False)
class _Place:
    """A distinct item that is waited for, as often as it is in the queue."""

    key: Hashable
    batch: _Batch[Any]
    waiting: int = 0
    answer: Any = None


@attrs.define(eq=False)
class _Batch(Generic[F]):
    items: list[Any] = attrs.field(factory=list)
    numbers: list[int] = attrs.field(factory=list)
    """Those of the items, counted from the first of all."""
    places: list[_Place] = attrs.field(factory=list)
    characters: int = 0
    future: F | None = None
    answered: bool = False


class Window(Generic[F]):
    """Puts items into batches, each distinct item once, and gives the answers in their order.

    `submit` begins to compute a batch, given its items and their numbers. An item is known as a
    repeated one for as long as an equal one waits here; later its answer is in the workers' caches.
    """

    def __init__(self, submit: Callable[[list[Any], list[int]], F], batch_size: int) -> None:
        self._submit = submit
        self._batch_size = batch_size
        self._filling: _Batch[F] = _Batch()
        self._in_flight: set[_Batch[F]] = set()
        self._queue: deque[_Place] = deque()
        self._places: dict[Hashable, _Place] = {}
        self._added = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Let go of the batches that nobody waits for any more."""
        # They refer to their places and back, so they would stay for a while.
        for batch in self._in_flight:
            batch.future = None
        self._in_flight.clear()

    def is_full(self, batches: int) -> bool:
        """Whether as many batches are being computed, or as many items wait as they could have."""
        return len(self._in_flight) >= batches or len(self._queue) >= batches * self._batch_size

    def add(self, item: Any) -> None:
        """Put an item at the end."""
        key = key_of(item)
        place = self._places.get(key)
        if place is None:
            batch = self._filling
            place = self._places[key] = _Place(key, batch)
            batch.items.append(item)
            batch.numbers.append(self._added)
            batch.places.append(place)
            batch.characters += len(item) if isinstance(item, str) else len(repr(item))
            if len(batch.items) >= self._batch_size or batch.characters >= _BATCH_CHARACTERS:
                self._flush()
        place.waiting += 1
        self._queue.append(place)
        self._added += 1

    def head(self) -> F | None:
        """The batch that has the first item; None if there is none."""
        if not self._queue:
            return None
        batch = self._queue[0].batch
        if batch is self._filling:
            self._flush()
        return batch.future

    def take(self, answers: Sequence[Any]) -> list[Any]:
        """The answers that are known in order from the first on, given those of `head`."""
        batch = self._queue[0].batch
        for place, answer in zip(batch.places, answers, strict=True):
            place.answer = answer
        batch.answered = True
        self._in_flight.remove(batch)
        batch.places.clear()
        batch.future = None  # its answers need not be kept on the cluster
        known = []
        while self._queue and self._queue[0].batch.answered:
            place = self._queue.popleft()
            place.waiting -= 1
            if not place.waiting:
                del self._places[place.key]
            known.append(place.answer)
        return known

    def _flush(self) -> None:
        batch, self._filling = self._filling, _Batch()
        batch.future = self._submit(batch.items, batch.numbers)
        batch.items, batch.numbers = [], []
        self._in_flight.add(batch)
