"""Requests and answers: frozen records, validated once, and the keys that name them.

Nothing here does I/O, or reads a clock for anything but ``date="today"``. A request is *canonical*:
two ways to say the same thing (``stop="x"`` and ``stop=["x"]``, ``temperature=0`` and ``0.0``)
become equal records, and equal records, with the same fingerprint, have equal keys.
"""

from __future__ import annotations

import codecs
import datetime
import hashlib
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    SupportsFloat,
    SupportsIndex,
    TypeAlias,
    TypeVar,
)

import attrs

from asteady._base import validation
from asteady._base.constraints import Constraint, constraint_of, form_version
from asteady._base.errors import InvalidRequestError, PromptTooLongError
from asteady._base.messages import AnyMessage, Message, ToolCall, is_continued, messages_of
from asteady._base.public import public
from asteady._base.records import JsonForm, Record
from asteady._base.rendering import DEFAULT_DATE, date_of, resolved, template_options
from asteady._base.tools import DEFAULT_CHOICE, AnyTool, tool_choice_of, tools_of
from asteady._base.validation import SLICE, refuse, whole_number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector: TypeAlias = NDArray[np.float32]
else:

    def _vector(numbers: list[float]) -> Any:
        # Importing numpy takes a tenth of a second, which programs that only generate do without.
        import numpy as np

        vector = np.array(numbers, np.float32)
        vector.flags.writeable = False
        return vector

    Vector = Annotated[Any, JsonForm(list[float], _vector)]

T = TypeVar("T")

Kind: TypeAlias = Literal["generation", "embedding"]
KINDS: tuple[Kind, ...] = ("generation", "embedding")

Key: TypeAlias = str
"""64 hexadecimal digits: the SHA-256 of a canonical request and the fingerprint of its engine."""

# What is taken as a number: those of numpy, decimal and fractions too.
IntLike: TypeAlias = int | SupportsIndex
FloatLike: TypeAlias = float | SupportsFloat
LogitBias: TypeAlias = Mapping[int, FloatLike] | Mapping[str, FloatLike]

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]
EmbedMode: TypeAlias = Literal["query", "document"]

# llama.cpp reads the largest 32-bit number as "choose a seed at random".
MAX_SEED = 2**32 - 2
MAX_LOGPROBS = 100
# An answer looks for each of them at each of its characters.
MAX_STOPS = 100
MAX_STOP_CHARACTERS = 1000
# SteadyText's name for the end of text that the model itself gives.
OWN_END = "[EOS]"
# A path is stored with each entry that its namespace holds, and printed in tables.
MAX_NAMESPACE = 200
# It is validated and digested on the event loop: 20 ms.
MAX_PREFIX_CHARACTERS = 2**22
DEFAULT_SEED = 42
DEFAULT_MAX_NEW_TOKENS = 512
# To validate or digest so much takes a few milliseconds; more is not done on the event loop.
LARGE_CHARACTERS = 2**18
# What an entry of a list or a mapping takes is as much as that of so many characters of a text.
_ENTRY_CHARACTERS = 64

# Written into every key. Raise it when the meaning of a field changes.
_KEY_VERSION = 1


def _or(value: object, default: object) -> object:
    return default if value is None else value


def _stops(value: object, eos_string: object) -> tuple[str, ...]:
    more = validation.text("eos_string", eos_string)
    if not more:
        raise refuse("eos_string", more, f"at least one character, or {OWN_END!r} for none")
    if value is None:
        value = ()
    elif isinstance(value, str):
        value = (value,)
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise refuse("stop", value, "a str, or a sequence of them")
    # Which of two stop strings comes first in the list cannot change an answer.
    stops = sorted({validation.text("stop", item) for item in value})
    if "" in stops:
        raise refuse("stop", "", "a stop string has at least one character")
    if more != OWN_END:
        stops = sorted({*stops, more})
    if len(stops) > MAX_STOPS:
        raise InvalidRequestError(
            f"{len(stops)} stop strings are not allowed: give at most {MAX_STOPS}"
        )
    for stop in stops:
        if len(stop) > MAX_STOP_CHARACTERS:
            raise refuse(
                "stop",
                stop,
                f"it has {len(stop)} characters, and a stop string has at most "
                f"{MAX_STOP_CHARACTERS}",
            )
    return tuple(stops)


