"""The calls of sessions and namespaces: those that generate, and embedding and warming."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Hashable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from functools import partial
from itertools import islice
from typing import TypeAlias, Unpack

import anyio.lowlevel

from asteady._base.errors import InvalidRequestError
from asteady._base.files import AnyPath
from asteady._base.options import EmbedOptions, check_options, shows_options_of
from asteady._base.requests import Embedding, EmbedRequest, Vector, may_be_large
from asteady._base.tasks import map_concurrently, run_aside
from asteady._base.validation import refuse, whole_number
from asteady._session.generation import GenerationCalls, Prefix
from asteady._session.pipeline import CacheMode, Call, CallContext
from asteady._session.warm import WarmOptions, WarmReport, WarmSource, warm

Progress: TypeAlias = Callable[[int], object]
"""Called with the number of texts done so far, every 64 texts and at the end."""

_OPTIONS = frozenset(EmbedOptions.__annotations__) | {"model", "cache"}

# How many texts are embedded at once: enough to keep every worker busy.
_WINDOW = 64
_PROGRESS_EVERY = 64
# A remembered text takes about a microsecond; after so many, other tasks run.
_TURN = 256


async def embedding_call(
    context: CallContext,
    text: str,
    model: AnyPath | None,
    cache: CacheMode,
    options: EmbedOptions,
    alias: Hashable = None,
) -> Call:
    """Validate the arguments of `Session.embedding` and put them into a record.

    Raises:
        SessionError: the session is not open.
        InvalidRequestError: an argument is not allowed.
    """
    context.tasks.check_open()
    check_options("embed", options, _OPTIONS)
    validate = partial(EmbedRequest.of, text, **options)
    request = await run_aside(validate) if may_be_large(text) else validate()
    return Call(
        request=context.isolated(request),
        model=context.model("embedding", model),
        mode=cache,
        alias=alias,
        namespace=context.namespace,
    )


class Calls(GenerationCalls):
    """The calls of sessions and namespaces; see `Session`."""

    def __init__(self, context: CallContext) -> None:
        super().__init__(context)
        self._recall_embedding = context.cache.embedding.recaller(
            context.alias_of, context.observers, context.namespace
        )

    def prefix(self, text: str) -> Prefix:
        """The calls that generate, with this text before each prompt: ``prefix(system_prompt)``.

        It is the content of a first message with the role "system", or the beginning of raw
        prompts. The answers are those of the same messages without `prefix`, byte for byte, under
        the same keys. What workers computed of a prompt is reused in any case for prompts that
        begin alike; of a prefix it is kept, for all workers, whatever else is asked meanwhile. See
        docs/prefixes.md.

        Raises:
            InvalidRequestError: `text` is no str, or empty.
            PromptTooLongError: it has more than 4,194,304 characters, which no context holds.
        """
        return Prefix(self, text)

    @shows_options_of(warm)
    async def warm(self, prompts: WarmSource, **options: Unpack[WarmOptions]) -> WarmReport:
        """Compute and remember answers before anybody asks: ``warm(prompts, seeds=[42])``.

        One failure loses nothing else: it is in the report. See docs/operate/warming.md.

        Raises:
            InvalidRequestError: an option is not allowed, for every prompt.
            OSError: the file of prompts cannot be read.
            SessionError: the session is not open, or was closed meanwhile.
        """
        return await warm(self._context, prompts, **options)

    @shows_options_of(EmbedRequest.of)
    async def embed(
        self,
        text: str | Sequence[str],
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        progress: Progress | None = None,
        **options: Unpack[EmbedOptions],
    ) -> Vector:
        """Embed one text, or several.

        Returns a read-only float32 array: of shape (dimensions,) for a text, (number of texts,
        dimensions) for a sequence of them, each row with L2 norm 1. Each text is cached and
        coalesced on its own.

        Args:
            text: the text, or a sequence of at least one.
            model: a reference, see docs/models.md; default: the session's.
            cache: as in `generate`.
            progress: called with the number of texts done so far, now and then and at the end.
            options: truncate=False, dimensions=None, mode=None; see `EmbedOptions`.

        Cancelling stops waiting; a computation stops too when nobody else waits for it.

        Raises:
            PromptTooLongError: more tokens than the model's context, and truncate is False.
            SessionError, InvalidRequestError, CacheMissError, QueueFullError, ModelError: as in
                `generate`.
        """
        if isinstance(text, str):
            return (await self.embedding(text, model=model, cache=cache, **options)).vector
        if isinstance(text, bytes | Mapping) or not isinstance(text, Iterable):
            raise refuse("text", text, "a str, or a sequence of them")
        texts = list(text)
        if not texts:
            raise InvalidRequestError("text=[] is not allowed: at least one text is needed")
        embedder = _BulkEmbedder(self, model, cache, options, progress)
        matrix = await embedder.embed(texts)
        embedder.finish()
        return matrix

    @shows_options_of(EmbedRequest.of)
    def embed_batches(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        *,
        batch_size: int = 1024,
        progress: Progress | None = None,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        **options: Unpack[EmbedOptions],
    ) -> AsyncIterator[Vector]:
        """Embed any number of texts in bounded memory.

        An async iterator of matrices as `embed` returns them, in the order of the texts, with
        `batch_size` rows each, the last perhaps with fewer. No more texts are taken from `texts`
        than the batch needs, and nothing is computed while the caller has a batch in hand;
        `progress` is called with the number done so far. Raises as `embed` does; the error's note
        has the text's index.
        """
        if isinstance(texts, str) or not isinstance(texts, Iterable | AsyncIterable):
            raise refuse("texts", texts, "an iterable or async iterable of str")
        whole_number("batch_size", batch_size, 1)
        embedder = _BulkEmbedder(self, model, cache, options, progress)
        return embedder.embed_batches(texts, batch_size)

    @shows_options_of(EmbedRequest.of)
    async def embedding(
        self,
        text: str,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        **options: Unpack[EmbedOptions],
    ) -> Embedding:
        """As `embed` of one text, with the whole record: vector, token count, model, cost."""
        alias: Hashable = None
        if cache == "use":
            try:
                answer = self._recall_embedding(text, model, options)
                if answer is not None:
                    return answer
                if not may_be_large(text):
                    alias = self._context.alias(text, model, options)
            except (TypeError, ValueError):  # no alias: the arguments are refused below
                pass
        call = await embedding_call(self._context, text, model, cache, options, alias)
        return await self._context.embedding.answer(call)

    def _recall_vector(
        self, text: str, model: AnyPath | None, cache: CacheMode, options: EmbedOptions
    ) -> Vector | None:
        """The vector of one text, if the memory tier has it."""
        if cache != "use":
            return None
        try:
            answer = self._recall_embedding(text, model, options)
        except (TypeError, ValueError):  # no alias: refused when it is embedded
            return None
        return None if answer is None else answer.vector


class _BulkEmbedder:
    """Embeds sequences of texts, one after the other; lives for one call."""

    def __init__(
        self,
        calls: Calls,
        model: AnyPath | None,
        cache: CacheMode,
        options: EmbedOptions,
        progress: Progress | None,
    ) -> None:
        self._calls = calls
        self._model = model
        self._cache: CacheMode = cache
        self._options = options
        self._progress = progress
        self._done = 0

    async def embed(self, texts: Sequence[str]) -> Vector:
        """A read-only matrix with a row for each text; at least one text."""
        import numpy as np

        first = self._done
        matrix: Vector | None = None

        def put(index: int, vector: Vector) -> None:
            nonlocal matrix
            if matrix is None:
                matrix = np.empty((len(texts), *vector.shape), np.float32)
            # Row by row: stacking thousands of vectors in the end would block the loop.
            matrix[index] = vector
            self._done += 1
            if self._progress is not None and self._done % _PROGRESS_EVERY == 0:
                self._progress(self._done)

        missing: list[int] = []
        for index, text in enumerate(texts):
            vector = self._calls._recall_vector(text, self._model, self._cache, self._options)
            if vector is None:
                missing.append(index)
            else:
                put(index, vector)
            if index % _TURN == _TURN - 1:
                await anyio.lowlevel.checkpoint()

        async def compute(index: int) -> None:
            answer = await self._calls.embedding(
                texts[index], model=self._model, cache=self._cache, **self._options
            )
            put(index, answer.vector)

        await map_concurrently(
            compute, missing, limit=_WINDOW, label=lambda index: f"text[{first + index}]"
        )
        assert matrix is not None
        matrix.flags.writeable = False
        return matrix

    async def embed_batches(
        self, texts: Iterable[str] | AsyncIterable[str], batch_size: int
    ) -> AsyncIterator[Vector]:
        """A matrix for each batch."""
        async with aclosing(_batches(texts, batch_size)) as batches:
            async for batch in batches:
                yield await self.embed(batch)
        self.finish()

    def finish(self) -> None:
        """Report the last texts, unless they have been."""
        if self._progress is not None and self._done % _PROGRESS_EVERY:
            self._progress(self._done)


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
