"""The session: what it is asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Unpack, overload

from asteady._base.requests import (
    Embedding,
    EmbedOptions,
    EmbedRequest,
    check_options,
)
from asteady._session.bulk import BulkEmbedder, Progress, check_batches, embed_all, embed_batches
from asteady._session.calls import Generating
from asteady._session.handle import SessionHandle
from asteady._session.pipeline import CacheMode

if TYPE_CHECKING:
    from asteady._base.requests import Vector
    from asteady._session.namespace import Namespace
    from asteady._session.pipeline import Answering
    from asteady._session.prefix import Prefix
    from asteady._session.warm import WarmOptions, WarmReport
    from asteady._session.warm_jobs import WarmSource
    from asteady.operate._verify import VerifyOptions, VerifyReport
    from asteady.operate._verify_cache import VerifyCacheOptions, VerifyCacheReport

_EMBED_OPTIONS = frozenset(EmbedOptions.__annotations__) | {"model", "cache"}


class Asking(Generating):
    """What a session can be asked for, also under a namespace; see `Session`."""

    _embedding: Answering[Embedding]
    _recall_embedding: Callable[[Hashable], Embedding | None]

    @abstractmethod
    def namespace(self, path: str) -> Namespace:
        """The same calls, whose entries the namespace holds: ``namespace("emails/marketing")``.

        An answer is stored once, however many namespaces hold it. `Namespace` has what can be done
        with them together: statistics, listing, preloading, and clearing. See
        docs/operate/namespaces.md.

        Raises:
            InvalidRequestError: `path` is not names with single slashes between them.
        """
        ...

    def prefix(self, text: str) -> Prefix:
        """The calls that generate, with this text before each prompt: ``prefix(system_prompt)``.

        It is the content of a first message with the role "system", or what raw prompts begin
        with. The answers are those of the same messages without `prefix`, byte for byte, and are
        shared with whoever asks so; but prompts that are computed after the first one begin with
        a copy of its state, as far as the text fills whole pieces of 512 tokens. See
        docs/prefixes.md.

        Raises:
            InvalidRequestError: `text` is no str, or empty.
        """
        from asteady._session.prefix import Prefix

        return Prefix(self, text)

    async def warm(self, prompts: WarmSource, **options: Unpack[WarmOptions]) -> WarmReport:
        """Compute and remember answers before anybody asks: ``warm(prompts, seeds=[42])``.

        One failure loses nothing else: it is in the report. See docs/operate/warming.md.
        """
        from asteady._session.warm import warm

        return await warm(self, prompts, **options)

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
        return await self._embedding.answer(
            EmbedRequest.of(text, **options),
            model=self._core.model("embedding", model),
            mode=cache,
            alias=alias,
        )


class Session(Asking, SessionHandle):
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

    def namespace(self, path: str) -> Namespace:
        from asteady._session.namespace import Namespace

        return Namespace(self, path)

    async def verify(self, **options: Unpack[VerifyOptions]) -> VerifyReport:
        """Answer the same requests alone and in all kinds of company, and compare every byte.

        Stops at the first difference; see `VerifyOptions`, and docs/determinism.md.
        """
        from asteady.operate._verify import verify

        return await verify(self, **options)

    async def verify_cache(self, **options: Unpack[VerifyCacheOptions]) -> VerifyCacheReport:
        """Compute a sample of the stored answers again, and compare every byte.

        Only entries that keep their request, see `Settings.keep_requests_bytes`, and that are of
        this model, build and CPU. The cache stays as it is; see `VerifyCacheOptions`.
        """
        from asteady.operate._verify_cache import verify_cache

        return await verify_cache(self, **options)