def _biases(value: object) -> tuple[tuple[int, float], ...]:
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise refuse("logit_bias", value, "a mapping from token id to a number from -100 to 100")
    biases: dict[int, float] = {}
    for token, bias in value.items():
        # The keys of JSON are texts.
        if isinstance(token, str) and re.fullmatch("[0-9]{1,10}", token):
            token = int(token)
        number = whole_number("logit_bias token", token, 0, 2**31 - 1)
        if number in biases:
            raise refuse("logit_bias", value, f"token {number} is there twice")
        biases[number] = validation.number(f"logit_bias[{number}]", bias, -100, 100)
    return tuple(sorted(biases.items()))


def namespace_path(value: object) -> str:
    """The path of a namespace, if it is one: names with single slashes between them.

    Raises:
        InvalidRequestError: it is not.
    """
    path = validation.text("namespace", value)
    names = path.split("/")
    if (
        len(path) > MAX_NAMESPACE
        or not path.isprintable()
        or not all(name and name == name.strip() for name in names)
    ):
        raise refuse(
            "namespace",
            value,
            'names with single slashes between them, as in "emails/marketing": none of them empty,'
            f" printable, without spaces at their ends, {MAX_NAMESPACE} characters in all",
        )
    return path


def is_below(namespace: str, path: str) -> bool:
    """Whether `namespace` is `path` or below it, by whole names: "emails-old" is not "emails"."""
    return namespace == path or namespace.startswith(path + "/")


def _later(default: Any) -> Any:
    """A field added since keys were first made: it is in a key only where it is not its default,
    so that the other requests keep their keys."""
    return attrs.field(default=default, metadata={"later": True})


