"""The calls that generate text, which sessions, namespaces and prefixes share; and streams."""

from __future__ import annotations

import hashlib
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Hashable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack, overload

import attrs

from asteady._base.errors import InvalidRequestError, SessionError
from asteady._base.files import AnyPath
from asteady._base.forms import Form, form_of
from asteady._base.options import GenerateOptions, TypedOptions, check_options, shows_options_of
from asteady._base.public import public
from asteady._base.requests import (
    KINDS,
    Chunk,
    Completion,
    DeclaredPrefix,
    EmbedMode,
    EmbedRequest,
    GenerateRequest,
    Key,
    Kind,
    StreamEvent,
    TextChunk,
    TypedCompletion,
    characters_of,
    may_be_large,
)
from asteady._base.tasks import run_aside
from asteady._base.validation import check_list, one_of, refuse, whole_number
from asteady._session.observe import Outcome
from asteady._session.pipeline import CacheMode, Call, CallContext, Joined

if TYPE_CHECKING:
    from asteady._engine.api import Tokenizer

T = TypeVar("T")
M = TypeVar("M", bound=Enum)
C = TypeVar("C", bound=str | Enum)

_UNCACHED_OPTIONS = frozenset(TypedOptions.__annotations__) | {"model"}
_OPTIONS = _UNCACHED_OPTIONS | {"cache"}


@public
class Stream:
    """The chunks of one completion's text, in order; from `Session.stream`.

    ::

        async with session.stream("Tell me a story") as stream:
            async for chunk in stream:
                print(chunk, end="")
        print(stream.answer.finish_reason)

    Opening it starts the computation or joins the one in progress: chunks that are already there
    are replayed, and a remembered answer is replayed with its original chunk boundaries. Leaving
    the block, or being cancelled, stops the reading; the computation stops too when nobody else
    waits for it. A slow reader delays nobody.

    Reasoning is skipped; `events` gives it too. `generate` and `complete` calls for the same
    request share the computation.
    """

    def __init__(self, start: Callable[[], Awaitable[Joined[Completion]]]) -> None:
        self._start = start
        self._joined: Joined[Completion] | None = None
        self._answer: Completion | None = None
        self._error: BaseException | None = None
        self._index = 0

    async def __aenter__(self) -> Stream:
        if self._joined is not None:
            raise SessionError("this stream is already open; ask the session for another one")
        self._joined = await self._start()
        self._index = 0
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Stop reading, as leaving the block does. Idempotent."""
        joined, self._joined = self._joined, None
        if joined is not None:
            joined.leave(self._error)

    def __aiter__(self) -> Stream:
        self._open()
        return self

    async def __anext__(self) -> str:
        """The next chunk, never empty; waits for it.

        Raises:
            Exception: whatever `Session.complete` would have raised, after the chunks before it.
        """
        while True:
            chunk = await self._next()
            if isinstance(chunk, str):
                return chunk
            if isinstance(chunk, TextChunk):
                return chunk.text

    def events(self) -> AsyncIterator[StreamEvent]:
        """The chunks as records, in order, those of reasoning too; instead of iterating::

            async for event in stream.events():
                match event:
                    case asteady.ReasoningChunk(text):
                        ...
                    case asteady.TextChunk(text):
                        print(text, end="")

        It reads on where the stream was read last, waits and raises as iterating does. Later
        versions have more kinds of events: ignore those that you do not know.

        Raises:
            SessionError: the stream is not open.
        """
        self._open()
        return _Events(self._next)

    async def _next(self) -> Chunk:
        joined = self._open()
        if self._index >= len(joined.chunks):
            try:
                if not await joined.wait_chunk(self._index):
                    self._answer = joined.result()
            except BaseException as exc:
                self._error = exc
                raise
            if self._answer is not None:
                raise StopAsyncIteration
        self._index += 1
        return joined.chunks[self._index - 1]

    @property
    def ready(self) -> int:
        """The number of chunks, of reasoning too, that can be read without waiting."""
        return len(self._open().chunks) - self._index

    @property
    def key(self) -> Key:
        """The key of the answer in the cache."""
        return self._open().key

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model that the stream was opened with."""
        return self._open().fingerprint

    @property
    def outcome(self) -> Outcome:
        """Where the answer comes from: "memory", "disk", "shared", "computed", or "coalesced" if
        another call had begun to compute it. An answer on disk or in the shared tier is known as
        such from the first chunk on."""
        return self._open().outcome

    @property
    def answer(self) -> Completion:
        """The whole completion, once the iteration has ended.

        Raises:
            SessionError: the iteration has not ended yet.
        """
        if self._answer is None:
            raise SessionError("the answer is there once the stream has been read to its end")
        return self._answer

    async def read(self) -> Completion:
        """Read to the end, and return the whole completion."""
        joined = self._open()
        try:
            while await joined.wait_chunk(self._index):
                self._index = len(joined.chunks)
            self._answer = joined.result()
        except BaseException as exc:
            self._error = exc
            raise
        return self.answer

    def _open(self) -> Joined[Completion]:
        if self._joined is None:
            raise SessionError("open the stream first: async with session.stream(...) as stream")
        return self._joined


