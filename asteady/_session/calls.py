"""Generating text: the calls that a session, its namespaces and its prefixes have in common."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Unpack

from asteady._base.declared import DeclaredPrefix
from asteady._base.requests import (
    Completion,
    GenerateOptions,
    GenerateRequest,
    check_options,
)
from asteady._session.pipeline import CacheMode, Joined
from asteady._session.stream import Stream

if TYPE_CHECKING:
    from asteady._session.core import Core
    from asteady._session.observe import Observers
    from asteady._session.pipeline import Answering

_GENERATE_OPTIONS = frozenset(GenerateOptions.__annotations__) | {"model", "cache"}


class Generating(ABC):
    """What can be asked of a generation model; see `Session`."""

    _core: Core
    _observers: Observers
    _generation: Answering[Completion]
    _recall_completion: Callable[[Hashable], Completion | None]
    _declared: DeclaredPrefix | None = None

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
        return await self._generation.contains(request, model=self._core.model("generation", model))

    # -- within --------------------------------------------------------------------------------

    async def _join(
        self, prompt: str | None, model: str | None, cache: CacheMode, options: GenerateOptions
    ) -> Joined[Completion]:
        return await self._generation.join(
            self._generate_request("stream", prompt, options),
            model=self._core.model("generation", model),
            mode=cache,
            prefix=self._declared,
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
        alias: Hashable,
    ) -> Completion:
        return await self._generation.answer(
            self._generate_request("generate", prompt, options),
            model=self._core.model("generation", model),
            mode=cache,
            alias=alias,
            prefix=self._declared,
        )