# ruff: noqa: RUF009  # _later is attrs.field
@public
@attrs.frozen(kw_only=True)
class GenerateRequest:
    """A validated, canonical request to a generation model.

    Build one with `of`, which takes the arguments of `Session.generate`. `isolation` is the path of
    the isolated namespace that it is made in: part of its key, so that its answer is shared with no
    request from elsewhere. `date` is an ISO date; the values of
    `chat_template_kwargs`, by name, and `tools` are JSON texts; there are none with the choice
    "none".
    """

    prompt: str | None
    messages: tuple[Message, ...]
    raw: bool
    seed: int
    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: tuple[tuple[int, float], ...]
    stop: tuple[str, ...]
    logprobs: int | None
    isolation: str | None = None
    chat_template_kwargs: tuple[tuple[str, str], ...] = _later(())
    date: str = _later(DEFAULT_DATE)
    tools: tuple[str, ...] = _later(())
    constraint: Constraint | None = _later(None)
    tool_choice: str = _later(DEFAULT_CHOICE)

    @classmethod
    def of(
        cls,
        prompt: str | None = None,
        *,
        messages: Sequence[AnyMessage] | None = None,
        raw: bool | None = False,
        seed: IntLike | None = DEFAULT_SEED,
        max_new_tokens: IntLike | None = DEFAULT_MAX_NEW_TOKENS,
        temperature: FloatLike | None = 0.0,
        top_k: IntLike | None = 0,
        top_p: FloatLike | None = 1.0,
        min_p: FloatLike | None = 0.0,
        typical_p: FloatLike | None = 1.0,
        repeat_penalty: FloatLike | None = 1.0,
        presence_penalty: FloatLike | None = 0.0,
        frequency_penalty: FloatLike | None = 0.0,
        logit_bias: LogitBias | None = None,
        stop: str | Sequence[str] | None = None,
        eos_string: str | None = OWN_END,
        logprobs: IntLike | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        date: str | datetime.date | None = None,
        schema: Any = None,
        choices: Any = None,
        regex: str | None = None,
        grammar: str | None = None,
        tools: Iterable[AnyTool] | None = None,
        tool_choice: str | Mapping[str, Any] | None = DEFAULT_CHOICE,
    ) -> GenerateRequest:
        """Validate the arguments of `Session.generate` and put them into canonical form.

        None stands for the default of each.

        Raises:
            InvalidRequestError: an argument has the wrong type or lies outside its range.
        """
        if (prompt is None) == (messages is None):
            raise InvalidRequestError(
                "give either a prompt or messages=[...]: "
                + ("neither was given" if prompt is None else "both were given")
            )
        if isinstance(prompt, list | tuple | Mapping):
            raise refuse("prompt", prompt, "a str; messages are given as messages=[...]")
        if prompt is not None:
            prompt = validation.text("prompt", prompt)
            if not prompt:
                raise refuse("prompt", prompt, "it must have at least one character")
        if messages is not None and raw:
            raise refuse("raw", raw, "messages need the model's chat template; raw skips it")
        variables = template_options(chat_template_kwargs)
        if variables and raw:
            raise refuse("raw", raw, "chat_template_kwargs are for the template that raw skips")
        day = resolved(date_of("date", _or(date, DEFAULT_DATE)))
        stops = _stops(stop, _or(eos_string, OWN_END))
        constraint = constraint_of(schema=schema, choices=choices, regex=regex, grammar=grammar)
        if constraint is not None and stops:
            raise refuse(
                "stop",
                stops[0],
                "an answer with a schema, choices, a regex or a grammar ends where its form ends",
            )
        definitions = tools_of(tools)
        choice = tool_choice_of(tool_choice, definitions)
        if choice == "none":  # as if there were none
            definitions, choice = (), DEFAULT_CHOICE
        if definitions:
            if raw:
                raise refuse("raw", raw, "tools are written by the chat template that raw skips")
            if constraint is not None:
                raise InvalidRequestError(
                    "an answer that may call tools has no schema, choices, regex or grammar: leave "
                    'one of them out, or give tool_choice="none"'
                )
            if choice != DEFAULT_CHOICE and stops:
                raise refuse("stop", stops[0], f"with tool_choice={choice!r} there is no text")
        return cls(
            prompt=prompt,
            messages=() if messages is None else messages_of(messages),
            raw=validation.flag("raw", _or(raw, False)),
            seed=whole_number("seed", _or(seed, DEFAULT_SEED), 0, MAX_SEED),
            max_new_tokens=whole_number(
                "max_new_tokens", _or(max_new_tokens, DEFAULT_MAX_NEW_TOKENS), 1, 2**31 - 1
            ),
            temperature=validation.number("temperature", _or(temperature, 0.0), 0, 100),
            top_k=whole_number("top_k", _or(top_k, 0), 0, 2**31 - 1),
            top_p=validation.number("top_p", _or(top_p, 1.0), 0, 1),
            min_p=validation.number("min_p", _or(min_p, 0.0), 0, 1),
            typical_p=validation.number("typical_p", _or(typical_p, 1.0), 0, 1),
            repeat_penalty=validation.number("repeat_penalty", _or(repeat_penalty, 1.0), 0.01, 10),
            presence_penalty=validation.number(
                "presence_penalty", _or(presence_penalty, 0.0), -10, 10
            ),
            frequency_penalty=validation.number(
                "frequency_penalty", _or(frequency_penalty, 0.0), -10, 10
            ),
            logit_bias=_biases(logit_bias),
            stop=stops,
            logprobs=None
            if logprobs is None
            else whole_number("logprobs", logprobs, 0, MAX_LOGPROBS),
            chat_template_kwargs=variables,
            # Nothing of a raw prompt depends on it.
            date=DEFAULT_DATE if raw else day,
            constraint=constraint,
            tools=definitions,
            tool_choice=choice,
        )

    def conversation(self) -> tuple[Message, ...]:
        """The messages, or the prompt as the only message, of the user."""
        if self.prompt is None:
            return self.messages
        return (Message(role="user", content=self.prompt),)

    def key(self, fingerprint: str) -> Key:
        """The key of this request's answer by the engine with this fingerprint."""
        return _digest("generate", fingerprint, _key_fields(self), large=is_large(self))