class _Events:
    """An iterator over a stream's chunks, as records."""

    def __init__(self, next_chunk: Callable[[], Awaitable[Chunk]]) -> None:
        self._next = next_chunk

    def __aiter__(self) -> _Events:
        return self

    async def __anext__(self) -> StreamEvent:
        chunk = await self._next()
        return TextChunk(chunk) if isinstance(chunk, str) else chunk


@public
class TypedStream(Stream, Generic[T]):
    """A `Stream` of an answer with a `schema` or `choices`."""

    def __init__(
        self, start: Callable[[], Awaitable[Joined[Completion]]], parse: Callable[[str], T]
    ) -> None:
        super().__init__(start)
        self._parse = parse
        self._typed: TypedCompletion[T] | None = None

    async def __aenter__(self) -> TypedStream[T]:
        await super().__aenter__()
        return self

    @property
    def answer(self) -> TypedCompletion[T]:
        """The whole completion with its value, once the iteration has ended.

        Raises:
            SessionError: the iteration has not ended yet.
        """
        if self._typed is None:
            answer = super().answer
            self._typed = TypedCompletion.of(answer, self._parse(answer.text))
        return self._typed

    async def read(self) -> TypedCompletion[T]:
        """Read to the end, and return the whole completion."""
        await super().read()
        return self.answer


def _split(options: dict[str, Any]) -> tuple[Form[Any] | None, Any]:
    """The form that `schema` or `choices` give, if one is there; and the options of the request."""
    if "schema" not in options and "choices" not in options:
        return None, options
    rest = options.copy()
    schema, choices = rest.pop("schema", None), rest.pop("choices", None)
    if schema is None and choices is None:
        return None, rest
    form = form_of(schema, choices)
    rest.update(form.options)
    return form, rest


