"""Many texts at once: in order, in bounded memory, and without holding up the event loop."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

import anyio.lowlevel

from asteady._base.concurrency import map_concurrently
from asteady._base.errors import InvalidRequestError

if TYPE_CHECKING:
    from asteady._base.requests import EmbedOptions, Vector
    from asteady._session.pipeline import CacheMode
    from asteady._session.session import Asking

Progress: TypeAlias = Callable[[int], object]
"""Called with the number of texts done so far, every 64 texts and at the end."""

# How many texts are under way at once: enough to keep every worker busy.
_WINDOW = 64
_PROGRESS_EVERY = 64
# Remembered texts take about a microsecond each; after so many, other tasks have their turn.
_TURN = 256


class BulkEmbedder:
    """Embeds sequences of texts, one after the other, counting on; lives for one call."""

    def __init__(
        self,
        session: Asking,
        model: str | None,
        cache: CacheMode,
        options: EmbedOptions,
        progress: Progress | None,
    ) -> None:
        self._session = session
        self._model = model
        self._cache: CacheMode = cache
        self._options = options
        self._progress = progress
        self._done = 0
        # The rest of the alias that `Session.embedding` gives its answers.
        self._alias = (model, *options, *options.values(), *map(type, options.values()))

    async def embed(self, texts: Sequence[str]) -> Vector:
        """A read-only matrix with a row for each text; at least one text."""
        import numpy as np

        first = self._done
        matrix: Vector | None = None

        def put(index: int, vector: Vector) -> None:
            nonlocal matrix
            if matrix is None:
                matrix = np.empty((len(texts), *vector.shape), np.float32)
            # Row by row: stacking thousands of vectors in the end would hold up the loop.
            matrix[index] = vector
            self._done += 1
            if self._progress is not None and self._done % _PROGRESS_EVERY == 0:
                self._progress(self._done)

        missing: list[int] = []
        for index, text in enumerate(texts):
            vector = self._remembered(text)
            if vector is None:
                missing.append(index)
            else:
                put(index, vector)
            if index % _TURN == _TURN - 1:
                await anyio.lowlevel.checkpoint()

        async def compute(index: int) -> None:
            answer = await self._session.embedding(
                texts[index], model=self._model, cache=self._cache, **self._options
            )
            put(index, answer.vector)

        await map_concurrently(
            compute, missing, limit=_WINDOW, label=lambda index: f"text[{first + index}]"
        )
        assert matrix is not None
        matrix.flags.writeable = False
        return matrix

    def _remembered(self, text: str) -> Vector | None:
        if self._cache != "use" or self._session._observers.active:
            return None
        try:
            answer = self._session._recall_embedding((text, *self._alias))
        except TypeError:  # something that no option allows; it is refused where it is looked at
            return None
        return None if answer is None else answer.vector

    def finish(self) -> None:
        """Report the last texts, unless they have been."""
        if self._progress is not None and self._done % _PROGRESS_EVERY:
            self._progress(self._done)


async def embed_all(embedder: BulkEmbedder, texts: Iterable[str]) -> Vector:
    """All texts as one matrix."""
    if isinstance(texts, bytes | Mapping) or not isinstance(texts, Iterable):
        raise InvalidRequestError(f"text={texts!r} is not allowed: a str, or a sequence of them")
    every = list(texts)
    if not every:
        raise InvalidRequestError("text=[] is not allowed: at least one text is needed")
    matrix = await embedder.embed(every)
    embedder.finish()
    return matrix


def check_batches(texts: object, batch_size: object) -> None:
    """Refuse what `Session.embed_batches` cannot iterate over."""
    if isinstance(texts, str) or not isinstance(texts, Iterable | AsyncIterable):
        raise InvalidRequestError(
            f"texts={texts!r} is not allowed: an iterable or async iterable of str"
        )
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InvalidRequestError(f"batch_size={batch_size!r} is not allowed: 1 or more")


async def embed_batches(
    embedder: BulkEmbedder, texts: Iterable[str] | AsyncIterable[str], batch_size: int
) -> AsyncIterator[Vector]:
    """A matrix for each batch. Nothing is under way while the caller has one in hand."""
    async with aclosing(_batches(texts, batch_size)) as batches:
        async for batch in batches:
            yield await embedder.embed(batch)
    embedder.finish()


async def _batches(
    texts: Iterable[str] | AsyncIterable[str], size: int
) -> AsyncGenerator[list[str], None]:
    if isinstance(texts, AsyncIterable):
        batch: list[str] = []
        async for text in texts:
            batch.append(text)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch
        return
    iterator = iter(texts)
    while batch := list(islice(iterator, size)):
        yield batch