@public
@attrs.frozen(kw_only=True)
class EmbedRequest:
    """A validated, canonical request to an embedding model. Build one with `of`.

    `isolation` is as in `GenerateRequest`.
    """

    text: str
    truncate: bool
    dimensions: int | None
    mode: EmbedMode | None
    isolation: str | None = None

    @classmethod
    def of(
        cls,
        text: str,
        *,
        truncate: bool | None = False,
        dimensions: IntLike | None = None,
        mode: EmbedMode | None = None,
    ) -> EmbedRequest:
        """Validate the arguments of `Session.embed` for one text.

        Raises:
            InvalidRequestError: an argument has the wrong type or lies outside its range.
        """
        if mode is not None and (not isinstance(mode, str) or mode not in ("query", "document")):
            raise refuse("mode", mode, '"query", "document" or None')
        return cls(
            text=validation.text("text", text),
            truncate=validation.flag("truncate", _or(truncate, False)),
            dimensions=None
            if dimensions is None
            else whole_number("dimensions", dimensions, 1, 2**20),
            mode=mode,
        )

    def key(self, fingerprint: str) -> Key:
        """The key of this request's answer by the engine with this fingerprint."""
        return _digest("embed", fingerprint, _key_fields(self), large=is_large(self))


def characters_of(request: GenerateRequest | EmbedRequest) -> int:
    """How much text it has, up to four million characters; for choosing where it is handled."""
    if isinstance(request, EmbedRequest):
        return len(request.text)
    characters = sum(map(len, request.tools)) + _ENTRY_CHARACTERS * (
        len(request.logit_bias) + len(request.chat_template_kwargs)
    )
    if request.prompt is not None:
        return characters + len(request.prompt)
    for message in request.messages:
        # What a template puts around it counts too.
        characters += _ENTRY_CHARACTERS + len(message.role) + sum(map(len, message.texts()))
        if characters >= 2**22:
            break
    return characters


def may_be_large(text: object, messages: object = None, options: Iterable[object] = ()) -> bool:
    """As `is_large`, of arguments that are not validated yet."""
    characters = 0
    waiting = [text, messages, *options]
    while waiting and characters <= LARGE_CHARACTERS:
        value = waiting.pop()
        if isinstance(value, str):
            characters += len(value)
        elif isinstance(value, (list, tuple)):
            characters += _ENTRY_CHARACTERS * len(value)
            waiting += value
        elif isinstance(value, dict):
            characters += _ENTRY_CHARACTERS * len(value)
            waiting += value.values()
        elif isinstance(value, Message):
            waiting += value.texts()
        else:  # a message of another library, perhaps
            content = getattr(value, "content", None)
            characters += len(content) if isinstance(content, str) else 0
    return characters > LARGE_CHARACTERS


def is_large(request: GenerateRequest | EmbedRequest) -> bool:
    """Whether validating or digesting it on the event loop would hold up other tasks."""
    return characters_of(request) > LARGE_CHARACTERS


def _key_fields(request: GenerateRequest | EmbedRequest) -> tuple[Any, ...]:
    first, later = [], []
    for field in attrs.fields(type(request)):
        value = getattr(request, field.name)
        if field.name == "messages":
            first.append(tuple(message.key() for message in value))
            if is_continued(value):
                later.append(("continued", True))
        elif "later" not in field.metadata:
            first.append(value)
        elif value != field.default:
            if field.name == "constraint":
                value = value.key()
            elif field.name == "tools":  # the library decides which tokens a call may have
                value = (*value, *form_version())
            later.append((field.name, value))
    return (*first, *later)


def _digest(kind: str, fingerprint: str, fields: tuple[Any, ...], *, large: bool) -> Key:
    # repr of nested tuples of str, int, float, bool and None reads back as an equal value of equal
    # types, so no two different requests have the same one, whatever their text contains.
    described = (_KEY_VERSION, kind, fingerprint, fields)
    if not large:
        return hashlib.sha256(repr(described).encode()).hexdigest()
    digest = hashlib.sha256()
    for part in repr_parts(described):
        digest.update(part.encode())
    return digest.hexdigest()