def _typed(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the alias of an answer with a `schema` or `choices` is made of.

    `generate` looks its raw arguments up, and returns the text of what it finds, which a schema as
    JSON must not find: it has a name that no arguments have.
    """
    return {**options, "": True}


def make_stream(
    context_of_it: Callable[[], Awaitable[CallContext]],
    prompt: str | None,
    model: AnyPath | None,
    cache: CacheMode,
    options: dict[str, Any],
) -> Stream:
    """The stream for these arguments; the context is asked for when it is opened."""
    form, formed = _split(options)

    async def start() -> Joined[Completion]:
        context = await context_of_it()
        call = await generation_call(context, "stream", prompt, model, cache, formed)
        return await context.generation.join(call)

    return Stream(start) if form is None else TypedStream(start, form.parse)


async def generation_call(
    context: CallContext,
    name: str,
    prompt: str | None,
    model: AnyPath | None,
    cache: CacheMode,
    options: GenerateOptions,
) -> Call:
    """Validate the arguments of the method `name` and put them into a record.

    Raises:
        SessionError: the session is not open.
        InvalidRequestError: an argument is not allowed.
    """
    context.tasks.check_open()
    check_options(name, options, _OPTIONS)

    def validate() -> GenerateRequest:
        request = context.request({"prompt": prompt, **options})
        return request if context.prefix is None else context.prefix.before(request)

    alias: Hashable = None
    if may_be_large(prompt, options=options.values()):
        # Digesting it takes longer than an alias saves, and memory would hold all of it.
        request = await run_aside(validate)
    else:
        request = validate()
        with suppress(ValueError):  # a valid option of a type that cannot be serialised
            typed = "schema" in options or "choices" in options
            alias = context.alias(prompt, model, _typed(options) if typed else options)
    return Call(
        request=context.isolated(request),
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
        self._recall = context.cache.generation.recaller(
            context.alias_of, context.observers, context.namespace
        )

    @overload
    async def generate(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        **options: Unpack[GenerateOptions],
    ) -> str: ...

    @overload
    async def generate(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        schema: type[T],
        **options: Unpack[GenerateOptions],
    ) -> T: ...

    @overload
    async def generate(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        schema: object,
        **options: Unpack[GenerateOptions],
    ) -> Any: ...

    @overload
    async def generate(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        choices: type[M],
        **options: Unpack[GenerateOptions],
    ) -> M: ...

    @overload
    async def generate(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        choices: Sequence[C],
        **options: Unpack[GenerateOptions],
    ) -> C: ...

    @overload
    async def generate(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        choices: object,
        **options: Unpack[GenerateOptions],
    ) -> Any: ...

    @shows_options_of(GenerateRequest.of)
    async def generate(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        **options: Any,
    ) -> Any:
        """Generate text from a prompt, or from ``messages=[{"role": ..., "content": ...}]``.

        The same request gets the same text, byte for byte. Equal requests at the same time are
        computed once; a request that was answered before is answered from the cache.

        Args:
            prompt: what the user says; it goes through the model's chat template if it has one.
            model: a reference, see docs/models.md; default: the session's.
            cache: "use" the cache; "refresh" computes and stores anew; "bypass" neither reads nor
                writes it, and does not share a computation; "only" never computes.
            schema: a type, or a JSON schema: the answer is a value of that type, or what JSON has.
            choices: texts, or an Enum: the answer is one of them.
            options: seed=42, max_new_tokens=512, temperature=0.0, stop=None and the others of
                `GenerateOptions`.

        Returns the text, or with `schema` or `choices` the value, a new one for each call.

        Cancelling stops waiting; the computation stops too when nobody else waits for it.

        Raises:
            InvalidRequestError: an argument is not allowed.
            IncompleteAnswerError: `max_new_tokens` cut it before its form was complete.
            pydantic.ValidationError: it breaks a rule of the type that no schema can say. It is
                cached all the same.
            PromptTooLongError: the prompt has more tokens than the model's context.
            CacheMissError: ``cache="only"``, and the answer is not in the cache.
            QueueFullError: `max_pending` requests are already waiting for a worker.
            ModelError: the model is unavailable or cannot do this.
            SessionError: the session is not open, or was closed meanwhile.
        """
        if cache == "use":
            try:  # `suppress` would cost a warm hit a third more
                answer = self._recall(prompt, model, options)
                if answer is not None:
                    return answer.text
            except (TypeError, ValueError):  # no alias; the arguments are validated below
                pass
        form, formed = _split(options)
        if form is not None:
            answer = await self._complete("generate", prompt, model, cache, formed, typed=True)
            return form.parse(answer.text)
        call = await generation_call(self._context, "generate", prompt, model, cache, formed)
        return (await self._context.generation.answer(call)).text

    @overload
    async def complete(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        **options: Unpack[GenerateOptions],
    ) -> Completion: ...

    @overload
    async def complete(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        schema: type[T],
        **options: Unpack[GenerateOptions],
    ) -> TypedCompletion[T]: ...

    @overload
    async def complete(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        schema: object,
        **options: Unpack[GenerateOptions],
    ) -> TypedCompletion[Any]: ...

    @overload
    async def complete(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        choices: type[M],
        **options: Unpack[GenerateOptions],
    ) -> TypedCompletion[M]: ...

    @overload
    async def complete(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        choices: Sequence[C],
        **options: Unpack[GenerateOptions],
    ) -> TypedCompletion[C]: ...

    @overload
    async def complete(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        choices: object,
        **options: Unpack[GenerateOptions],
    ) -> TypedCompletion[Any]: ...

    @shows_options_of(GenerateRequest.of)
    async def complete(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        **options: Any,
    ) -> Any:
        """As `generate`, with the whole record: text, reasoning, finish reason, logprobs.

        With `schema` or `choices` a `TypedCompletion`, which has the `value` too.
        """
        form, options = _split(options)
        if form is None:
            return await self._complete("complete", prompt, model, cache, options)
        answer = await self._complete("complete", prompt, model, cache, options, typed=True)
        return TypedCompletion.of(answer, form.parse(answer.text))

    async def _complete(
        self,
        name: str,
        prompt: str | None,
        model: AnyPath | None,
        cache: CacheMode,
        options: Any,
        *,
        typed: bool = False,
    ) -> Completion:
        if cache == "use":
            try:
                answer = self._recall(prompt, model, _typed(options) if typed else options)
                if answer is not None:
                    return answer
            except (TypeError, ValueError):
                pass
        call = await generation_call(self._context, name, prompt, model, cache, options)
        return await self._context.generation.answer(call)

    @overload
    def stream(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        **options: Unpack[GenerateOptions],
    ) -> Stream: ...

    @overload
    def stream(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        schema: type[T],
        **options: Unpack[GenerateOptions],
    ) -> TypedStream[T]: ...

    @overload
    def stream(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        schema: object,
        **options: Unpack[GenerateOptions],
    ) -> TypedStream[Any]: ...

    @overload
    def stream(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        choices: type[M],
        **options: Unpack[GenerateOptions],
    ) -> TypedStream[M]: ...

    @overload
    def stream(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        choices: Sequence[C],
        **options: Unpack[GenerateOptions],
    ) -> TypedStream[C]: ...

    @overload
    def stream(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        choices: object,
        **options: Unpack[GenerateOptions],
    ) -> TypedStream[Any]: ...

    @shows_options_of(GenerateRequest.of)
    def stream(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        **options: Any,
    ) -> Any:
        """As `generate`, in chunks as they are computed; see `Stream`.

        With `schema` or `choices` a `TypedStream`, whose `answer` has the `value`. A schema of
        which no form can be made is refused at once; other errors are raised when the stream is
        opened or read.
        """

        async def context() -> CallContext:
            return self._context

        return make_stream(context, prompt, model, cache, options)

    @shows_options_of(GenerateRequest.of)
    async def is_cached(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        **options: Unpack[TypedOptions],
    ) -> bool:
        """Whether `generate` with these arguments would be answered from the cache.

        Exact; computes nothing, and leaves frecency and statistics alone.
        """
        check_options("is_cached", options, _UNCACHED_OPTIONS)
        call = await generation_call(self._context, "is_cached", prompt, model, "use", options)
        return await self._context.generation.contains(call)

    @overload
    async def count_tokens(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        kind: Kind = "generation",
        mode: EmbedMode | None = None,
        **options: Unpack[TypedOptions],
    ) -> int: ...

    @overload
    async def count_tokens(
        self,
        prompt: list[str] | tuple[str, ...],
        *,
        model: AnyPath | None = None,
        kind: Kind = "generation",
        mode: EmbedMode | None = None,
        **options: Unpack[TypedOptions],
    ) -> list[int]: ...

    @shows_options_of(GenerateRequest.of)
    async def count_tokens(
        self,
        prompt: str | list[str] | tuple[str, ...] | None = None,
        *,
        model: AnyPath | None = None,
        kind: Kind = "generation",
        mode: EmbedMode | None = None,
        **options: Unpack[TypedOptions],
    ) -> int | list[int]:
        """How many tokens `generate` with these arguments would have in its prompt.

        That is `Completion.prompt_tokens`, with the chat template's tokens; all options of
        `generate` are accepted, and those that do not change the prompt are ignored. For a list of
        texts, a list of their numbers. With ``kind="embedding"`` it counts a text, or texts, for
        the embedding model, before any truncation, with its instruction for a `mode` as in `embed`.
        Computes nothing and needs no weights: of a model that is not loaded, only the vocabulary
        is.

        Cancelling stops waiting.

        Raises:
            InvalidRequestError: an argument is not allowed.
            ModelError: the model is unavailable or cannot do this.
            SessionError: the session is not open, or was closed meanwhile.
        """
        several = isinstance(prompt, list | tuple)
        texts: Any = prompt if several else [prompt]
        found = [
            await ask_tokens(
                self._context, "count_tokens", text, model, kind, mode, options, _count
            )
            for text in texts
        ]
        return found if several else found[0]

    @shows_options_of(GenerateRequest.of)
    async def tokenize(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        kind: Kind = "generation",
        mode: EmbedMode | None = None,
        **options: Unpack[TypedOptions],
    ) -> list[tuple[int, bytes]]:
        """The tokens that `count_tokens` counts: the id and the bytes of each.

        The ids are those of `logit_bias`. Special tokens have the bytes of their text. Raises as
        `count_tokens` does.
        """
        return await ask_tokens(
            self._context, "tokenize", prompt, model, kind, mode, options, _pieces
        )

    async def detokenize(
        self,
        tokens: Iterable[int],
        *,
        model: AnyPath | None = None,
        kind: Kind = "generation",
    ) -> str:
        """The text of tokens, whose ids are as `tokenize` gives them.

        Special tokens have their text. Bytes that are no UTF-8, as of a token that is a part of a
        character, become U+FFFD. Needs the vocabulary only, as `count_tokens` does.

        Cancelling stops waiting.

        Raises:
            InvalidRequestError: `tokens` is no list of ids that the model has.
            ModelError, SessionError: as in `count_tokens`.
        """
        one_of("kind", kind, KINDS)
        check_list("tokens", tokens, "the ids of tokens")
        ids = [whole_number(f"tokens[{index}]", token, 0) for index, token in enumerate(tokens)]
        context = self._context
        context.tasks.check_open()
        reference = context.model(kind, model)
        return await context.models.ask_tokenizer(kind, reference, partial(_text_of, ids), len(ids))


def _text_of(tokens: list[int], tokenizer: Tokenizer) -> str:
    return b"".join(map(tokenizer.piece, tokens)).decode("utf-8", "replace")


def _count(tokenizer: Tokenizer, tokens: list[int]) -> int:
    return len(tokens)


def _pieces(tokenizer: Tokenizer, tokens: list[int]) -> list[tuple[int, bytes]]:
    return [(token, tokenizer.piece(token)) for token in tokens]


async def ask_tokens(
    context: CallContext,
    name: str,
    prompt: Any,
    model: AnyPath | None,
    kind: Kind,
    mode: EmbedMode | None,
    options: GenerateOptions,
    make: Callable[[Tokenizer, list[int]], T],
) -> T:
    """What `make` finds in the tokens of a prompt or text, as `count_tokens` has its arguments."""
    one_of("kind", kind, KINDS)
    request: GenerateRequest | EmbedRequest
    if kind == "embedding":
        context.tasks.check_open()
        if options:
            raise InvalidRequestError(
                f'{name}(kind="embedding") takes a text and a mode, and no {", ".join(options)}'
            )
        validate = partial(EmbedRequest.of, prompt, mode=mode)
        request = await run_aside(validate) if may_be_large(prompt) else validate()
        reference = context.model(kind, model)
    else:
        if mode is not None:
            raise refuse("mode", mode, 'it is for kind="embedding"')
        check_options(name, options, _UNCACHED_OPTIONS)
        call = await generation_call(context, name, prompt, model, "bypass", options)
        assert isinstance(call.request, GenerateRequest)
        request, reference = call.request, call.model

    def ask(tokenizer: Tokenizer) -> T:
        return make(tokenizer, tokenizer.tokenize(request))

    return await context.models.ask_tokenizer(kind, reference, ask, characters_of(request))


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
        # Not the text, which the memory tier would count with each alias.
        digest = hashlib.sha256(text.encode()).hexdigest()

        context = context_of(calls)
        alias_of = context.alias_of

        def prefixed_alias_of(
            subject: object, model: AnyPath | None, options: Mapping[str, Any]
        ) -> Hashable:
            return digest, alias_of(subject, model, options)

        super().__init__(attrs.evolve(context, prefix=prefix, alias_of=prefixed_alias_of))
        self.text = text
        self._calls = calls

    def __repr__(self) -> str:
        return f"<Prefix of {len(self.text)} characters, of {self._calls!r}>"
