"""The calls that generate text, which sessions, namespaces and prefixes share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, Unpack

import attrs

from asteady._base.options import GenerateOptions, check_options, shows_options_of
from asteady._base.public import public
from asteady._base.requests import Completion, DeclaredPrefix, GenerateRequest
from asteady._session.pipeline import CacheMode, Call, CallContext, Joined, alias_of
from asteady._session.stream import Stream

_OPTIONS = frozenset(GenerateOptions.__annotations__) | {"model", "cache"}


def generation_call(
    context: CallContext,
    name: str,
    prompt: str | None,
    model: str | None,
    cache: CacheMode,
    options: GenerateOptions,
    alias: Hashable = None,
) -> Call:
    """Validate the arguments of the method `name` and put them into a record.

    Raises:
        SessionError: the session is not open.
        InvalidRequestError: an argument is not allowed.
    """
    context.tasks.check_open()
    check_options(name, options, _OPTIONS)
    request = GenerateRequest.of(prompt, **options)
    if context.prefix is not None:
        request = context.prefix.before(request)
    return Call(
        request=request,
        model=context.model("generation", model),
        mode=cache,
        alias=alias,
        namespace=context.namespace,
        prefix=context.prefix,
    )


class GenerationCalls:
    """The calls that generate text; see `Session`."""

    def __init__(self, context: CallContext) -> None:
        self._context = context
        # Attributes of its own: a warm hit takes a microsecond, and each look-up counts.
        self._observers = context.observers
        self._alias_of: Callable[[object, str | None, Mapping[str, Any]], Hashable] = alias_of
        self._recall_completion: Callable[[Hashable], Completion | None]
        self._recall_completion = context.cache.generation.recall
        if context.namespace is not None:
            self._recall_completion = partial(
                context.cache.generation.recall, namespace=context.namespace
            )

    @shows_options_of(GenerateRequest.of)
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
            ModelError: the model is unavailable or cannot do this.
            SessionError: the session is not open, or was closed meanwhile.
        """
        alias: Hashable = None
        if cache == "use" and not self._observers.active:
            alias = self._alias_of(prompt, model, options)
            try:
                answer = self._recall_completion(alias)
                if answer is not None:
                    return answer.text
            except TypeError:  # not hashable, as a list among the options
                alias = None
        call = generation_call(self._context, "generate", prompt, model, cache, options, alias)
        return (await self._context.generation.answer(call)).text

    @shows_options_of(GenerateRequest.of)
    async def complete(
        self,
        prompt: str | None = None,
        *,
        model: str | None = None,
        cache: CacheMode = "use",
        **options: Unpack[GenerateOptions],
    ) -> Completion:
        """As `generate`, with the whole record: text, chunks, finish reason, counts, logprobs."""
        call = generation_call(self._context, "complete", prompt, model, cache, options)
        return await self._context.generation.answer(call)

    @shows_options_of(GenerateRequest.of)
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

        context = self._context

        async def start() -> Joined[Completion]:
            call = generation_call(context, "stream", prompt, model, cache, options)
            return await context.generation.join(call)

        return Stream(start)

    @shows_options_of(GenerateRequest.of)
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
        call = generation_call(self._context, "is_cached", prompt, model, "use", options)
        return await self._context.generation.contains(call)


def context_of(calls: GenerationCalls) -> CallContext:
    """What a session, namespace or prefix makes its calls with; for asteady's own packages."""
    return calls._context


@public
class Prefix(GenerationCalls):
    """The calls that generate, with a text before each prompt; from `Session.prefix`.

    ::

        chat = session.prefix(system_prompt)
        text = await chat.generate("What do I do when the queue is full?")

    It costs nothing to construct, needs no closing, and can be used as long as its session is open.
    Two with one text are the same prefix.
    """

    def __init__(self, calls: GenerationCalls, text: str) -> None:
        prefix = DeclaredPrefix.of(text)
        super().__init__(attrs.evolve(context_of(calls), prefix=prefix))
        self.text = text
        self._calls = calls
        # A digest, for the memory tier counts each alias with its text.
        self._digest = hashlib.sha256(text.encode()).hexdigest()
        self._alias_of = self._prefixed_alias

    def __repr__(self) -> str:
        return f"<Prefix of {len(self.text)} characters, of {self._calls!r}>"

    def _prefixed_alias(
        self, subject: object, model: str | None, options: Mapping[str, Any]
    ) -> Hashable:
        return self.nested(alias_of(subject, model, options))

    def nested(self, alias: Hashable) -> Hashable:
        """The alias of the same arguments under this prefix."""
        return self._digest, alias