def repr_parts(value: object, size: int = SLICE) -> Iterator[str]:
    """`repr` of nested tuples of plain values, in parts of bounded size: during one call no other
    thread runs."""
    if type(value) is tuple:
        yield "("
        for index, item in enumerate(value):
            if index:
                yield ", "
            yield from repr_parts(item, size)
        yield ",)" if len(value) == 1 else ")"
    elif type(value) is str and len(value) > size:
        quote = '"' if "'" in value and '"' not in value else "'"
        # The other quotation mark in front of a slice makes repr choose the same one.
        other = "'" if quote == '"' else '"'
        yield quote
        for start in range(0, len(value), size):
            yield repr(other + value[start : start + size])[2:-1]
        yield quote
    else:
        yield repr(value)


@attrs.frozen
class DeclaredPrefix:
    """The beginning that many prompts share: it is in no key, as it changes no answer.

    `text` is the content of a first message with the role "system", or the beginning of a raw
    prompt; None stands for the whole prompt, whatever it is.
    """

    text: str | None

    @classmethod
    def of(cls, text: object) -> DeclaredPrefix:
        """Raises:
        InvalidRequestError: it is no str, or empty, or not valid Unicode.
        PromptTooLongError: no context holds it.
        """
        if not isinstance(text, str) or not text:
            raise InvalidRequestError(
                f"prefix({text!r}) is not allowed: a str of at least one character is needed"
            )
        if len(text) > MAX_PREFIX_CHARACTERS:
            raise PromptTooLongError(
                f"a prefix of {len(text):,} characters is not allowed: it has at most "
                f"{MAX_PREFIX_CHARACTERS:,}"
            )
        return cls(validation.text("prefix", text))

    def before(self, request: GenerateRequest) -> GenerateRequest:
        """The request with the prefix before its prompt or messages."""
        if self.text is None:
            return request
        if request.raw:
            return attrs.evolve(request, prompt=self.text + (request.prompt or ""))
        system = Message(role="system", content=self.text)
        return attrs.evolve(request, prompt=None, messages=(system, *request.conversation()))


def _token(form: str | list[int]) -> bytes:
    return form.encode() if isinstance(form, str) else bytes(form)


TokenBytes: TypeAlias = Annotated[bytes, JsonForm(str | list[int], _token)]


@public
@attrs.frozen(kw_only=True)
class TokenLogprob(Record):
    """The natural logarithm of one token's probability, before temperature and the other filters.

    `top` has the most likely tokens at this position as (token id, bytes, logprob), best first.
    """

    token_id: int
    token: TokenBytes
    logprob: float
    top: tuple[tuple[int, TokenBytes, float], ...] = ()


ChunkKind: TypeAlias = Literal["text", "reasoning"]


