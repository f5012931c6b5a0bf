"""The session: what it is asked for."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack, overload

from asteady._answering import CacheMode, Joined
from asteady._bulk import BulkEmbedder, Progress, check_batches, embed_all, embed_batches
from asteady._core import Core, SessionStatistics
from asteady._engines import Kind
from asteady._errors import InvalidRequestError, SettingsError
from asteady._lifetime import State
from asteady._observe import Observer
from asteady._requests import (
    Completion,
    Embedding,
    EmbedOptions,
    EmbedRequest,
    GenerateOptions,
    GenerateRequest,
    check_options,
)
from asteady._settings import Settings
from asteady._stream import Stream

if TYPE_CHECKING:
    from asteady._requests import Vector
    from asteady.cache._unopened import Opener
    from asteady.engine._protocol import Engine
    from asteady.operate._verify import VerifyOptions, VerifyReport
    from asteady.operate._warm import WarmOptions, WarmReport
    from asteady.operate._warm_jobs import WarmSource

_GENERATE_OPTIONS = frozenset(GenerateOptions.__annotations__) | {"model", "cache"}
_EMBED_OPTIONS = frozenset(EmbedOptions.__annotations__) | {"model", "cache"}


class Session:
    """Generates and embeds; owns the models, the workers, the flights and the cache.

    Open it with ``async with``, or with `open` and `aclose`, also from two different tasks (an
    ASGI lifespan, a fixture). It belongs to the event loop that opened it, and opens only once.
    Models are loaded when they are first needed, or by `load`.

    Args:
        settings: all settings; without it they come from the arguments, then from the
            ``ASTEADY_*`` variables, then from the defaults.
        engine: serves every request in place of llama.cpp, for tests.
        arguments: single settings, named as the fields of `Settings`.

    Raises:
        SettingsError: a setting is not allowed.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        engine: Engine | None = None,
        _opener: Opener | None = None,
        **arguments: Any,
    ) -> None:
        if settings is not None and arguments:
            raise SettingsError(
                f"give either settings=... or {', '.join(arguments)}, not both; "
                "attrs.evolve(settings, ...) changes single ones"
            )
        self.settings = settings or Settings.from_environment(**arguments)
        self._core = Core(self.settings, engine, _opener)
        self.cache = self._core.cache
        # A session that is opened on demand is closed with its loop, and nobody is warned of it.
        self._closes_with_loop = _opener is not None
        self._observers = self._core.observers
        # Bound once: the way of a warm hit is paid in tens of nanoseconds.
        self._recall_completion = self.cache.generation.recall
        self._recall_embedding = self.cache.embedding.recall

    # -- lifetime ------------------------------------------------------------------------------

    async def open(self) -> Session:
        """Open the cache and be ready for requests. Loads no model yet.

        Raises:
            SessionError: the session was opened before.
            StoreError: the cache's directory or database cannot be used.
        """
        await self._core.open()
        return self

    async def aclose(self) -> None:
        """Stop taking requests, end the flights, join the workers, flush and close the cache.

        Callers that still wait get `SessionClosedError`. Each step has a time limit. Closing
        twice is allowed. Cancelling does not cut it short.
        """
        await self._core.aclose()

    def abandon(self) -> None:
        """For a session whose loop is closed: nothing can be awaited there any more.

        Its threads are daemons, and end with the process.
        """
        self._core.tasks.stop_soon()

    @property
    def is_open(self) -> bool:
        return self._core.state is State.OPEN

    @property
    def is_closed(self) -> bool:
        return self._core.state is State.CLOSED

    async def __aenter__(self) -> Session:
        return await self.open()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        core: Core | None = getattr(self, "_core", None)
        if core is not None and core.tasks.left_open and not self._closes_with_loop:
            core.tasks.stop_soon()
            warnings.warn(
                f"{self!r} was never closed; use `async with`, or await aclose()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def __repr__(self) -> str:
        now = self._core.statistics()
        models = ", ".join(now.pools) or "no model loaded"
        return f"<Session {now.state}: {now.flights} flights, {models}>"

    async def load(self, *kinds: Kind) -> None:
        """Load the models now rather than at the first request; both, or those of `kinds`.

        Raises:
            ModelError: a model cannot be had.
        """
        self._core.check_open()
        for kind in kinds or ("generation", "embedding"):
            if kind not in ("generation", "embedding"):
                raise InvalidRequestError(f'{kind!r} is not allowed: "generation" or "embedding"')
            await self._core.engines.pool(kind, self._core.model(kind, None))

    def statistics(self) -> SessionStatistics:
        """What the session is doing now; see `cache` for the statistics of the caches."""
        return self._core.statistics()

    def observe(
        self, observer: Observer, *, everywhere: bool = False
    ) -> AbstractContextManager[None]:
        """Have `observer` called with an `Observed` for each call that ends within the block.

        By default it sees the calls made in this context: in this task, and in tasks that are
        started within the block. With ``everywhere=True`` it sees all calls of the session. It is
        called on the event loop, so it should be quick. While anybody observes, a warm hit takes
        some microseconds more.
        """
        return self._core.observers.observe(observer, everywhere=everywhere)

    # -- generation ----------------------------------------------------------------------------

    async def generate(
        self,
        prompt: str | None = None,
        *,
        model: str | None = None,
        cache: CacheMode = "use",
        **options: Unpack[GenerateOptions],
    ) -> str:
        """Generate text from a prompt, or from ``messages=[{"role": ..., "content": ...}]``.

        The same request gets the same text, byte for byte. Equal requests at the same time are
        computed once; a request that was answered before is answered from the cache.

        Args:
            prompt: what the user says; it goes through the model's chat template if it has one.
            model: a reference, see docs/models.md; default: the session's.
            cache: "use" the cache; "refresh" computes and stores anew; "bypass" neither reads nor
                writes it, and does not share a computation; "only" never computes.
            options: seed=42, max_new_tokens=512, temperature=0.0, stop=None and the others of
                `GenerateOptions`.

        Cancelling stops waiting; the computation stops too when nobody else waits for it.

        Raises:
            InvalidRequestError: an argument is not allowed.
            PromptTooLongError: the prompt has more tokens than the model's context.
            CacheMissError: ``cache="only"``, and the answer is not in the cache.
            QueueFullError: `max_pending` requests are already waiting for a worker.
            ModelError: the model cannot be had or cannot do this.
            SessionError: the session is not open, or was closed meanwhile.
        """
        if cache == "use" and not self._observers.active:
            # Types are part of the alias: 1, 1.0 and True are equal as numbers.
            alias = (prompt, model, *options, *options.values(), *map(type, options.values()))
            try:
                answer = self._recall_completion(alias)
                if answer is not None:
                    return answer.text
            except TypeError:  # a list among the options: not hashable, so not an alias
                return (await self._complete(prompt, model, cache, options, None)).text
            return (await self._complete(prompt, model, cache, options, alias)).text
        return (await self._complete(prompt, model, cache, options, None)).text

    async def complete(
        self,
        prompt: str | None = None,
        *,
        model: str | None = None,
        cache: CacheMode = "use",
        **options: Unpack[GenerateOptions],
    ) -> Completion:
        """As `generate`, with the whole record: text, chunks, finish reason, counts, logprobs."""
        return await self._complete(prompt, model, cache, options, None)

    def stream(
        self,
        prompt: str | None = None,
        *,
        model: str | None = None,
        cache: CacheMode = "use",
        **options: Unpack[GenerateOptions],
    ) -> Stream:
        """As `generate`, in chunks as they are computed; see `Stream`.

        Errors are raised when the stream is opened or read.
        """

        return Stream(lambda: self._join(prompt, model, cache, options))

    async def is_cached(
        self,
        prompt: str | None = None,
        *,
        model: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> bool:
        """Whether `generate` with these arguments would be answered from the cache.

        Exact; computes nothing, and leaves frecency and statistics alone.
        """
        request = self._generate_request("is_cached", prompt, options)
        return await self._core.generation.contains(
            request, model=self._core.model("generation", model)
        )

    async def warm(self, prompts: WarmSource, **options: Unpack[WarmOptions]) -> WarmReport:
        """Compute and remember answers before anybody asks: ``warm(prompts, seeds=[42])``.

        One failure loses nothing else: it is in the report. See docs/operate/warming.md.
        """
        from asteady.operate._warm import warm

        return await warm(self, prompts, **options)

    async def verify(self, **options: Unpack[VerifyOptions]) -> VerifyReport:
        """Answer the same requests alone and in all kinds of company, and compare every byte.

        Stops at the first difference; see `VerifyOptions`, and docs/determinism.md.
        """
        from asteady.operate._verify import verify

        return await verify(self, **options)

    # -- embedding -----------------------------------------------------------------------------

    @overload
    async def embed(
        self,
        text: str,
        *,
        model: str | None = None,
        cache: CacheMode = "use",
        **options: Unpack[EmbedOptions],
    ) -> Vector: ...

    @overload
    async def embed(
        self,
        text: Sequence[str],
        *,
        model: str | None = None,
        cache: CacheMode = "use",
        progress: Progress | None = None,
        **options: Unpack[EmbedOptions],
    ) -> Vector: ...

    async def embed(
        self,
        text: str | Sequence[str],
        *,
        model: str | None = None,
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
        return await embed_all(BulkEmbedder(self, model, cache, options, progress), text)

    def embed_batches(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        *,
        batch_size: int = 1024,
        progress: Progress | None = None,
        model: str | None = None,
        cache: CacheMode = "use",
        **options: Unpack[EmbedOptions],
    ) -> AsyncIterator[Vector]:
        """Embed any number of texts in bounded memory.

        An async iterator of matrices as `embed` returns them, in the order of the texts, with
        `batch_size` rows each, the last perhaps with fewer. No more texts are taken from `texts`
        than the batch needs; `progress` is called with the number done so far. Raises as `embed`
        does; the error's note has the text's index.
        """
        check_batches(texts, batch_size)
        return embed_batches(BulkEmbedder(self, model, cache, options, progress), texts, batch_size)

    async def embedding(
        self,
        text: str,
        *,
        model: str | None = None,
        cache: CacheMode = "use",
        **options: Unpack[EmbedOptions],
    ) -> Embedding:
        """As `embed` of one text, with the whole record: vector, token count, model, cost."""
        alias: tuple[object, ...] | None = None
        if cache == "use" and not self._observers.active:
            alias = (text, model, *options, *options.values(), *map(type, options.values()))
            try:
                answer = self._recall_embedding(alias)
            except TypeError:  # something that no option allows; it is refused below
                alias = None
            else:
                if answer is not None:
                    return answer
        self._core.check_open()
        check_options("embed", options, _EMBED_OPTIONS)
        return await self._core.embedding.answer(
            EmbedRequest.of(text, **options),
            model=self._core.model("embedding", model),
            mode=cache,
            alias=alias,
        )

    # -- within --------------------------------------------------------------------------------

    async def _join(
        self, prompt: str | None, model: str | None, cache: CacheMode, options: GenerateOptions
    ) -> Joined[Completion]:
        return await self._core.generation.join(
            self._generate_request("stream", prompt, options),
            model=self._core.model("generation", model),
            mode=cache,
        )

    def _generate_request(
        self, call: str, prompt: str | None, options: GenerateOptions
    ) -> GenerateRequest:
        self._core.check_open()
        check_options(call, options, _GENERATE_OPTIONS)
        return GenerateRequest.of(prompt, **options)

    async def _complete(
        self,
        prompt: str | None,
        model: str | None,
        cache: CacheMode,
        options: GenerateOptions,
        alias: tuple[object, ...] | None,
    ) -> Completion:
        return await self._core.generation.answer(
            self._generate_request("generate", prompt, options),
            model=self._core.model("generation", model),
            mode=cache,
            alias=alias,
        )