@public
@attrs.frozen
class TextChunk:
    """A piece of the text of an answer, as it was computed; never empty.

    `logprobs`, if they were asked for, are those of the tokens that begin in it, and of tokens
    without text before it. What is left at the end of a stream is in the answer only.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@public
@attrs.frozen
class ReasoningChunk:
    """A piece of the reasoning of an answer, as it was computed; never empty."""

    text: str


StreamEvent: TypeAlias = TextChunk | ReasoningChunk | ToolCall
"""What `Stream.events` gives. Later versions have more kinds, which programs should ignore."""

Chunk: TypeAlias = str | StreamEvent
"""A `StreamEvent` on its way to its readers: text without logprobs, as nearly all are, is a plain
str."""


class ChunkLogprobs:
    """Gives each chunk of one answer's text the logprobs of its tokens.

    Which chunk a token belongs to follows from the chunks and the tokens up to there alone, so an
    answer from the cache has the same as one that is computed.
    """

    def __init__(self, *, after_reasoning: bool = False) -> None:
        """`after_reasoning`: of a text after reasoning whose tokens are not known."""
        self._after_reasoning = after_reasoning
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._begins: list[int] = []  # where in the text each token that is no reasoning begins
        self._end = 0  # of these tokens
        self._shown = 0
        self._given = 0

    def take(
        self, chunk: str, logprobs: Sequence[TokenLogprob], reasoning_tokens: int
    ) -> tuple[TokenLogprob, ...]:
        """Those of the next chunk; `logprobs` are those of all tokens so far."""
        for token in logprobs[reasoning_tokens + len(self._begins) :]:
            self._begins.append(self._end)
            text = self._decode(token.token)
            if (reasoning_tokens or self._after_reasoning) and not self._end:
                text = text.lstrip()  # white space between the two is in neither
            self._end += len(text)
        self._shown += len(chunk)
        first, self._given = self._given, bisect_left(self._begins, self._shown)
        return tuple(logprobs[reasoning_tokens + first : reasoning_tokens + self._given])


@public
@attrs.frozen(kw_only=True)
class Completion(Record):
    """The immutable answer to a `GenerateRequest`.

    ``"".join(chunks) == text``. `reasoning` is what a thinking model wrote before its text, without
    the tags around it, and None if there is none; ``"".join(reasoning_chunks)`` is the same.
    `completion_tokens` counts all tokens, of which `reasoning_tokens` were reasoning, its tags
    included, and `logprobs` are those of all of them. `cost_s` is how long computing it took, in
    seconds of one worker; `cached` says whether this caller got it from the cache. `reused_tokens`
    of the prompt were in the worker's memory from an earlier one and not computed again; it is 0
    from the cache, and of no account when two are compared. `tool_calls` are the calls of tools
    that the answer ends with, which are not in its text; `finish_reason` is "tool_calls" if there
    are any.
    """

    text: str
    chunks: tuple[str, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    logprobs: tuple[TokenLogprob, ...] | None = None
    seed: int
    model: str
    fingerprint: str
    cost_s: float
    cached: bool = False
    reused_tokens: int = attrs.field(default=0, eq=False)
    reasoning: str | None = None
    reasoning_chunks: tuple[str, ...] = ()
    reasoning_tokens: int = 0
    tool_calls: tuple[ToolCall, ...] = ()

    def __str__(self) -> str:
        return self.text

    def all_chunks(self) -> Sequence[Chunk]:
        """The chunks of reasoning and text, and the calls, in the order of their computation."""
        text: Sequence[Chunk] = self.chunks
        if self.logprobs is not None:
            take, tokens = ChunkLogprobs().take, self.reasoning_tokens
            text = [TextChunk(chunk, take(chunk, self.logprobs, tokens)) for chunk in self.chunks]
        if not self.reasoning_chunks and not self.tool_calls:
            return text
        return [*map(ReasoningChunk, self.reasoning_chunks), *text, *self.tool_calls]

    def message(self) -> dict[str, Any]:
        """The message that puts this answer into the `messages` of the next turn.

        It has the role "assistant", the text as its "content", and the reasoning, if there is any,
        as its "reasoning_content": the chat template keeps it or leaves it out. Calls of tools are
        its "tool_calls", beside which there may be no text (None).
        """
        message = Message(
            role="assistant",
            content=None if self.tool_calls and not self.text else self.text,
            tool_calls=self.tool_calls,
            reasoning_content=self.reasoning,
        )
        return message.as_dict()


def call_id(key: Key, place: int) -> str:
    """The id of a call in the answer with this key.

    Of 9 letters and digits, as some chat templates refuse others.
    """
    return hashlib.sha256(f"{key}:{place}".encode()).hexdigest()[:9]


@public
@attrs.frozen(kw_only=True)
class TypedCompletion(Completion, Generic[T]):
    """A `Completion` with the value that its text stands for, by the `schema` or `choices` of the
    call. Each call gets a value of its own."""

    value: T

    @classmethod
    def of(cls, answer: Completion, value: T) -> TypedCompletion[T]:
        fields = {field.name: getattr(answer, field.name) for field in attrs.fields(Completion)}
        return cls(**fields, value=value)


@public
@attrs.frozen(kw_only=True, eq=False)
class Embedding(Record):
    """The immutable answer to an `EmbedRequest`.

    `vector` is a read-only float32 array of shape (dimensions,) with L2 norm 1; `truncated` tells
    whether text was cut to the model's context.
    """

    vector: Vector
    tokens: int
    truncated: bool = False
    model: str
    fingerprint: str
    cost_s: float
    cached: bool = False

    def __setstate__(self, state: tuple[None, dict[str, Any]]) -> None:
        for name, value in state[1].items():
            object.__setattr__(self, name, value)
        # A copy of an array, and one that was pickled, can be written to.
        self.vector.flags.writeable = False
